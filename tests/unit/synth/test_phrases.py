"""The table of phrasings: the issue's form first, the right places to fill in, many ways to ask."""

from __future__ import annotations

import string

import pytest

from timeviper.synth.phrases import FILLERS, NO_VIDEO, PHRASES
from timeviper.synth.tasks import Task
from timeviper.synth.wording import names_in

CANONICAL = {
    Task.WHAT: "What appears in the video?",
    Task.WHEN: "When does {the} appear?",
    Task.AT_TIME: "What is on screen at {time}?",
    Task.FIRST: "Which appears first, {the} or {other}?",
    Task.LAST: "Which appears last, {the} or {other}?",
    Task.ORDERING: "In which order do {list} appear?",
    Task.COUNT: "How many times does {the} appear?",
    Task.MOST_FREQUENT: "What appears most often?",
    Task.ABSENT: "Does {the} appear?",
    Task.RETRIEVAL: "What is shown with {the}?",
    Task.MULTI_KEY: "What is shown with {the}?",
    Task.MULTI_VALUE: "What are all the things shown with {the}?",
    Task.READING: "Which {kind} is shown with {the}?",
    Task.CHAIN: "Start at {the} and follow the arrow {hops}. Where do you end?",
    Task.MOTION: "How does {the} move?",
    Task.CHANGE: "How does the whole picture change, and when?",
    Task.DENSE_CAPTION: "Describe everything that happens, with times.",
    Task.SUMMARY: "Summarise the video.",
}
SUBJECT = {"the", "one", "name"}
FIELDS: dict[Task, set[str]] = {
    Task.WHAT: set(),
    Task.WHEN: SUBJECT,
    Task.AT_TIME: {"time"},
    Task.FIRST: {"the", "other"},
    Task.LAST: {"the", "other"},
    Task.ORDERING: {"list"},
    Task.COUNT: {"the"},
    Task.MOST_FREQUENT: set(),
    Task.ABSENT: {"the", "one"},
    Task.RETRIEVAL: {"the"},
    Task.MULTI_KEY: {"the"},
    Task.MULTI_VALUE: {"the"},
    Task.READING: {"kind", "the"},
    Task.CHAIN: {"the", "hops"},
    Task.MOTION: {"the"},
    Task.CHANGE: set(),
    Task.DENSE_CAPTION: set(),
    Task.SUMMARY: set(),
}


def fields(phrase: str) -> set[str]:
    return {field for _, field, _, _ in string.Formatter().parse(phrase) if field}


def test_every_task_has_phrases_and_no_other() -> None:
    assert set(PHRASES) == {task.value for task in Task}


@pytest.mark.parametrize("task", list(Task))
def test_the_canonical_form_comes_first(task: Task) -> None:
    assert PHRASES[task][0] == CANONICAL[task]


@pytest.mark.parametrize("task", list(Task))
def test_at_least_four_different_ways(task: Task) -> None:
    assert len(set(PHRASES[task])) == len(PHRASES[task]) >= 4


@pytest.mark.parametrize("task", list(Task))
def test_places_to_fill_in_are_those_of_the_task(task: Task) -> None:
    for phrase in PHRASES[task]:
        if FIELDS[task] == SUBJECT or task is Task.ABSENT:
            assert len(fields(phrase)) == 1, phrase
            assert fields(phrase) <= FIELDS[task], phrase
        else:
            assert fields(phrase) == FIELDS[task], phrase


def test_no_phrase_belongs_to_two_tasks() -> None:
    # A number on one card or on many is asked for in the same words.
    assert PHRASES[Task.RETRIEVAL] == PHRASES[Task.MULTI_KEY]
    every = [phrase for task in Task if task is not Task.MULTI_KEY for phrase in PHRASES[task]]
    assert len(set(every)) == len(every)


def test_phrases_name_nothing_by_themselves() -> None:
    for phrases in PHRASES.values():
        for phrase in phrases:
            blanks = dict.fromkeys(("the", "one", "name", "other", "list", "kind", "hops"), "")
            assert names_in(phrase.format(time="12:34", **blanks)) == [], phrase


def test_fillers_are_plain_words() -> None:
    assert all("{" not in words for words in FILLERS)
    assert NO_VIDEO == "there is no video."
