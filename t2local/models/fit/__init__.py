"""What fits: a model's parts from its configuration, their memory, and the automatic choice."""
