"""Draw moments on a line of time, in characters; knows nothing of models or files."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rich.table import Table
from rich.text import Text

from timeviper.processing.timestamps import format_time

_STEPS_SECONDS = (1, 2, 5, 10, 15, 30, 60, 120, 300, 600, 900, 1800, 3600, 7200, 14400, 36000)
# A time needs this many columns, so that labels below the line never touch.
_TICK_COLUMNS = 10
COLORS = ("cyan", "magenta", "yellow", "green", "blue", "red")


@dataclass(frozen=True, kw_only=True)
class Moment:
    """A part of a video that an answer speaks of.

    Args:
        label: a few words for the row.
        start_seconds: where it begins.
        end_seconds: where it has gone; at least `start_seconds`.
    """

    label: str
    start_seconds: float
    end_seconds: float


def timeline(duration_seconds: float, moments: Sequence[Moment], *, columns: int = 44) -> Table:
    """One row a moment above a common axis.

    Args:
        duration_seconds: length of the video.
        moments: what to mark, in the order of the rows.
        columns: width of the line in characters.

    Returns:
        Something that rich prints.
    """
    table = Table.grid(padding=(0, 1))
    table.add_column(max_width=20, overflow="ellipsis", no_wrap=True)
    table.add_column(min_width=columns, no_wrap=True)
    table.add_column(no_wrap=True)
    for number, moment in enumerate(moments):
        bar = Text("─" * columns, style="dim")
        first, last = cells(moment, duration_seconds, columns)
        color = COLORS[number % len(COLORS)]
        bar = Text.assemble(bar[:first], ("█" * (last - first), color), bar[last:])
        span = f"{format_time(moment.start_seconds)}–{format_time(moment.end_seconds)}"
        table.add_row(Text(moment.label), bar, Text(span, style=color))
    ruler, times = _axis(duration_seconds, columns)
    table.add_row("", Text(ruler, style="dim"))
    table.add_row("", Text(times, style="dim"))
    return table


def cells(moment: Moment, duration_seconds: float, columns: int) -> tuple[int, int]:
    """First and one-past-last character of a moment; never empty, never outside the line.

    Args:
        moment: what to place.
        duration_seconds: length of the whole line.
        columns: characters of the whole line.

    Returns:
        `0 <= first < last <= columns`.
    """
    scale = columns / max(duration_seconds, 1e-9)
    first = min(max(int(moment.start_seconds * scale), 0), columns - 1)
    last = min(max(round(moment.end_seconds * scale), first + 1), columns)
    return first, last


def tick_seconds(duration_seconds: float, columns: int) -> int:
    """The finest round step whose labels still have room.

    Args:
        duration_seconds: length of the line.
        columns: its characters.

    Returns:
        Seconds between two ticks.
    """
    most = max(columns // _TICK_COLUMNS, 1)
    for step in _STEPS_SECONDS:
        if duration_seconds / step <= most:
            return step
    return max(int(duration_seconds), 1)


def _axis(duration_seconds: float, columns: int) -> tuple[str, str]:
    step = tick_seconds(duration_seconds, columns)
    ruler, times = ["─"] * columns, [" "] * columns
    for second in range(0, int(duration_seconds) + 1, step):
        at = min(int(second * columns / max(duration_seconds, 1e-9)), columns - 1)
        ruler[at] = "┬" if second else "┌"
        label = format_time(second)
        # The last label ends with the line instead of leaving it.
        left = min(at, columns - len(label))
        times[left : left + len(label)] = list(label)
    return "".join(ruler), "".join(times)
