"""The Chat tab: layout, events, view, the wheel at its right, and an answer from asking to saving."""
