"""How right an answer is, whoever gave it: names, counts and times are read out of its words."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache

from timeviper.synth.asking import Question
from timeviper.synth.catalogue import ThingKind, things
from timeviper.synth.choices import normal
from timeviper.synth.tasks import Task

# Overlap over union that counts as having found a moment.
MIN_IOU = 0.5
# Seconds that the moment of a change may be off.
CHANGE_SLACK = 2.0
_CLOCK = re.compile(r"(?<![\d:])(?:(\d+):)?(\d{1,3}):(\d{2})(?![\d:])")
_SECONDS = re.compile(r"(\d+(?:\.\d+)?)\s*(?:seconds|second|secs|sec|s)\b")
_TIMES = re.compile(r"\b(?:(once|twice)|(\d+) times?|(\w+) times?)\b")
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
# What is said of motions and changes, and words that mean the same.
_ALIASES = (("gray", "grey"), ("black-and-white", "grey"), ("rotates", "it turns"))


@dataclass(frozen=True)
class Score:
    """How good an answer is.

    Args:
        right: whether it counts as right.
        value: overlap over union for an interval, F1 for lists of events or counts, else 1 or 0.
        detail: further measures by name, such as precision, recall and order of a caption.
    """

    right: bool
    value: float
    detail: dict[str, float]


@dataclass(frozen=True)
class Moment:
    """An event as a caption tells it: things and seconds."""

    things: frozenset[int]
    start: float
    end: float


def score(question: Question, text: str) -> Score:
    """How right an answer to a question is.

    Args:
        question: with its exact answer.
        text: the answer given.
    """
    if question.task is Task.WHEN and question.start_seconds is not None:
        return _interval(question, text)
    if question.task is Task.DENSE_CAPTION:
        return caption_score(captions(question.answer), captions(text))
    if question.task is Task.SUMMARY:
        return _f1(_counted(question.answer), _counted(text))
    if question.task is Task.CHANGE:
        return _exact(_same_change(question.answer, text))
    return _exact(_same(question, text))


def captions(text: str) -> list[Moment]:
    """Events told with times, in any layout that gives two times before or after its things."""
    found: list[Moment] = []
    for part in re.split(r"[;\n]", text):
        times = seconds_in(part)
        if len(times) >= 2:
            named = frozenset(names_in(_CLOCK.sub(" ", part)))
            found.append(Moment(named, times[0], times[1]))
    return found


def caption_score(want: Sequence[Moment], got: Sequence[Moment]) -> Score:
    """Match events of the same things that overlap by half, best first.

    Returns:
        F1 as value; precision, recall and order (share of matched pairs told in the right order)
        as details; right where F1 is at least 0.5.
    """
    pairs = sorted(
        (
            (iou((w.start, w.end), (g.start, g.end)), i, j)
            for i, w in enumerate(want)
            for j, g in enumerate(got)
            if w.things == g.things
        ),
        reverse=True,
    )
    matched: dict[int, int] = {}
    for overlap, i, j in pairs:
        if overlap >= MIN_IOU and i not in matched and j not in matched.values():
            matched[i] = j
    precision = len(matched) / len(got) if got else 0.0
    recall = len(matched) / len(want) if want else 0.0
    f1 = 2 * precision * recall / (precision + recall) if matched else 0.0
    told = [matched[i] for i in sorted(matched)]
    ordered = [a < b for k, a in enumerate(told) for b in told[k + 1 :]]
    order = sum(ordered) / len(ordered) if ordered else float(bool(told))
    detail = {"precision": precision, "recall": recall, "order": order}
    return Score(f1 >= 0.5, f1, detail)


def iou(a: tuple[float, float], b: tuple[float, float]) -> float:
    """Intersection over union of two intervals in seconds; 0 for disjoint or empty ones."""
    shared = min(a[1], b[1]) - max(a[0], b[0])
    if shared <= 0:
        return 0.0
    return shared / (max(a[1], b[1]) - min(a[0], b[0]))


def seconds_in(text: str) -> list[float]:
    """Times told as MM:SS or H:MM:SS, or else as seconds, in order."""
    clocks = [
        3600.0 * int(hours or 0) + 60.0 * int(minutes) + int(seconds)
        for hours, minutes, seconds in _CLOCK.findall(text)
    ]
    return clocks or [float(number) for number in _SECONDS.findall(text.lower())]


def names_in(text: str) -> list[int]:
    """Ids of the things named in a text, in order, longest names first; repeats are kept."""
    tokens = normal(text).split()
    table, longest = _names()
    found: list[int] = []
    at = 0
    while at < len(tokens):
        for size in range(min(longest, len(tokens) - at), 0, -1):
            thing = table.get(" ".join(tokens[at : at + size]))
            if thing is not None:
                found.append(thing)
                at += size
                break
        else:
            at += 1
    return found


@cache
def _names() -> tuple[dict[str, int], int]:
    """Ids by normal name; a word or an object also by its plural or by its bare label."""
    table: dict[str, int] = {}
    for number, thing in enumerate(things()):
        name = normal(thing.name)
        if thing.kind is ThingKind.OBJECT:
            table.setdefault(f"{name}s", number)
        if thing.kind is ThingKind.WORD:
            table.setdefault(normal(thing.label), number)
    # Exact names win over plurals of others.
    table |= {normal(thing.name): number for number, thing in enumerate(things())}
    return table, max(len(name.split()) for name in table)


def _interval(question: Question, text: str) -> Score:
    times = seconds_in(text)
    want = (question.start_seconds or 0.0, question.end_seconds or 0.0)
    value = iou((times[0], times[1]), want) if len(times) >= 2 else 0.0
    return Score(value >= MIN_IOU, value, {})


def _exact(right: bool) -> Score:
    return Score(right, float(right), {})


def _same(question: Question, text: str) -> bool:
    """Whether the answer says what the exact one says."""
    want, got = normal(question.answer), normal(text)
    if want == got:
        return True
    task = question.task
    if task is Task.COUNT:
        return _count_in(got) == _count_in(want) is not None
    if task is Task.ABSENT:
        return got.split()[:1] == want.split()
    if task is Task.MOTION:
        for alias, word in _ALIASES:
            got = got.replace(alias, word)
        return f" {want} " in f" {got} "
    wanted, named = names_in(question.answer), names_in(text)
    if not wanted:
        return False
    if task is Task.ORDERING:
        return list(dict.fromkeys(named)) == wanted
    if task is Task.CHAIN:
        return named[-1:] == wanted[-1:]
    if task is Task.READING:
        return set(named) - set(names_in(question.question)) == set(wanted)
    return set(named) - _asked(question, wanted) == set(wanted)


def _asked(question: Question, wanted: Iterable[int]) -> set[int]:
    """Things that the question named and the answer may repeat."""
    if question.task in (Task.FIRST, Task.LAST):
        return set()
    return set(names_in(question.question)) - set(wanted)


def _same_change(answer: str, text: str) -> bool:
    want, got = normal(answer), normal(text)
    for alias, word in _ALIASES:
        got = got.replace(alias, word)
    times, wanted = seconds_in(text), seconds_in(answer)
    if not wanted:
        return want == got
    kind = next(w for w in ("grey", "dark", "frame", "bars") if w in want)
    near = any(abs(t - wanted[0]) <= CHANGE_SLACK for t in times)
    others = {"grey", "dark", "frame", "bars"} - {kind}
    return near and kind in got and not any(w in got.split() for w in others)


def _count_in(text: str) -> int | None:
    """How often, said in words or figures."""
    if "does not appear" in text or "never" in text.split():
        return 0
    for once_or_twice, digits, word in _TIMES.findall(text):
        if once_or_twice:
            return 1 if once_or_twice == "once" else 2
        if digits:
            return int(digits)
        if word in _NUMBER_WORDS:
            return _NUMBER_WORDS.index(word)
    figures = re.findall(r"\b\d+\b", text)
    return int(figures[0]) if len(figures) == 1 else None


def _counted(text: str) -> set[tuple[int, int]]:
    """Pairs of a thing and how often it is told to appear."""
    parts = re.split(r",|;|\n|\band\b", text.rstrip(". "))
    pairs: set[tuple[int, int]] = set()
    for part in parts:
        named, times = names_in(part), _count_in(normal(part))
        if named and times is not None:
            pairs.add((named[0], times))
    return pairs


def _f1(want: set[tuple[int, int]], got: set[tuple[int, int]]) -> Score:
    shared = len(want & got)
    precision = shared / len(got) if got else 0.0
    recall = shared / len(want) if want else 0.0
    value = 2 * precision * recall / (precision + recall) if shared else 0.0
    return Score(value >= 0.5, value, {"precision": precision, "recall": recall})
