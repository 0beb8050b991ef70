"""Vision towers behind one interface."""
