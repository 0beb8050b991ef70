"""Questions with options: how they are put, and which option an answer chose."""

from __future__ import annotations

import re
from collections.abc import Sequence

from timeviper.synth.asking import Question

LETTERS = "ABCD"
ASK_TO_CHOOSE = "Choose one:"
# A letter counts as such in brackets, at the start, or after "answer", "it is" and the like. An A
# before another word is an article: "A cat."
_LETTER = r"(?:([B-D])\b|(A)\b(?!\s+\w))"
_MARKED = re.compile(r"[(\[]([A-D])[)\]]()")
_LEADING = re.compile(rf"^\W*{_LETTER}(?![-'\u2019])")
_NAMED = re.compile(
    rf"\b(?i:answer|option|choice|letter|is|choose|chose|pick|select|say|think)\b\W*{_LETTER}"
)


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
        found = ["".join(letters) for letters in pattern.findall(text)]
        # The last one counts: a model may name others on its way.
        place = LETTERS.index(found[-1]) if found else len(options)
        if place < len(options):
            return place
    plain = f" {normal(text)} "
    ends: list[tuple[int, int, int]] = []
    for number, option in enumerate(options):
        words = f" {normal(option)} "
        begin = plain.rfind(words)
        if words in (" yes ", " no ") and not (plain.startswith(words) or plain.endswith(words)):
            # "There is no video" does not say no: these two stand at one end of an answer.
            begin = -1
        # Of "the red ring" and "the striped red ring", which end together, the longer is meant.
        ends += [(begin + len(words), len(words), number)] if begin >= 0 else []
    return max(ends)[2] if ends else None


def normal(text: str) -> str:
    """Words without case, articles and signs, so that wordings compare; times keep their colon."""
    words = re.sub(r"[^a-z0-9:]|(?<!\d):|:(?!\d)", " ", text.lower()).split()
    return " ".join(w for w in words if w not in ("a", "an", "the", "some"))
