"""The Models tab: layout, events, view."""
