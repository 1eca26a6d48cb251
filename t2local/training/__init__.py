"""SVF reinforcement learning: the gradient of expected reward with respect to `z` alone."""
