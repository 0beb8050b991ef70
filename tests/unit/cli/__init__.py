"""The command line's own arithmetic and words."""
