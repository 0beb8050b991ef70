"""Frames and the times at which they are shown: files, folders, sampling, clips."""
