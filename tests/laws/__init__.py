"""What must hold whatever the input: equalities between ways to compute the same."""
