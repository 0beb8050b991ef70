"""Write times as MM:SS and read times and intervals out of answers; a junk answer is no error."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

from timeviper.core.errors import RequestError

# A time of 11.9999999 s is the 12th second after rounding errors of frame rates.
_ROUNDING_SECONDS = 1e-6

_NUMBER = r"[0-9]{1,9}(?:\.[0-9]{1,9})?"
_HOURS, _MINUTES, _SECONDS = "hours?|hrs?|h", "minutes?|mins?|m", "seconds?|secs?|s"
_GLUE = r"\s{0,3}(?:,|and\b)?\s{0,3}"
_MARK = re.compile(
    rf"""
    (?<![0-9A-Za-z_.:])(?:
      (?:(?P<hours>[0-9]{{1,4}}):(?=[0-5][0-9]:))?
      (?P<minutes>[0-9]{{1,6}}):(?P<seconds>[0-5][0-9](?:\.[0-9]{{1,9}})?)(?![0-9]|:[0-9])
    | (?={_NUMBER}\s{{0,3}}(?:{_HOURS}|{_MINUTES}|{_SECONDS})(?![a-z]))
      (?:
        (?:(?P<h>{_NUMBER})\s{{0,3}}(?:{_HOURS})(?![a-z])(?:{_GLUE}(?=[0-9]))?)?
        (?:(?P<m>{_NUMBER})\s{{0,3}}(?:{_MINUTES})(?![a-z])(?:{_GLUE}(?=[0-9]))?)?
        (?:(?P<s>{_NUMBER})\s{{0,3}}(?:{_SECONDS})(?![a-z]))?
      )
    | (?P<bare>{_NUMBER})(?![0-9A-Za-z_]|:[0-9]|\.[0-9])
    )""",
    re.VERBOSE | re.IGNORECASE,
)
_JOIN = re.compile(r"(?:up\s{1,3})?to|until|till|through|-|–|—|~|→|\.\.\.?", re.IGNORECASE)
_START = re.compile(r"\b(?:start|begin|from|appear)", re.IGNORECASE)
_END = re.compile(r"\b(?:end|until|till|to|stop|finish|disappear|leave|gone)", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class _Mark:
    """One time in a text: where it stands, its seconds, and how many seconds its unit has."""

    begin: int
    end: int
    seconds: float
    # None for a number without a unit; it borrows the unit of the number it is joined with.
    unit: float | None


def format_time(seconds: float | int) -> str:
    """A time as MM:SS, rounded down to the second; minutes pass 59, there are no hours.

    Args:
        seconds: time since the start of the video.

    Returns:
        At least two digits of minutes, a colon, two digits of seconds: `02:05`, `100:00`.

    Raises:
        RequestError: a negative or infinite time.
    """
    if not math.isfinite(seconds) or seconds < 0:
        raise RequestError(
            want="a time of zero seconds or more", got=seconds, do="give times since the start"
        )
    minutes, rest = divmod(math.floor(seconds + _ROUNDING_SECONDS), 60)
    return f"{minutes:02d}:{rest:02d}"


def parse_times(text: str) -> tuple[float, ...]:
    """Every time in a text, in seconds, in order of appearance.

    Args:
        text: an answer such as `at 00:12 and 1:02:03`, `12.5 seconds` or `2m05s`.

    Returns:
        Times with a clock or a unit; numbers without a unit count only when joined as an
        interval (`12 to 15`) or when the number is the whole text.

    Law: `parse_times(format_time(t)) == (t,)` for whole seconds.
    """
    marks = _marks(text)
    seconds = {i: mark.seconds for i, mark in enumerate(marks) if mark.unit is not None}
    for i, start, end in _joined(text, marks):
        # An explicit time stands whatever numbers are near it.
        if marks[i].unit is not None or marks[i + 1].unit is not None or not seconds:
            seconds[i], seconds[i + 1] = start, end
    if not seconds and len(marks) == 1 and not _outside(text, marks[0]):
        seconds[0] = marks[0].seconds
    return tuple(seconds[i] for i in sorted(seconds))


def parse_interval(text: str) -> tuple[float, float] | None:
    """The interval an answer names.

    Args:
        text: an answer such as `from 00:12 to 00:15`, `between 3s and 7s`, `12 - 15` or
            `starts at 1:02:03 and ends at 1:02:09`.

    Returns:
        (start, end) in seconds with start <= end, or None when the text names no interval.
        Times with a clock or a unit go before bare numbers.

    Law: never raises.
    """
    marks = _marks(text)
    pairs = list(_joined(text, marks))
    explicit = [
        p for p in pairs if marks[p[0]].unit is not None or marks[p[0] + 1].unit is not None
    ]
    for _, start, end in (*explicit, *_told(text, marks), *pairs):
        if start <= end:
            return start, end
    return None


def _marks(text: str) -> list[_Mark]:
    return [_mark(match) for match in _MARK.finditer(text)]


def _mark(match: re.Match[str]) -> _Mark:
    begin, end = match.span()
    part = match.groupdict()
    if part["minutes"] is not None:
        clock = 3600 * float(part["hours"] or 0) + 60 * float(part["minutes"])
        return _Mark(begin, end, clock + float(part["seconds"]), 1.0)
    if part["bare"] is not None:
        return _Mark(begin, end, float(part["bare"]), None)
    named = [
        (float(part[k]), size) for k, size in (("h", 3600.0), ("m", 60.0), ("s", 1.0)) if part[k]
    ]
    return _Mark(begin, end, sum(n * size for n, size in named), named[-1][1])


def _joined(text: str, marks: list[_Mark]) -> Iterator[tuple[int, float, float]]:
    """Pairs (index of the first, start, end) of neighbours with a word or dash between them."""
    for i, (a, b) in enumerate(pairwise(marks)):
        gap = text[a.end : b.begin].strip()
        before = text[max(0, a.begin - 12) : a.begin].rstrip().lower()
        listed = gap == "," and before.endswith("[")
        if _JOIN.fullmatch(gap) or listed or (gap == "and" and before.endswith("between")):
            yield i, _value(a, b), _value(b, a)


def _told(text: str, marks: list[_Mark]) -> Iterator[tuple[int, float, float]]:
    """Pairs that a sentence or an object names as start and end: `starts at A, ends at B`."""
    previous = 0
    for i, (a, b) in enumerate(pairwise(marks)):
        if _START.search(text, previous, a.begin) and _END.search(text, a.end, b.begin):
            yield i, _value(a, b), _value(b, a)
        previous = a.end


def _value(mark: _Mark, partner: _Mark) -> float:
    if mark.unit is None:
        return mark.seconds * (partner.unit or 1.0)
    return mark.seconds


def _outside(text: str, mark: _Mark) -> str:
    return (text[: mark.begin] + text[mark.end :]).strip(" .\n\t")
