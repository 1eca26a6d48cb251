"""Pass 1 decides, pass 2 answers: dispatchers, and the two-pass loop (paper, section 3.2)."""
