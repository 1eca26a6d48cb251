"""The Train tab: layout, events, view."""
