"""Decoding: batches, streams, sampling, scoring, and the faster steps of CPU and GPU."""
