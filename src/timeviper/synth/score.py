"""How right an answer is, whoever gave it: names, counts and times are read out of its words."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from timeviper.synth.asking import Question
from timeviper.synth.catalogue import ThingKind, things
from timeviper.synth.choices import normal
from timeviper.synth.tasks import Task
from timeviper.synth.wording import (
    CLOCK,
    changes_in,
    count_in,
    denies,
    motions_in,
    names_in,
    names_words,
    seconds_in,
)

# Overlap over union that counts as having found a moment.
MIN_IOU = 0.5
# Seconds that the moment of a change may be off.
CHANGE_SLACK = 2.0


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
    bare = names_words(question.answer)
    if question.task is Task.DENSE_CAPTION:
        return caption_score(captions(question.answer), captions(text, bare=bare))
    if question.task is Task.SUMMARY:
        return _f1(_counted(question.answer), _counted(text, bare=bare))
    return _exact(_same(question, text))


def captions(text: str, *, bare: bool = False) -> list[Moment]:
    """Events told with times, each in its sentence or line.

    Args:
        text: in any layout that gives two times before or after the things.
        bare: as for `names_in`.
    """
    found: list[Moment] = []
    for part in re.split(r"[;\n]|\.\s", text):
        times = seconds_in(part)
        if len(times) >= 2:
            named = frozenset(names_in(CLOCK.sub(" ", part), bare=bare))
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
    match question.task:
        case Task.COUNT:
            return count_in(got) == count_in(want) is not None
        case Task.ABSENT:
            return got.split()[:1] == want.split()
        case Task.MOTION:
            return motions_in(got) == motions_in(want)
        case Task.CHANGE:
            return _same_change(question.answer, text)
        case Task.WHEN:
            return not seconds_in(text) and denies(text)
        case _:
            return _same_things(question, text)


def _same_things(question: Question, text: str) -> bool:
    """Whether the answer names the same things, besides those that the question named."""
    wanted = names_in(question.answer)
    if not wanted:
        return not names_in(text) and denies(text)
    bare = names_words(question.answer)
    named = names_in(text, bare=bare)
    asked = set(names_in(question.question)) - set(wanted)
    match question.task:
        case Task.ORDERING:
            return list(dict.fromkeys(named)) == wanted
        case Task.CHAIN:
            return named[-1:] == wanted[-1:]
        case Task.FIRST | Task.LAST:
            return set(named) == set(wanted)
        case Task.READING if things()[wanted[0]].kind is ThingKind.NUMBER:
            return set(re.findall(r"\d+", normal(text))) == {things()[wanted[0]].label}
        case _:
            return set(named) - asked == set(wanted)


def _same_change(answer: str, text: str) -> bool:
    """The same change within `CHANGE_SLACK` seconds, or that nothing changes."""
    times, wanted = seconds_in(text), seconds_in(answer)
    kinds = changes_in(text)
    if not wanted:
        return not kinds and not times and denies(text)
    near = any(abs(t - wanted[0]) <= CHANGE_SLACK for t in times)
    return near and kinds == changes_in(answer)


def _counted(text: str, *, bare: bool = False) -> set[tuple[int, int]]:
    """Pairs of a thing and how often it is told to appear."""
    parts = re.split(r",|;|\n|\band\b", text.rstrip(". "))
    pairs: set[tuple[int, int]] = set()
    for part in parts:
        named, times = names_in(part, bare=bare), count_in(part)
        if named and times is not None:
            pairs.add((named[0], times))
    return pairs


def _f1(want: set[tuple[int, int]], got: set[tuple[int, int]]) -> Score:
    shared = len(want & got)
    precision = shared / len(got) if got else 0.0
    recall = shared / len(want) if want else 0.0
    value = 2 * precision * recall / (precision + recall) if shared else 0.0
    return Score(value >= 0.5, value, {"precision": precision, "recall": recall})
