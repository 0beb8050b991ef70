"""Layouts: kinds, counts, cuts and packs agree with plain lists of tokens."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest

from timeviper.core.errors import LayoutError
from timeviper.core.layout import Span, SpanKind, TokenLayout

TEXT, VISION, QUESTION = SpanKind.TEXT, SpanKind.VISION, SpanKind.INSTRUCTION


def test_codes_are_small_distinct_and_stable() -> None:
    # Written into tensors and files of states: the order is a promise.
    names = ["text", "vision", "instruction", "answer", "timestamp"]
    assert [SpanKind(name).code for name in names] == [0, 1, 2, 3, 4]


def test_kinds_counts_and_positions() -> None:
    layout = TokenLayout.pack(
        [TokenLayout.of((TEXT, 2), (VISION, 3), (QUESTION, 1)), TokenLayout.of((VISION, 2))]
    )
    assert layout.lengths == (6, 2)
    assert layout.total == 8
    assert layout.kinds.tolist() == [0, 0, 1, 1, 1, 2, 1, 1]
    assert layout.kinds.dtype == np.int8
    assert layout.count(VISION) == (3, 2)
    assert layout.count(SpanKind.ANSWER) == (0, 0)
    assert layout.positions(VISION).tolist() == [2, 3, 4, 6, 7]


@pytest.mark.parametrize("layout", [TokenLayout(()), TokenLayout(((),)), TokenLayout(((), ()))])
def test_layouts_without_tokens(layout: TokenLayout) -> None:
    assert layout.kinds.tolist() == []
    assert layout.total == 0
    assert layout.positions(VISION).tolist() == []
    head, tail = layout.split(0)
    assert head == tail == layout
    assert layout.shrink(np.zeros(0, dtype=bool)).lengths == layout.lengths


def test_split_cuts_within_spans() -> None:
    layout = TokenLayout.of((TEXT, 2), (VISION, 3))
    head, tail = layout.split(3)
    assert head == TokenLayout.of((TEXT, 2), (VISION, 1))
    assert tail == TokenLayout.of((VISION, 2))
    both = TokenLayout.pack([layout, layout])
    assert both.split([0, 5])[0].lengths == (0, 5)
    assert both.split([0, 5])[1].lengths == (5, 0)


def test_shrink_keeps_the_masked_tokens_of_each_sequence() -> None:
    layout = TokenLayout.pack(
        [TokenLayout.of((TEXT, 2), (VISION, 2)), TokenLayout.of((VISION, 3), (QUESTION, 1))]
    )
    keep = np.array([1, 0, 0, 1, 0, 0, 0, 1], dtype=bool)
    assert layout.shrink(keep) == TokenLayout.pack(
        [TokenLayout.of((TEXT, 1), (VISION, 1)), TokenLayout.of((QUESTION, 1))]
    )


def test_from_kinds_joins_equal_neighbours_but_not_sequences() -> None:
    kinds = np.array([0, 1, 1, 1, 2], dtype=np.int8)
    layout = TokenLayout.from_kinds(kinds, (2, 0, 3))
    assert layout.sequences == (
        (Span(TEXT, 1), Span(VISION, 1)),
        (),
        (Span(VISION, 2), Span(QUESTION, 1)),
    )


def test_refusals_carry_the_numbers() -> None:
    layout = TokenLayout.of((TEXT, 2))
    with pytest.raises(LayoutError, match="span lengths of sequence 1 to be zero or more; got -1"):
        TokenLayout(((), (Span(TEXT, -1),)))
    with pytest.raises(LayoutError, match="a cut between 0 and 2; got 3"):
        layout.split(3)
    with pytest.raises(LayoutError, match="a cut between 0 and 2; got -1"):
        layout.split([-1])
    with pytest.raises(LayoutError, match="1 cuts; got 2"):
        layout.split([1, 1])
    with pytest.raises(LayoutError, match=r"a mask of shape \(2,\); got \(3,\)"):
        layout.shrink(np.ones(3, dtype=bool))
    with pytest.raises(LayoutError, match=r"5 kinds for lengths \(2, 3\); got 4"):
        TokenLayout.from_kinds(np.zeros(4, dtype=np.int8), (2, 3))


def test_layouts_are_values() -> None:
    layout = TokenLayout.of((TEXT, 2))
    assert layout == TokenLayout.of((TEXT, 2))
    assert len({layout, TokenLayout.of((TEXT, 2))}) == 1
    with pytest.raises(dataclasses.FrozenInstanceError):
        layout.sequences = ()  # type: ignore[misc]
