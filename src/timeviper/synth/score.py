"""Whether an answer is right: exact words, or overlap in time where a moment was asked for."""

from __future__ import annotations

from timeviper.synth.questions import Question, Task

# Overlap over union that counts as having found the moment.
MIN_IOU = 0.5


def right(question: Question, text: str, start: float | None, end: float | None) -> bool:
    """Whether an answer to a question is right.

    Args:
        question: with its exact answer.
        text: the answer given.
        start: begin of the interval read from it, seconds, or None.
        end: end of that interval.

    Returns:
        For `when` with a moment: overlap over union of at least `MIN_IOU`; otherwise the same
        words, whatever their case and closing dot.
    """
    if question.task is Task.WHEN and question.start_seconds is not None:
        if start is None or end is None or question.end_seconds is None:
            return False
        return iou((start, end), (question.start_seconds, question.end_seconds)) >= MIN_IOU
    return _plain(text) == _plain(question.answer)


def iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Intersection over union of two intervals in seconds; 0 for disjoint or empty ones."""
    shared = min(a[1], b[1]) - max(a[0], b[0])
    if shared <= 0:
        return 0.0
    return shared / (max(a[1], b[1]) - min(a[0], b[0]))


def _plain(text: str) -> str:
    return " ".join(text.lower().replace(".", " ").split())
