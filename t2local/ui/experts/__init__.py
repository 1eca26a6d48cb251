"""The Experts tab: layout, events, view."""
