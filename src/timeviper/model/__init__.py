"""The decoder for hybrid and dense stacks, its state, TransV, towers and projectors."""
