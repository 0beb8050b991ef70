"""Batches by number: every number once, whoever takes it and however often one breaks off."""

from __future__ import annotations

from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeviper.core.errors import ConfigError
from timeviper.training.source import Cursor, Steps


def name(number: int) -> str:
    return f"batch {number}"


def take(source: Steps[str], cursor: Cursor | None, ranks: int, count: int) -> tuple[list, Cursor]:
    """What `ranks` ranks get in `count` batches each, by number, and the cursor of all."""
    runs = [list(islice(source.batches(cursor, rank=r, ranks=ranks), count)) for r in range(ranks)]
    cursors = {str(run[-1][1]) for run in runs}
    assert len(cursors) == 1
    return [batch for turn in zip(*runs, strict=True) for batch, _ in turn], runs[0][-1][1]


@given(st.lists(st.tuples(st.integers(1, 4), st.integers(1, 3)), min_size=1, max_size=4))
def test_any_numbers_of_ranks_in_turn_take_every_number_once(turns: list[tuple[int, int]]) -> None:
    source, cursor, found = Steps(make=name), None, []
    for ranks, count in turns:
        got, cursor = take(source, cursor, ranks, count)
        found += got
    assert found == [name(number) for number in range(len(found))]


@pytest.mark.parametrize(("total", "ranks", "each"), [(7, 2, 3), (6, 2, 3), (1, 2, 0), (0, 1, 0)])
def test_ranks_end_together(total: int, ranks: int, each: int) -> None:
    source = Steps(make=name, total=total)
    assert [len(list(source.batches(None, rank=r, ranks=ranks))) for r in range(ranks)] == [
        each
    ] * ranks


def test_past_the_end_there_is_nothing() -> None:
    assert list(Steps(make=name, total=3).batches({"number": 9}, rank=0, ranks=1)) == []


def test_workers_build_the_same_in_the_same_order() -> None:
    plain, built = (
        list(Steps(make=name, total=9, workers=workers).batches({"number": 2}, rank=1, ranks=2))
        for workers in (0, 2)
    )
    assert plain == built
    assert [batch for batch, _ in built] == [name(n) for n in (3, 5, 7)]


def test_counts_that_make_no_sense_are_refused() -> None:
    with pytest.raises(ConfigError, match="-1 workers"):
        Steps(make=name, workers=-1)
