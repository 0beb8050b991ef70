"""Read names, times, counts, motions and changes out of anybody's words."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import TypeVar

from timeviper.synth.catalogue import ThingKind, things
from timeviper.synth.choices import normal
from timeviper.synth.world import Change, Motion

_Kind = TypeVar("_Kind", Motion, Change)
CLOCK = re.compile(r"(?<![\d:])(?:(\d{1,3}):)?(\d{1,3}):(\d{2})(?![\d:])", re.ASCII)
# Bounded, so that no junk takes long to read.
_NUMBER, _GAP = r"\d{1,6}(?:\.\d{1,6})?", r"\s{0,3}"
_UNIT = rf"{_GAP}(?:seconds?|secs?|s)\b"
_SECONDS = re.compile(
    rf"(?<![\d.])(?:(?:(\d{{1,6}}){_GAP}(?:minutes?|mins?|m)(?:\s{{1,3}}and)?{_GAP})?({_NUMBER}){_UNIT}"
    # The first of "10 to 15 seconds" has no unit of its own.
    rf"|({_NUMBER})(?={_GAP}(?:to|and|until|-|\u2013){_GAP}{_NUMBER}{_UNIT}))",
    re.ASCII,
)
_TIMES = re.compile(r"\b(?:(once|twice)|(\d{1,9}) times?|(\w{1,12}) times?)\b")
_NUMBER_WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_DENIES = re.compile(r"\b(?:no|not|never|none|nothing|nowhere|isnt|doesnt|don t|doesn t|isn t)\b")
# Beginnings of words that tell a motion or a change, whoever tells it.
_MOTIONS = MappingProxyType(
    {
        Motion.STILL: r"still|stationary|static|motionless|(?:not|t|never) mov",
        Motion.LEFT: r"left",
        Motion.RIGHT: r"right",
        Motion.UP: r"up(?:wards?)?\b|rises|rising",
        Motion.DOWN: r"down|falls|falling",
        Motion.CLOSER: r"closer|towards? (?:us|me|you|camera)|approach|near|grow|bigger|larger",
        Motion.AWAY: r"away|farther|further|shrink|smaller|reced",
        Motion.TURNING: r"turn|rotat|spin|revolv",
    }
)
_CHANGES = MappingProxyType(
    {
        Change.GREY: r"gr[ea]y|black and white|desaturat|colou?rless",
        Change.DARK: r"dark|dim",
        Change.FRAME: r"frame\b|border",
        Change.BARS: r"bars?\b|letterbox",
    }
)


def seconds_in(text: str) -> list[float]:
    """Times told as MM:SS or H:MM:SS, or else as seconds, in order."""
    clocks = [
        3600.0 * int(hours or 0) + 60.0 * int(minutes) + int(seconds)
        for hours, minutes, seconds in CLOCK.findall(text)
    ]
    told = [] if clocks else _SECONDS.findall(text.lower())
    return clocks or [60.0 * int(m or 0) + float(s or first) for m, s, first in told]


def names_in(text: str, *, bare: bool = False) -> list[int]:
    """Ids of the things named in a text, in order, longest names first; repeats are kept.

    Args:
        text: any words.
        bare: take "ember" for the word ember; without it only "word ember" names it, because
            some of the words are met in any sentence.
    """
    tokens = normal(text).split()
    table, longest = _names(bare)
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


def names_words(answer: str) -> bool:
    """Whether the exact answer names words, which others may tell without saying "word"."""
    return any(things()[i].kind is ThingKind.WORD for i in names_in(answer))


def count_in(text: str) -> int | None:
    """How often, said in words or figures; None where no one number is told."""
    text = normal(text)
    for once_or_twice, digits, word in _TIMES.findall(text):
        if once_or_twice:
            return 1 if once_or_twice == "once" else 2
        if digits:
            return int(digits)
        if word in _NUMBER_WORDS:
            return _NUMBER_WORDS.index(word)
    if _DENIES.search(text):
        return 0
    figures = [int(n) for n in re.findall(r"\b\d{1,9}\b", text)]
    figures += [_NUMBER_WORDS.index(w) for w in text.split() if w in _NUMBER_WORDS]
    return figures[0] if len(figures) == 1 else None


def motions_in(text: str) -> set[Motion]:
    """Motions that a text speaks of."""
    return _told(_MOTIONS, text)


def changes_in(text: str) -> set[Change]:
    """Changes of the whole picture that a text speaks of."""
    return _told(_CHANGES, text)


def denies(text: str) -> bool:
    """Whether a text says that something is not."""
    return _DENIES.search(normal(text)) is not None


@cache
def _names(bare: bool) -> tuple[dict[str, int], int]:
    """Ids by normal name; an object also by its plural, a word by its bare label where wished."""
    table: dict[str, int] = {}
    for number, thing in enumerate(things()):
        name = normal(thing.name)
        if thing.kind is ThingKind.OBJECT:
            table.setdefault(f"{name}s", number)
        if bare and thing.kind is ThingKind.WORD:
            table.setdefault(normal(thing.label), number)
    # Exact names win over plurals of others.
    table |= {normal(thing.name): number for number, thing in enumerate(things())}
    return table, max(len(name.split()) for name in table)


def _told(table: Mapping[_Kind, str], text: str) -> set[_Kind]:
    plain = normal(text)
    return {kind for kind, words in table.items() if re.search(rf"\b(?:{words})", plain)}
