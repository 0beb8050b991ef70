"""What can be asked of a drawn world, by name."""

from __future__ import annotations

from enum import StrEnum


class Task(StrEnum):
    """A kind of question."""

    WHAT = "what"
    WHEN = "when"
    AT_TIME = "at_time"
    FIRST = "first"
    LAST = "last"
    ORDERING = "ordering"
    COUNT = "count"
    MOST_FREQUENT = "most_frequent"
    ABSENT = "absent"
    RETRIEVAL = "retrieval"
    MULTI_KEY = "multi_key"
    MULTI_VALUE = "multi_value"
    READING = "reading"
    CHAIN = "chain"
    MOTION = "motion"
    CHANGE = "change"
    DENSE_CAPTION = "dense_caption"
    SUMMARY = "summary"


# Answers of these are lists or texts, which no four options stand for.
OPEN = frozenset({Task.WHAT, Task.MULTI_VALUE, Task.DENSE_CAPTION, Task.SUMMARY})


def chance(task: Task) -> float:
    """Share of right answers by picking among the options without seeing anything."""
    if task in OPEN:
        return 0.0
    # Yes or no, or one of the two that the question names.
    return 0.5 if task in (Task.ABSENT, Task.FIRST, Task.LAST) else 0.25
