"""Weights kept in the bits they came in, by groups of 16 or 32 numbers, and run from those."""
