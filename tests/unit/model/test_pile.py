"""Choosing from parts is choosing from the parts joined; queues of small parts stay short."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.unit.model.toys import inputs_for, one
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.pile import Pile, in_one, put_by
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


@pytest.mark.parametrize("sequences", [1, 3])
@pytest.mark.parametrize("share", [0.0, 0.3, 1.0])
def test_blocks_are_of_one_size_wherever_the_places_lie(sequences, share, monkeypatch):
    monkeypatch.setattr("timeviper.model.pile.AT_ONCE", 4)
    pile, whole = Pile.of(parts(sequences)), join(parts(sequences))
    places = np.flatnonzero(np.random.default_rng(2).random(len(whole.kinds)) < share)
    found = list(pile.blocks(places))
    assert all(len(block) == 4 for block in found[:-1])
    assert [len(block) for block in found[-1:]] == ([(len(places) - 1) % 4 + 1] if share else [])
    assert torch.equal(torch.cat([*found, whole.hidden[:0]]), whole.hidden[places])


def test_a_part_that_stays_whole_is_not_copied():
    one_part = parts()[0]
    pile = Pile.of([one_part, parts()[1]])
    first = next(pile.pieces(np.arange(pile.outline.lengths[0])))
    assert first.hidden.data_ptr() == one_part.hidden.data_ptr()


@pytest.mark.parametrize("sequences", [1, 3])
def test_a_sequence_is_its_tokens_in_order(sequences, monkeypatch):
    monkeypatch.setattr("timeviper.model.pile.AT_ONCE", 4)
    pile, whole = Pile.of(parts(sequences)), join(parts(sequences))
    for number, (start, length) in enumerate(zip(whole.starts, whole.lengths, strict=True)):
        for count in (1, 5, length - 1, length):
            found = list(pile.sequence(number, count))
            assert torch.equal(torch.cat(found), whole.hidden[start : start + count])
            assert max(len(piece) for piece in found) <= 4


def test_a_long_part_is_seen_as_several_without_a_copy(monkeypatch):
    monkeypatch.setattr("timeviper.model.pile.AT_ONCE", 4)
    whole = join(parts())
    with torch.no_grad():
        pile = Pile.of([whole])
    assert [len(part.kinds) for part in pile.parts] == [4] * 7 + [3]
    step = 4 * whole.hidden.stride(0) * whole.hidden.itemsize
    first = whole.hidden.data_ptr()
    assert [part.hidden.data_ptr() for part in pile.parts] == [first + n * step for n in range(8)]
    places = np.flatnonzero(np.random.default_rng(1).random(len(whole.kinds)) < 0.4)
    same(pile.take(places), whole.take(places))
    # With gradients each piece would be a copy of what is made: there a part stays one.
    assert len(Pile.of([whole]).parts) == 1


def test_pieces_come_into_one_and_are_let_go():
    rows = torch.arange(12.0).view(6, 2)
    pieces = [(part, part[:, :1] + 1) for part in rows.split([2, 3, 1])]
    first, second = in_one(iter(pieces), 6)
    assert torch.equal(first, rows)
    assert torch.equal(second, rows[:, :1] + 1)
    assert in_one([pieces[0]], 2)[0] is pieces[0][0]


def test_gradients_go_through_what_is_taken():
    some = parts()
    hidden = [part.hidden.clone().requires_grad_() for part in some]
    pile = Pile.of([part.with_hidden(h) for part, h in zip(some, hidden, strict=True)])
    pile.take(np.array([1, 3, 20])).hidden.sum().backward()
    touched = torch.cat([h.grad for h in hidden if h.grad is not None])
    assert touched.any(-1).nonzero().flatten().tolist() == [1, 3, 17]
    assert hidden[1].grad is None


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
