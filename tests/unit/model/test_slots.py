"""Steps on buffers that stay: as the call that takes any length, for every kind of stack."""

from __future__ import annotations

import pytest
import torch

from tests.tolerances import TOL, close
from tests.unit.model.toys import PLANS, inputs_for, one, toy
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.decoder import Decoder, last_of_each
from timeviper.model.slots import KeySlots, ScanSlots, StepSlots, most_own, prefixes
from timeviper.model.state import DecoderState
from timeviper.model.tokens import Tokens


def prompt(decoder: Decoder, frames: int, question: int, seed: int = 0) -> DecoderState:
    """A video and a question, read to the end; nothing waits any more."""
    layout = one(1, [(0, 3)] * frames, question, 0)
    with torch.no_grad():
        _, state = decoder.run(Tokens.of(inputs_for(layout, seed=seed), layout))
    return DecoderState(state.memories, (None,) * len(state.pending))


def slots_of(decoder: Decoder, states: list[DecoderState], steps: int) -> StepSlots:
    shared = prefixes(states)
    capacity = [own + steps for own in most_own(states)]
    slots = decoder.slots_for(
        sum(state.sequences or 0 for state in states), capacity=capacity, shared=shared
    )
    with torch.no_grad():
        # What was not written must not be read.
        for layer in slots.layers:
            for t in (layer.k, layer.v) if isinstance(layer, KeySlots) else ():
                t.fill_(torch.nan)
        slots.load(states)
    return slots


def usual(
    decoder: Decoder, ids: list[int], state: DecoderState
) -> tuple[torch.Tensor, DecoderState]:
    layout = TokenLayout.pack([TokenLayout.of((SpanKind.ANSWER, 1))] * len(ids))
    with torch.no_grad():
        out, state = decoder.run(Tokens.of(decoder.embed(torch.tensor(ids)), layout), state)
        return decoder.logits(last_of_each(out)), state


def check(decoder: Decoder, states: list[DecoderState], slots: StepSlots, steps: int = 5) -> None:
    """Several steps of all sequences, each beside its own state alone."""
    alone = [state.select([n]) for state in states for n in range(state.sequences or 0)]
    for step in range(steps):
        ids = [(3 * step + 5 * n) % 24 for n in range(len(alone))]
        with torch.no_grad():
            got = decoder.step(torch.tensor(ids), slots)
        want = [usual(decoder, [i], state) for i, state in zip(ids, alone, strict=True)]
        close(f"step {step}", got=got, want=torch.cat([w for w, _ in want]), tol=TOL.cuts.f64)
        alone = [state for _, state in want]


@pytest.mark.parametrize("plan", ["none", "paper"])
@pytest.mark.parametrize("stack", ["hybrid", "dense"])
def test_steps_are_the_usual_call(stack: str, plan: str) -> None:
    decoder = toy(stack, PLANS[plan])
    states = [prompt(decoder, 4, 3), prompt(decoder, 7, 2, seed=1)]
    slots = slots_of(decoder, states, steps=5)
    check(decoder, states, slots)


@pytest.mark.parametrize("stack", ["hybrid", "dense"])
def test_many_answers_behind_one_prefix(stack: str) -> None:
    decoder = toy(stack)
    states = [prompt(decoder, 5, 2).fork(3)]
    slots = slots_of(decoder, states, steps=5)
    layer = next(part for part in slots.layers if isinstance(part, KeySlots))
    assert layer.fronts.everywhere
    assert len(layer.fronts.places) == 1
    assert layer.k.shape[:2] == (3, 5)
    check(decoder, states, slots)


def test_buffers_begin_again_from_other_states_that_fit() -> None:
    decoder = toy("hybrid")
    video = prompt(decoder, 5, 2)
    first, other = [video.fork(2)], [prompt(decoder, 5, 2, seed=3).fork(2)]
    slots = slots_of(decoder, first, steps=4)
    check(decoder, first, slots, steps=4)
    shared = prefixes(first)
    assert slots.fits(2, [4] * 7, shared)
    assert not slots.fits(2, [5] * 7, shared)
    assert not slots.fits(3, [4] * 7, shared)
    # The keys of another video stay where they are: only the table that points to them changes.
    assert slots.fits(2, [4] * 7, prefixes(other))
    apart = [prompt(decoder, 5, 2, seed=n).fork(1) for n in (0, 3)]
    assert not slots.fits(2, [4] * 7, prefixes(apart))
    with torch.no_grad():
        slots.load(other)
    check(decoder, other, slots, steps=3)


@pytest.mark.parametrize("stack", ["hybrid", "dense"])
def test_answers_behind_several_videos_read_each_where_it_lies(stack: str) -> None:
    decoder = toy(stack)
    first, second = prompt(decoder, 5, 2), prompt(decoder, 3, 3, seed=1)
    states = [first.fork(2), second.fork(1), first.fork(1), second]
    slots = slots_of(decoder, states, steps=4)
    layer = next(part for part in slots.layers if isinstance(part, KeySlots))
    assert len(layer.fronts.places) == 2
    assert not layer.fronts.everywhere
    check(decoder, states, slots, steps=4)


def test_a_sequence_that_ended_disturbs_nobody_and_is_read_no_more() -> None:
    decoder = toy("dense")
    states = [prompt(decoder, 3, 2), prompt(decoder, 4, 2, seed=1)]
    slots = slots_of(decoder, states, steps=8)
    check(decoder, states, slots, steps=1)
    _, want_state = usual(decoder, [5], states[1])
    slots.retire([0])
    assert slots.lengths[:, 0].eq(0).all()
    with torch.no_grad():
        got = decoder.step(torch.tensor([9, 11]), slots)
    want, _ = usual(decoder, [11], want_state)
    close("the other", got=got[1:], want=want, tol=TOL.cuts.f64)


def test_bytes_and_the_first_layer_that_is_broken() -> None:
    decoder = toy("hybrid")
    states = [prompt(decoder, 3, 2)]
    slots = slots_of(decoder, states, steps=2)
    want = 0
    for layer in slots.layers:
        if isinstance(layer, KeySlots):
            want += layer.k.nbytes + layer.v.nbytes
        elif isinstance(layer, ScanSlots):
            want += layer.ring.nbytes + layer.ssm.nbytes
    assert slots.nbytes == want
    assert slots.broken_layer() is None
    attention, scan = slots.layers[4], slots.layers[3]
    assert isinstance(attention, KeySlots)
    assert isinstance(scan, ScanSlots)
    attention.k[0, 0, 0, 0] = torch.inf
    assert slots.broken_layer() == 4
    scan.ssm[0, 0, 0, 0] = torch.nan
    assert slots.broken_layer() == 3


def test_a_layer_that_a_sequence_has_not_reached_starts_from_nothing() -> None:
    decoder = toy("hybrid")
    begun = prompt(decoder, 2, 2)
    half = DecoderState((*begun.memories[:3], None, None, None, None), begun.pending)
    states = [begun, half]
    slots = slots_of(decoder, states, steps=2)
    check(decoder, [begun, half], slots, steps=2)
