"""Choosing from parts is choosing from the parts joined; queues of small parts stay short."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.model.toys import inputs_for, one
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.pile import Pile, put_by
from timeviper.model.tokens import Tokens, join

LAYOUTS = [one(2, [(1, 4)] * 3, 0, 0), one(0, [(2, 1)], 0, 0), one(0, [(1, 3)] * 2, 3, 0)]


def parts(sequences: int = 1) -> list[Tokens]:
    return [
        Tokens.of(inputs_for(layout, seed=n), layout)
        for n, layout in enumerate(
            TokenLayout.pack([layout] * sequences) if sequences > 1 else layout
            for layout in LAYOUTS
        )
    ]


def same(got: Tokens, want: Tokens) -> None:
    assert torch.equal(got.hidden, want.hidden)
    assert got.kinds.tolist() == want.kinds.tolist()
    assert got.lengths == want.lengths


@pytest.mark.parametrize("sequences", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.1, 0.5, 1.0])
def test_choosing_from_a_pile_is_choosing_from_its_parts_joined(sequences, share):
    pile, whole = Pile.of(parts(sequences)), join(parts(sequences))
    assert pile.outline.kinds.tolist() == whole.kinds.tolist()
    assert pile.outline.lengths == whole.lengths
    assert len(pile.parts) == (3 if sequences == 1 else 1)
    mask = np.random.default_rng(0).random(len(whole.kinds)) < share
    places = np.flatnonzero(mask)
    same(pile.take(places), whole.take(places))
    found = list(pile.pieces(places))
    if len(places):
        same(join(found), whole.take(places))
    else:
        assert found == []
    if sequences == 1:
        assert max((len(piece.kinds) for piece in found), default=0) <= max(
            len(part.kinds) for part in pile.parts
        )


def test_a_part_that_stays_whole_is_not_copied():
    one_part = parts()[0]
    pile = Pile.of([one_part, parts()[1]])
    first = next(pile.pieces(np.arange(pile.outline.lengths[0])))
    assert first.hidden.data_ptr() == one_part.hidden.data_ptr()


def test_sequences_are_chosen_too():
    pile, whole = Pile.of(parts(3)), join(parts(3))
    chosen = np.array([2, 0])
    same(pile.only(chosen).parts[0], whole.only(chosen))
    assert pile.only(np.arange(3)) is pile


def test_a_queue_of_frames_one_by_one_stays_short_and_keeps_its_past():
    layout = one(0, [(0, 4)], 0, 0)
    frames = [Tokens.of(inputs_for(layout, seed=n), layout) for n in range(50)]
    queues: list[tuple[Tokens, ...]] = [()]
    for frame in frames:
        queues.append(put_by(queues[-1], frame, most=20))
    assert [len(queue) for queue in queues[::10]] == [0, 2, 4, 6, 8, 10]
    for count, queue in enumerate(queues[1:], 1):
        same(join(list(queue)), join(frames[:count]))


def test_nothing_is_put_by_for_nothing():
    some = (parts()[0],)
    assert put_by(some, parts()[0].take(np.array([], dtype=np.int64)), most=5) is some
    # What is larger than a part stays a part.
    assert [len(p.kinds) for p in put_by(some, parts()[2], most=5)] == [17, 11]
    assert (parts()[2].kinds == SpanKind.INSTRUCTION.code).sum() == 3
