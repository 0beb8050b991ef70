"""What the whole source promises, checked on the source itself."""
