"""States of several decoders' runs as one state: every sequence goes on as it would alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tolerances import TOL, close
from tests.toy_engine import SITES, toy_config, toy_model
from timeviper.core.errors import LayoutError
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.decoder import Decoder
from timeviper.model.state import AttentionMemory, DecoderState, stack
from timeviper.model.tokens import Tokens

TEXT, VISION = (SpanKind.TEXT, 2), SpanKind.VISION
ASKED = (SpanKind.INSTRUCTION, 3)


def _run(
    decoder: Decoder, layout: TokenLayout, seed: int, state: DecoderState | None = None, **more
) -> tuple[Tokens, DecoderState]:
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(layout.total, 24, generator=generator, dtype=torch.float64)
    return decoder.run(Tokens.of(x, layout), state, **more)


@pytest.mark.parametrize("sites", SITES)
@torch.inference_mode()
def test_law_stacked_states_go_on_as_each_alone(sites):
    decoder = toy_model(toy_config(sites)).decoder
    # Waiting for a question; answered; text only, so that nothing was ever dropped.
    prompts = [
        _run(decoder, TokenLayout.of(TEXT, (VISION, 7)), 1, more=True)[1],
        _run(decoder, TokenLayout.of(TEXT, (VISION, 12), ASKED), 2)[1],
        _run(decoder, TokenLayout.of(TEXT), 3)[1],
    ]
    after = [TokenLayout.of(ASKED), TokenLayout.of((SpanKind.ANSWER, 1)), TokenLayout.of(ASKED)]
    xs = [
        torch.randn(a.total, 24, generator=torch.Generator().manual_seed(10 + n)).double()
        for n, a in enumerate(after)
    ]
    want = [decoder.run(Tokens.of(x, a), s) for x, a, s in zip(xs, after, prompts, strict=True)]
    out, state = decoder.run(Tokens.of(torch.cat(xs), TokenLayout.pack(after)), stack(prompts))
    assert out.lengths == tuple(length for tokens, _ in want for length in tokens.lengths)
    close("hidden", got=out.hidden, want=torch.cat([w.hidden for w, _ in want]), tol=TOL.cuts.f64)
    for number, (_, one) in enumerate(want):
        own = state.select([number])
        for got, memory in zip(own.memories, one.memories, strict=True):
            assert (got is None) == (memory is None)
            if memory is not None:
                assert got is not None
                assert got.nbytes == memory.nbytes


@torch.inference_mode()
def test_stacking_leaves_its_parts_as_they_were():
    decoder = toy_model(toy_config("transv")).decoder
    first = _run(decoder, TokenLayout.of(TEXT, (VISION, 6), ASKED), 1)[1]
    second = _run(decoder, TokenLayout.of(TEXT, (VISION, 9), ASKED), 2)[1]
    step = TokenLayout.of((SpanKind.ANSWER, 1))
    want = _run(decoder, step, 5, first)[0].hidden
    pair = stack([first, second])
    _run(decoder, TokenLayout.pack([step, step]), 6, pair)
    close("first", got=_run(decoder, step, 5, first)[0].hidden, want=want, tol=0.0)


@torch.inference_mode()
def test_a_stack_counts_sequences_of_packed_states():
    decoder = toy_model(toy_config("transv")).decoder
    pair = TokenLayout.pack([TokenLayout.of(TEXT, (VISION, 4)), TokenLayout.of((VISION, 5))])
    packed = _run(decoder, pair, 1, more=True)[1]
    single = _run(decoder, TokenLayout.of(TEXT, (VISION, 3)), 2, more=True)[1]
    state = stack([single, packed])
    seen = [p.seen for p in state.pending if p is not None]
    assert seen[0] == (3, 4, 5)
    parked = [part for p in state.pending if p is not None for part in p.parked]
    assert [part.lengths for part in parked] == [(1, 2, 2)]
    assert np.array_equal(parked[0].kinds, np.full(5, VISION.code))


@torch.inference_mode()
def test_room_changes_nothing_and_spares_the_copies():
    decoder = toy_model(toy_config("transv")).decoder
    first = _run(decoder, TokenLayout.of(TEXT, (VISION, 8)), 1, more=True)[1]
    roomy = first.reserve(4.0, 10)
    assert roomy.nbytes == first.nbytes
    asked = TokenLayout.of((VISION, 9), ASKED)
    (want, _), (got, state) = (_run(decoder, asked, 2, s) for s in (first, roomy))
    close("hidden", got=got.hidden, want=want.hidden, tol=0.0)
    before, after = roomy.memories[2], state.memories[2]
    assert isinstance(before, AttentionMemory)
    assert isinstance(after, AttentionMemory)
    assert before.k.shape[1] == 4 * before.lengths[0] + 10
    assert before.k.data_ptr() == after.k.data_ptr()
    site, waits = roomy.pending[0], state.pending[0]
    assert site is not None
    assert waits is not None
    assert site.dropped is not None
    assert waits.dropped is not None
    assert site.dropped.k.data_ptr() == waits.dropped.k.data_ptr()


def test_a_single_state_is_returned_and_nothing_begun_is_refused():
    decoder = toy_model(toy_config()).decoder
    begun = _run(decoder, TokenLayout.of(TEXT), 1)[1]
    assert stack([begun]) is begun
    with pytest.raises(LayoutError, match="have begun"):
        stack([begun, decoder.start()])
