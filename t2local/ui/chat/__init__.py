"""The Chat tab: layout, events, view, the wheel at its right, an answer from asking to saving."""
