"""Ours against transformers, from the same weights."""
