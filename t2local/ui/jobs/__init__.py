"""The Jobs tab: layout and events."""
