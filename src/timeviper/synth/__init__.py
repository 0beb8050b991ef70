"""Drawn worlds with known answers: objects, scenes, real video files, questions."""
