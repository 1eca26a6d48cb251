"""The Evaluate tab: layout, events, view."""
