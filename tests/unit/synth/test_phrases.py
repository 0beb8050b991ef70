"""The table of phrasings: the issue's form first, the right places to fill in, many ways to ask."""

from __future__ import annotations

import string

import pytest

from timeviper.synth.phrases import FILLERS, PHRASES
from timeviper.synth.questions import Task

CANONICAL = {
    Task.WHAT: "What appears in the video?",
    Task.WHEN: "When does the {name} appear?",
    Task.AT_TIME: "What is on screen at {time}?",
    Task.FIRST: "Which appears first, the {name} or the {other}?",
    Task.COUNT: "How many times does the {name} appear?",
    Task.ABSENT: "Does the {name} appear?",
}
FIELDS = {
    Task.WHAT: set(),
    Task.WHEN: {"name"},
    Task.AT_TIME: {"time"},
    Task.FIRST: {"name", "other"},
    Task.COUNT: {"name"},
    Task.ABSENT: {"name"},
}


def test_every_task_has_phrases_and_no_other() -> None:
    assert set(PHRASES) == {task.value for task in Task}


@pytest.mark.parametrize("task", list(Task))
def test_the_canonical_form_comes_first(task: Task) -> None:
    assert PHRASES[task][0] == CANONICAL[task]


@pytest.mark.parametrize("task", list(Task))
def test_at_least_six_different_ways(task: Task) -> None:
    assert len(set(PHRASES[task])) == len(PHRASES[task]) >= 6


@pytest.mark.parametrize("task", list(Task))
def test_places_to_fill_in_are_those_of_the_task(task: Task) -> None:
    for phrase in PHRASES[task]:
        fields = {field for _, field, _, _ in string.Formatter().parse(phrase) if field}
        assert fields == FIELDS[task], phrase


def test_no_phrase_belongs_to_two_tasks() -> None:
    every = [phrase for task in Task for phrase in PHRASES[task]]
    assert len(set(every)) == len(every)


def test_fillers_are_plain_words() -> None:
    assert all("{" not in words for words in FILLERS)
