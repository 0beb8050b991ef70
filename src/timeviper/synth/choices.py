"""Questions with options: how they are put, and which option an answer chose."""

from __future__ import annotations

import re
from collections.abc import Sequence

from timeviper.synth.asking import Question

LETTERS = "ABCD"
ASK_TO_CHOOSE = "Choose one:"
# A letter counts as such in brackets, alone, at the start before a sign, or after "answer is".
_MARKED = re.compile(r"\(([A-D])\)")
_LEADING = re.compile(r"^\W*([A-D])(?:\W|$)")
_NAMED = re.compile(r"(?:answer|option|choice)(?:\s+is)?\W*\b([A-D])\b", re.IGNORECASE)


def rotated(question: Question, rotation: int) -> tuple[str, ...]:
    """The options in the order of a rotation."""
    turn = rotation % max(1, len(question.options))
    return question.options[turn:] + question.options[:turn]


def as_choices(question: Question, rotation: int) -> str:
    """The question with its options.

    Args:
        question: one with options.
        rotation: by how many places they are turned; circular scoring asks all of them.
    """
    options = rotated(question, rotation)
    marked = [f"({letter}) {text}" for letter, text in zip(LETTERS, options, strict=False)]
    words = question.question.rstrip()
    stop = "" if words.endswith(("?", ".")) else "."
    return f"{words}{stop} {ASK_TO_CHOOSE} {' '.join(marked)}"


def choice_answer(question: Question, rotation: int) -> str:
    """The exact answer to `as_choices`: the words, then the letter: "the cat (B)."."""
    letter = LETTERS[rotated(question, rotation).index(question.choice)]
    return f"{question.answer.rstrip('.')} ({letter})."


def chosen(text: str, options: Sequence[str]) -> int | None:
    """Which option an answer chose, whoever gave it.

    Args:
        text: the answer.
        options: in the order in which they were shown.

    Returns:
        Its place, by its letter if one is told, else by its words; None where neither is found.
    """
    for pattern in (_MARKED, _LEADING, _NAMED):
        found = pattern.findall(text)
        # The last one counts: a model may name others on its way.
        place = LETTERS.index(found[-1].upper()) if found else len(options)
        if place < len(options):
            return place
    plain = f" {normal(text)} "
    at = [(plain.rfind(f" {normal(o)} "), len(normal(o)), i) for i, o in enumerate(options)]
    found_at = [entry for entry in at if entry[0] >= 0]
    return max(found_at)[2] if found_at else None


def normal(text: str) -> str:
    """Words without case, articles and signs, so that wordings compare."""
    words = re.sub(r"[^a-z0-9:\- ]", " ", text.lower()).split()
    return " ".join(w for w in words if w not in ("a", "an", "the", "some"))
