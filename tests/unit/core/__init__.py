"""Values, errors and policies."""
