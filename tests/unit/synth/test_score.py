"""Scoring: exact words, or at least half overlap in time."""

from __future__ import annotations

import pytest

from timeviper.synth.questions import Question, Task
from timeviper.synth.score import MIN_IOU, iou, right


def question(task: Task, answer: str, span: tuple[float, float] | None = None) -> Question:
    start, end = span or (None, None)
    return Question(
        task=task,
        question="?",
        answer=answer,
        options=(answer, "no."),
        start_seconds=start,
        end_seconds=end,
    )


@pytest.mark.parametrize("text", ["a fire engine.", "A fire engine", " a  fire engine. "])
def test_case_dots_and_spaces_do_not_matter(text: str) -> None:
    assert right(question(Task.AT_TIME, "a fire engine."), text, None, None)


@pytest.mark.parametrize("text", ["", "a fire", "a cat.", "a fire engine and a cat."])
def test_other_words_are_wrong(text: str) -> None:
    assert not right(question(Task.AT_TIME, "a fire engine."), text, None, None)


@pytest.mark.parametrize(
    ("got", "want"),
    [((10, 20), True), ((10, 15), True), ((11, 21), True), ((10, 14.9), False), ((30, 40), False)],
)
def test_when_needs_half_the_overlap(got: tuple[float, float], want: bool) -> None:
    asked = question(Task.WHEN, "from 00:10 to 00:20.", (10.0, 20.0))
    assert right(asked, "whatever it says", *got) is want


def test_when_without_an_interval_is_wrong() -> None:
    asked = question(Task.WHEN, "from 00:10 to 00:20.", (10.0, 20.0))
    assert not right(asked, "from 00:10 to 00:20.", None, None)
    assert not right(asked, "from 00:10", 10.0, None)


def test_when_of_an_absent_thing_is_its_words() -> None:
    asked = question(Task.WHEN, "the cat does not appear.")
    assert right(asked, "The cat does not appear", None, None)
    assert not right(asked, "from 00:10 to 00:20.", 10.0, 20.0)


def test_a_span_does_not_save_wrong_words_of_other_tasks() -> None:
    asked = question(Task.ABSENT, "yes.", (10.0, 20.0))
    assert not right(asked, "no.", 10.0, 20.0)
    assert right(asked, "Yes", None, None)


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [
        ((0, 10), (0, 10), 1.0),
        ((0, 10), (5, 15), 1 / 3),
        ((0, 10), (10, 20), 0.0),
        ((5, 5), (0, 10), 0.0),
        ((8, 2), (0, 10), 0.0),
    ],
)
def test_iou(a: tuple[float, float], b: tuple[float, float], want: float) -> None:
    assert iou(a, b) == pytest.approx(want)
    assert iou(b, a) == pytest.approx(want)


def test_the_bar_is_the_issues() -> None:
    assert MIN_IOU == 0.5
