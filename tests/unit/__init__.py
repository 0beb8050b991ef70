"""Mirror of `src/timeviper`: one file of tests for each file."""
