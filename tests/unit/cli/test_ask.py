"""Which moment an answer speaks of, and what may reach a terminal."""

from __future__ import annotations

import pytest

from timeviper.cli.ask import describe, moment_of, printable
from timeviper.inference.engine import Answer


def _answer(start: float | None = None, end: float | None = None) -> Answer:
    return Answer(text="x", start_seconds=start, end_seconds=end, frames=60, duration_seconds=60.0)


def test_an_interval_in_the_answer_comes_first() -> None:
    moment = moment_of("What is on screen at 00:30?", _answer(5, 9))
    assert moment is not None
    assert (moment.start_seconds, moment.end_seconds) == (5, 9)


def test_else_the_time_that_the_question_names() -> None:
    moment = moment_of("What is on screen at 00:30?", _answer())
    assert moment is not None
    assert (moment.start_seconds, moment.end_seconds) == (30, 31)


@pytest.mark.parametrize(
    "question", ["Does the cat appear?", "And at 05:00?", "Between 00:10 and 00:20?"]
)
def test_else_nothing(question: str) -> None:
    assert moment_of(question, _answer()) is None


def test_a_terminal_is_never_steered() -> None:
    assert "\x1b" not in printable("\x1b[31mred\x07")
    assert printable("a cat.\nüß 猫") == "a cat.\nüß 猫"


def test_the_line_below_an_answer() -> None:
    line = describe(_answer())
    assert "60 frames of 01:00" in line
    assert "decode 0.00 s" in line
