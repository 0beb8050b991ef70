"""Tensor mathematics: scan, convolution, attention, norms, merging. Knows no model."""
