"""Measuring answers: tasks, scores and the intervals around them."""
