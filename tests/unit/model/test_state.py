"""Memories never change, share room without disturbing each other, and grow without copying."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.model.toys import PLANS, inputs_for, one, toy, whole
from timeviper.core.errors import LayoutError
from timeviper.core.layout import TokenLayout
from timeviper.model.state import (
    AttentionMemory,
    DecoderState,
    MambaMemory,
    PendingTransfer,
    check_sequences,
    extend,
)
from timeviper.model.tokens import Tokens


def keys(total: int, first: float = 0.0) -> torch.Tensor:
    """Keys (token, 1, 2) that count upwards."""
    return (torch.arange(total * 2.0) + first).view(total, 1, 2)


def rows(memory: AttentionMemory) -> list[list[float]]:
    return [memory.k[r, :n, 0, 0].tolist() for r, n in enumerate(memory.lengths)]


@given(
    steps=st.lists(st.lists(st.integers(0, 4), min_size=2, max_size=2), min_size=1, max_size=6),
    grad=st.booleans(),
)
def test_extend_appends_to_each_row(steps: list[list[int]], grad: bool) -> None:
    memory: AttentionMemory | None = None
    want: list[list[float]] = [[], []]
    count = 0.0
    for added in steps:
        k = keys(sum(added), count).requires_grad_(grad)
        memory = extend(memory, k, -k, lengths=added)
        values = k[:, 0, 0].tolist()
        want[0] += values[: added[0]]
        want[1] += values[added[0] :]
        count += 100.0
    assert memory is not None
    assert rows(memory) == want
    assert torch.equal(memory.v, -memory.k)
    assert memory.nbytes == sum(map(len, want)) * 2 * 2 * 4


@given(data=st.data())
def test_any_tree_of_forks_holds_what_each_branch_appended(data: st.DataObject) -> None:
    nodes = [(extend(None, keys(4), keys(4), lengths=(3, 1)), [[0.0, 2.0, 4.0], [6.0]])]
    for step in range(data.draw(st.integers(1, 12))):
        memory, held = nodes[data.draw(st.integers(0, len(nodes) - 1))]
        added = data.draw(st.lists(st.integers(0, 3), min_size=2, max_size=2))
        k = keys(sum(added), 1000.0 * (step + 1))
        with torch.no_grad():
            longer = extend(memory, k, k, lengths=added)
        values = k[:, 0, 0].tolist()
        nodes.append((longer, [held[0] + values[: added[0]], held[1] + values[added[0] :]]))
    for memory, held in nodes:
        assert rows(memory) == held


def test_the_newest_memory_writes_into_spare_room_and_a_fork_copies() -> None:
    with torch.no_grad():
        old = extend(None, keys(40), keys(40), lengths=(40,))
        one_more = extend(old, keys(1), keys(1), lengths=(1,))
        two_more = extend(one_more, keys(1), keys(1), lengths=(1,))
        fork = extend(one_more, keys(1, 5.0), keys(1), lengths=(1,))
    assert two_more.buffer is one_more.buffer
    assert fork.buffer is not one_more.buffer
    assert two_more.k[0, 41, 0, 0] == 0.0
    assert fork.k[0, 41, 0, 0] == 5.0


def test_two_thousand_appends_copy_a_few_times_the_whole() -> None:
    memory: AttentionMemory | None = None
    copied, address = 0, 0
    with torch.no_grad():
        for _ in range(2000):
            memory = extend(memory, keys(4), keys(4), lengths=(4,))
            if memory.k.data_ptr() != address:
                address = memory.k.data_ptr()
                copied += memory.lengths[0]
    assert memory is not None
    assert memory.lengths == (8000,)
    assert memory.k.shape[1] <= 8000 * 1.3
    # Geometric growth by a quarter: sum of the copies is about five times the end.
    assert copied < 6 * 8000


def test_appends_under_autograd_keep_every_gradient() -> None:
    parts = [keys(n, 10.0 * n).requires_grad_() for n in (3, 1, 2)]
    memory: AttentionMemory | None = None
    loss = torch.zeros(())
    for part, added in zip(parts, [(2, 1), (0, 1), (1, 1)], strict=True):
        memory = extend(memory, part, part, lengths=added)
        loss = loss + (memory.k[0, : memory.lengths[0]] ** 2).sum()
        loss = loss + (memory.k[1, : memory.lengths[1]] ** 2).sum()
    loss.backward()
    # A key is read by its own call and every later one.
    for part, reads in zip(parts, (3, 2, 1), strict=True):
        assert part.grad is not None
        assert torch.equal(part.grad, 2 * reads * part.detach())


def test_question_without_gradients_after_a_video_with_them() -> None:
    part = keys(4).requires_grad_()
    video = extend(None, part * 1.0, part * 1.0, lengths=(3, 1))
    loss = (video.k**2).sum()
    with torch.no_grad():
        asked = extend(video, keys(2), keys(2), lengths=(0, 2))
        extend(asked, keys(0), keys(0), lengths=(0, 0))
    loss.backward()
    assert part.grad is not None
    assert torch.equal(part.grad, 2 * part.detach())


def test_a_question_with_gradients_leaves_a_frozen_video_frozen() -> None:
    with torch.no_grad():
        video = extend(extend(None, keys(8), keys(8), lengths=(8,)), keys(1), keys(1), lengths=(1,))
    assert video.k.shape[1] > 9
    before = video.k.clone()
    parts = [keys(1, 5.0).requires_grad_() for _ in range(2)]
    first, second = (extend(video, part, part, lengths=(1,)) for part in parts)
    assert not video.k.requires_grad
    assert torch.equal(video.k, before)
    (first.k[0, :10].sum() + second.v[0, :10].sum() * 2).backward()
    assert [part.grad.sum().item() for part in parts if part.grad is not None] == [2.0, 4.0]


def test_what_inference_mode_made_can_go_on_outside_of_it() -> None:
    with torch.inference_mode():
        memory = extend(None, keys(40), keys(40), lengths=(40,))
        memory = extend(memory, keys(1), keys(1), lengths=(1,))
    with torch.no_grad():
        longer = extend(memory, keys(1, 5.0), keys(1), lengths=(1,))
    assert longer.k[0, 41, 0, 0] == 5.0


def test_a_memory_of_another_precision_keeps_its_own() -> None:
    with torch.no_grad():
        half = extend(None, keys(3).bfloat16(), keys(3).bfloat16(), lengths=(2, 1))
        for added in ((1, 1), (2, 0)):
            assert extend(half, keys(2), keys(2), lengths=added).k.dtype == torch.bfloat16
    grown = extend(half, keys(2).requires_grad_(), keys(2), lengths=(2, 0))
    assert grown.k.dtype == torch.bfloat16


def test_select_repeats_reorders_and_shares_nothing() -> None:
    memory = extend(None, keys(4), keys(4), lengths=(3, 1))
    chosen = memory.select([1, 0, 1])
    assert rows(chosen) == [[6.0], [0.0, 2.0, 4.0], [6.0]]
    chosen.k.zero_()
    assert rows(memory) == [[0.0, 2.0, 4.0], [6.0]]
    assert memory.select([]).lengths == ()
    scan = MambaMemory(torch.arange(6.0).view(2, 3, 1), torch.arange(2.0).view(2, 1, 1, 1))
    assert scan.select([1, 1, 0]).ssm.flatten().tolist() == [1.0, 1.0, 0.0]
    assert scan.nbytes == 32


def test_select_of_what_waits_keeps_rows_together() -> None:
    layout = TokenLayout.pack([one(0, [(0, n)], 0, 0) for n in (1, 2)])
    part = Tokens.of(inputs_for(layout), layout)
    empty = Tokens(part.hidden[:0], part.kinds[:0], (0, 0))
    pending = PendingTransfer((7, 8), None, (part, empty, part))
    got = pending.select([1, 1, 0])
    assert got.seen == (8, 8, 7)
    assert len(got.parked) == 1
    assert got.parked[0].lengths == (4, 4, 2)
    second = part.hidden[1:]
    want = torch.cat([second, second, second, second, part.hidden[:1], part.hidden[:1]])
    assert torch.equal(got.parked[0].hidden, want)


def test_state_knows_its_sequences_and_bytes() -> None:
    decoder = toy("hybrid", PLANS["paper"])
    assert decoder.start().sequences is None
    assert decoder.start().nbytes == 0
    layout = TokenLayout.pack([one(1, [(1, 4)] * 3, 0, 0), one(2, [], 0, 0)])
    _, state = whole(decoder, inputs_for(layout), layout)
    assert state.sequences == 2
    parts = [m for m in (*state.memories, *state.pending) if m is not None]
    assert state.nbytes == sum(part.nbytes for part in parts) > 0
    waiting = state.pending[1]
    assert waiting is not None
    assert waiting.parked
    assert DecoderState((None,), (PendingTransfer((0, 0, 0)),)).sequences == 3


def test_tokens_of_another_number_of_sequences_are_refused() -> None:
    decoder = toy("hybrid")
    layout = TokenLayout.pack([one(1, [], 0, 0)] * 2)
    _, state = whole(decoder, inputs_for(layout), layout)
    alone = one(1, [], 0, 0)
    with pytest.raises(LayoutError, match=r"tokens of 2 sequences.*got 1 sequences.*select"):
        decoder.run(Tokens.of(inputs_for(alone), alone), state)
    check_sequences(state, 2)
    check_sequences(decoder.start(), 5)
