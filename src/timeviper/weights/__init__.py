"""Checkpoints in and out: folders of ours, foreign layouts, and what each key means."""
