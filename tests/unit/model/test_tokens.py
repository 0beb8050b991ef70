"""Packed hidden states with their kinds: choosing and joining keeps every sequence in order."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.model.toys import divide, inputs_for, one
from timeviper.core.errors import LayoutError
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.tokens import Tokens, join

LENGTHS = st.lists(st.integers(0, 6), min_size=1, max_size=4)


def numbered(lengths: list[int]) -> Tokens:
    """Tokens whose hidden state and kind tell where they stand."""
    total = sum(lengths)
    kinds = (np.arange(total) % len(SpanKind)).astype(np.int8)
    return Tokens(torch.arange(float(total))[:, None], kinds, tuple(lengths))


def rows(tokens: Tokens) -> list[list[float]]:
    return [part[:, 0].tolist() for part in tokens.hidden.split(list(tokens.lengths))]


@given(lengths=LENGTHS, data=st.data())
def test_take_keeps_sequences_apart(lengths: list[int], data: st.DataObject) -> None:
    tokens = numbered(lengths)
    mask = np.array(
        data.draw(st.lists(st.booleans(), min_size=sum(lengths), max_size=sum(lengths)))
    )
    got = tokens.take(np.flatnonzero(mask))
    want = [[x for x in row if mask[int(x)]] for row in rows(tokens)]
    assert rows(got) == want
    assert got.kinds.tolist() == [int(x) % len(SpanKind) for row in want for x in row]


@given(lengths=LENGTHS, data=st.data())
def test_join_undoes_divide(lengths: list[int], data: st.DataObject) -> None:
    tokens = numbered(lengths)
    first = [data.draw(st.integers(0, n)) for n in lengths]
    head, tail = divide(tokens, first)
    second = [data.draw(st.integers(0, n)) for n in tail.lengths]
    joined = join([head, *divide(tail, second)])
    assert rows(joined) == rows(tokens)
    assert joined.kinds.tolist() == tokens.kinds.tolist()


@given(lengths=LENGTHS, data=st.data())
def test_only_takes_sequences_in_the_order_asked(lengths: list[int], data: st.DataObject) -> None:
    tokens = numbered(lengths)
    chosen = data.draw(st.lists(st.integers(0, len(lengths) - 1), max_size=5))
    got = tokens.only(np.array(chosen, dtype=np.int64))
    assert rows(got) == [rows(tokens)[s] for s in chosen]
    assert got.kinds.tolist() == [int(x) % len(SpanKind) for row in rows(got) for x in row]


def test_counts_of_places_include_empty_sequences() -> None:
    tokens = numbered([2, 0, 3, 0])
    assert tokens.counts(np.array([0, 2, 4])) == (1, 0, 2, 0)
    assert tokens.starts.tolist() == [0, 2, 2, 5]
    assert tokens.of_kind(SpanKind.INSTRUCTION).tolist() == [2]


def test_nothing_is_copied_where_all_or_one_part_stays() -> None:
    tokens = numbered([2, 3])
    empty = Tokens(tokens.hidden[:0], tokens.kinds[:0], (0, 0))
    assert tokens.take(np.arange(5)) is tokens
    assert tokens.only(np.arange(2)) is tokens
    assert join([empty, tokens, empty]) is tokens


def test_layout_and_hidden_states_must_agree() -> None:
    layout = one(2, [(1, 2)], 1, 0)
    assert Tokens.of(inputs_for(layout), layout).lengths == (6,)
    with pytest.raises(LayoutError, match="expected 6 tokens for the layout; got 5"):
        Tokens.of(inputs_for(layout)[:5], layout)
    assert Tokens.of(inputs_for(TokenLayout(())), TokenLayout(())).starts.tolist() == []
