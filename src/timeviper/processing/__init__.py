"""From messages and frames to model inputs, and from answers back to times."""
