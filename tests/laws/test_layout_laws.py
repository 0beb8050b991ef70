"""Laws of layouts: splitting, packing and shrinking never lose, add or reorder a token."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeviper.core.errors import LayoutError
from timeviper.core.layout import Span, SpanKind, TokenLayout

SPANS = st.builds(Span, st.sampled_from(SpanKind), st.integers(0, 5))
LAYOUTS = st.lists(st.lists(SPANS, max_size=5).map(tuple), max_size=4).map(
    lambda sequences: TokenLayout(tuple(sequences))
)


def plain(layout: TokenLayout) -> list[list[int]]:
    """Kind codes of each sequence, spelled out without the code under test."""
    order = list(SpanKind)
    return [
        [order.index(span.kind) for span in spans for _ in range(span.length)]
        for spans in layout.sequences
    ]


@given(layout=LAYOUTS)
def test_derived_values_agree_with_plain_lists(layout: TokenLayout) -> None:
    rows = plain(layout)
    flat = [code for row in rows for code in row]
    assert layout.kinds.tolist() == flat
    assert layout.lengths == tuple(map(len, rows))
    assert layout.total == len(flat)
    for kind in SpanKind:
        assert layout.count(kind) == tuple(row.count(kind.code) for row in rows)
        assert layout.positions(kind).tolist() == [
            i for i, code in enumerate(flat) if code == kind.code
        ]


@given(layout=LAYOUTS, data=st.data())
def test_split_and_put_together_is_the_same(layout: TokenLayout, data: st.DataObject) -> None:
    cuts = [data.draw(st.integers(0, n)) for n in layout.lengths]
    head, tail = layout.split(cuts)
    assert head.lengths == tuple(cuts)
    assert [a + b for a, b in zip(plain(head), plain(tail), strict=True)] == plain(layout)


@given(layouts=st.lists(LAYOUTS, max_size=4))
def test_pack_keeps_sequences_in_order(layouts: list[TokenLayout]) -> None:
    pack = TokenLayout.pack(layouts)
    assert plain(pack) == [row for layout in layouts for row in plain(layout)]
    assert TokenLayout.pack([pack, TokenLayout(())]) == pack


@given(layout=LAYOUTS)
def test_from_kinds_undoes_kinds(layout: TokenLayout) -> None:
    again = TokenLayout.from_kinds(layout.kinds, layout.lengths)
    assert plain(again) == plain(layout)
    assert TokenLayout.from_kinds(again.kinds, again.lengths) == again
    # Neighbours of one kind are one span, none is empty.
    for spans in again.sequences:
        assert all(span.length > 0 for span in spans)
        assert all(a.kind != b.kind for a, b in pairwise(spans))


@given(layout=LAYOUTS, data=st.data())
def test_shrink_is_a_mask_on_each_sequence(layout: TokenLayout, data: st.DataObject) -> None:
    size = layout.total
    keep = np.array(data.draw(st.lists(st.booleans(), min_size=size, max_size=size)), dtype=bool)
    rows, start, want = plain(layout), 0, []
    for row in rows:
        want.append([code for i, code in enumerate(row) if keep[start + i]])
        start += len(row)
    assert plain(layout.shrink(keep)) == want


@given(layout=LAYOUTS, past=st.integers(1, 3))
def test_no_cut_outside_a_sequence(layout: TokenLayout, past: int) -> None:
    for number, length in enumerate(layout.lengths):
        for at in (length + past, -past):
            cuts = [0] * len(layout.lengths)
            cuts[number] = at
            with pytest.raises(LayoutError):
                layout.split(cuts)
