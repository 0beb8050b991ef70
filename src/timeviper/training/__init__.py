"""Learning: data, loss, optimizer, checkpoints that resume."""
