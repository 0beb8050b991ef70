"""The test suite; `tests.tolerances` is its one table of tolerances."""
