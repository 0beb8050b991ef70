"""The line of time: marks lie where they should, never outside, never invisible."""

from __future__ import annotations

import io

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.console import Console

from timeviper.cli.timeline import Moment, cells, tick_seconds, timeline


def _moment(start: float, end: float, label: str = "x") -> Moment:
    return Moment(label=label, start_seconds=start, end_seconds=end)


def _printed(duration: float, moments: list[Moment]) -> list[str]:
    console = Console(file=io.StringIO(), width=100, color_system=None)
    console.print(timeline(duration, moments))
    return console.file.getvalue().splitlines()


@given(st.floats(0.1, 1e5), st.floats(0, 1e5), st.floats(0, 1e4), st.integers(1, 200))
def test_a_mark_is_never_empty_and_never_outside(
    duration: float, start: float, length: float, columns: int
) -> None:
    first, last = cells(_moment(start, start + length), duration, columns)
    assert 0 <= first < last <= columns


def test_a_mark_lies_where_its_time_is() -> None:
    assert cells(_moment(25, 75), 100, 40) == (10, 30)
    assert cells(_moment(0, 100), 100, 40) == (0, 40)


@given(st.floats(0.5, 4e5), st.integers(10, 200))
def test_labels_have_room(duration: float, columns: int) -> None:
    step = tick_seconds(duration, columns)
    assert step >= 1
    assert duration / step <= max(columns // 10, 1) or step >= int(duration)


@pytest.mark.parametrize(("duration", "last"), [(3600, "60:00"), (64, "01:00"), (30, "00:30")])
def test_rows_axis_and_labels(duration: float, last: str) -> None:
    rows = _printed(duration, [_moment(0, duration / 2, "a cat"), _moment(5, 6, "[bold]b")])
    assert rows[0].count("█") == 22
    assert "a cat" in rows[0]
    assert "[bold]b" in rows[1]
    assert "00:05–00:06" in rows[1]
    assert "00:00" in rows[-1]
    assert last in rows[-1]
