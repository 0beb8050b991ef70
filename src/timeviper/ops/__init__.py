"""Tensor mathematics on packed sequences: scan, convolution, attention, norms, merging."""
