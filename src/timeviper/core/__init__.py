"""Values, errors and policies that every room shares; imports nothing of ours."""
