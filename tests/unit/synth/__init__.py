"""Tests of the drawn worlds."""
