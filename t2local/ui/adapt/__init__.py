"""The Adapt tab: layout and events."""
