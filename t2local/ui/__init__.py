"""The page. Callbacks read inputs, make one engine call and present what came; nothing else."""
