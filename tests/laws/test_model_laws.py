"""Laws of the decoder: however tokens are cut, packed, batched or forked, results agree."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.tolerances import TOL, close
from tests.unit.model.toys import (
    PLANS,
    chain,
    inputs_for,
    one,
    pieces,
    same_state,
    same_tokens,
    sequence,
    site,
    toy,
    whole,
)
from timeviper.core.layout import TokenLayout
from timeviper.model.decoder import Decoder
from timeviper.model.tokens import Tokens, join

TIGHT = TOL.cuts.f64
FRAMES = st.lists(st.tuples(st.integers(0, 2), st.integers(1, 5)), max_size=6)
CONVERSATIONS = st.builds(one, st.integers(0, 3), FRAMES, st.integers(1, 4), st.integers(0, 3))
TALKS = st.builds(chain, CONVERSATIONS, CONVERSATIONS)
BATCHES = st.lists(st.one_of(CONVERSATIONS, TALKS), min_size=1, max_size=3).map(TokenLayout.pack)


@st.composite
def batches_with_cuts(draw: st.DrawFn) -> tuple[TokenLayout, list[list[int]]]:
    """A batch and places to cut every sequence, each at its own."""
    layout = draw(BATCHES)
    count = draw(st.integers(1, 4))
    rows = [
        sorted(draw(st.lists(st.integers(0, n), min_size=count, max_size=count)))
        for n in layout.lengths
    ]
    return layout, [list(cut) for cut in zip(*rows, strict=True)]


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("stack", ["hybrid", "dense"])
@settings(max_examples=5)
@given(case=batches_with_cuts())
def test_any_cutting_equals_the_whole(
    stack: str, plan: str, case: tuple[TokenLayout, list[list[int]]]
) -> None:
    layout, cuts = case
    decoder = toy(stack, PLANS[plan])
    x = inputs_for(layout)
    want, want_state = whole(decoder, x, layout)
    got, got_state = pieces(decoder, x, layout, cuts)
    same_tokens("cut", got, want, TIGHT)
    same_state("cut", got_state, want_state, TIGHT)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("stack", ["hybrid", "dense"])
@settings(max_examples=4)
@given(layouts=st.lists(st.one_of(CONVERSATIONS, TALKS), min_size=2, max_size=4))
def test_packed_equals_each_alone(stack: str, plan: str, layouts: list[TokenLayout]) -> None:
    decoder = toy(stack, PLANS[plan])
    pack = TokenLayout.pack(layouts)
    x = inputs_for(pack)
    together, state = whole(decoder, x, pack)
    for number, rows in enumerate(x.split(list(pack.lengths))):
        alone, own_state = whole(decoder, rows, layouts[number])
        close("packed", got=sequence(together, number), want=alone.hidden, tol=TIGHT)
        same_state("packed", state.select([number]), own_state, TIGHT)


@pytest.mark.parametrize("plan", ["none", "paper", "three", "whole"])
@pytest.mark.parametrize("stack", ["hybrid", "dense"])
def test_prefill_then_teacher_forced_steps_equal_the_full_pass(stack: str, plan: str) -> None:
    decoder = toy(stack, PLANS[plan])
    layout = TokenLayout.pack(
        [one(2, [(2, 4)] * 5, 3, 4), one(3, [(1, 4)] * 2, 2, 4), one(2, [], 3, 4)]
    )
    x = inputs_for(layout)
    want, want_state = whole(decoder, x, layout)
    prompts = [n - 4 for n in layout.lengths]
    steps = [[n + k for n in prompts] for k in range(4)]
    got, got_state = pieces(decoder, x, layout, steps)
    same_tokens("decode", got, want, TIGHT)
    same_state("decode", got_state, want_state, TIGHT)


@pytest.mark.parametrize("plan", PLANS)
@pytest.mark.parametrize("stack", ["hybrid", "dense"])
@settings(max_examples=5)
@given(
    videos=st.lists(FRAMES, min_size=1, max_size=2),
    questions=st.lists(
        st.tuples(st.integers(0, 1), st.integers(1, 5), st.integers(0, 3)), min_size=1, max_size=5
    ),
)
def test_many_questions_on_videos_encoded_once_equal_full_runs(
    stack: str,
    plan: str,
    videos: list[list[tuple[int, int]]],
    questions: list[tuple[int, int, int]],
) -> None:
    decoder = toy(stack, PLANS[plan])
    video_layouts = [one(2, frames, 0, 0) for frames in videos]
    shown = TokenLayout.pack(video_layouts)
    video_x = inputs_for(shown)
    rows = [min(which, len(videos) - 1) for which, _, _ in questions]
    asked_layouts = [one(0, [], q, a) for _, q, a in questions]
    asked = TokenLayout.pack(asked_layouts)
    x = inputs_for(asked, seed=1)
    with torch.no_grad():
        first, state = decoder.run(Tokens.of(video_x, shown), more=True)
        second, state = decoder.run(Tokens.of(x, asked), state.select(rows))
    parts = video_x.split(list(shown.lengths))
    for number, (row, own) in enumerate(zip(rows, x.split(list(asked.lengths)), strict=True)):
        layout = chain(video_layouts[row], asked_layouts[number])
        want, want_state = whole(decoder, torch.cat([parts[row], own]), layout)
        got = torch.cat([sequence(first, row), sequence(second, number)])
        close("encoded once", got=got, want=want.hidden, tol=TIGHT)
        same_state("encoded once", state.select([number]), want_state, TIGHT)


@pytest.mark.parametrize("plan", ["none", "paper", "whole"])
@pytest.mark.parametrize("stack", ["hybrid", "dense"])
def test_forks_do_not_disturb_each_other(stack: str, plan: str) -> None:
    decoder = toy(stack, PLANS[plan])
    video = TokenLayout.pack([one(2, [(1, 4)] * 6, 0, 0), one(1, [(1, 4)] * 3, 0, 0)])
    more = [TokenLayout.pack([one(0, [], 3, n), one(0, [], 2, n + 1)]) for n in (2, 3, 4)]
    video_x, xs = inputs_for(video), [inputs_for(layout, seed=k) for k, layout in enumerate(more)]

    def steps(order: list[int]) -> dict[int, Tokens]:
        """Each question in three calls, the calls of all questions interleaved in `order`."""
        with torch.no_grad():
            _, root = decoder.run(Tokens.of(video_x, video), more=True)
            # Room to spare: forks now share a buffer that the next append may write into.
            room = TokenLayout.pack([one(1, [], 0, 0)] * 2)
            _, root = decoder.run(Tokens.of(inputs_for(room, seed=9), room), root, more=True)
            states = dict.fromkeys(range(3), root)
            outputs: dict[int, list[Tokens]] = {k: [] for k in range(3)}
            for k in order:
                done = sum(sum(part.lengths) for part in outputs[k]) > 0
                layout, x = more[k], xs[k]
                head, tail = layout.split([3, 2])
                mask = torch.zeros(layout.total, dtype=torch.bool)
                mask[:3] = True
                mask[layout.lengths[0] : layout.lengths[0] + 2] = True
                now = Tokens.of(x[~mask], tail) if done else Tokens.of(x[mask], head)
                out, states[k] = decoder.run(now, states[k])
                outputs[k].append(out)
        return {k: join(parts) for k, parts in outputs.items()}

    want = steps([0, 0, 1, 1, 2, 2])
    got = steps([2, 1, 0, 1, 0, 2])
    for k in range(3):
        same_tokens(f"fork {k}", got[k], want[k], 0.0)
    alone = pieces_of_fork(decoder, video, more[1], video_x, xs[1])
    close("alone", got=got[1].hidden, want=alone, tol=TIGHT)


def pieces_of_fork(
    decoder: Decoder,
    video: TokenLayout,
    asked: TokenLayout,
    video_x: torch.Tensor,
    x: torch.Tensor,
) -> torch.Tensor:
    """The same question by full runs, without any fork."""
    room = inputs_for(TokenLayout.pack([one(1, [], 0, 0)] * 2), seed=9)
    rows = []
    for number in range(2):
        shown = TokenLayout((video.sequences[number],))
        question = TokenLayout((asked.sequences[number],))
        layout = chain(shown, one(1, [], 0, 0), question)
        own = [t.split(list(la.lengths))[number] for t, la in ((video_x, video), (x, asked))]
        out, _ = whole(decoder, torch.cat([own[0], room[number : number + 1], own[1]]), layout)
        before, _ = whole(
            decoder, torch.cat([own[0], room[number : number + 1]]), chain(shown, one(1, [], 0, 0))
        )
        rows.append(out.hidden[len(before.hidden) :])
    return torch.cat(rows)


@pytest.mark.parametrize("stack", ["hybrid", "dense"])
@pytest.mark.parametrize("plan", ["stream", "whole", "attention", "paper"])
def test_a_closed_gate_is_plain_dropping_bit_for_bit(stack: str, plan: str) -> None:
    layout = TokenLayout.pack([one(2, [(2, 4)] * 5, 3, 2), one(1, [(0, 3)] * 4, 1, 1)])
    x = inputs_for(layout, dtype=torch.float32)
    dropping = [site(s.layer, s.policy, s.drop_rate, transfer=False) for s in PLANS[plan]]
    closed = toy(stack, PLANS[plan], dtype=torch.float32, alpha=0.0)
    plain = toy(stack, dropping, dtype=torch.float32)
    plain.load_state_dict({k: v for k, v in closed.state_dict().items() if "transfers" not in k})
    got, want = whole(closed, x, layout)[0], whole(plain, x, layout)[0]
    assert got.lengths == want.lengths
    assert torch.equal(got.hidden, want.hidden)
    open_gate = whole(toy(stack, PLANS[plan], dtype=torch.float32), x, layout)[0]
    assert not torch.equal(open_gate.hidden, want.hidden)


@pytest.mark.parametrize("policy", ["uniform_stream", "uniform_whole", "attention"])
def test_keeping_all_drops_nothing_and_skips_the_cross_attention(policy: str) -> None:
    layout = TokenLayout.pack([one(2, [(2, 4)] * 3, 3, 2), one(1, [(0, 3)] * 2, 1, 1)])
    x = inputs_for(layout)
    keeping = toy("hybrid", [site(4, policy, 0.0)])
    plain = toy("hybrid")
    plain.load_state_dict({k: v for k, v in keeping.state_dict().items() if "transfers" not in k})
    for parameter in keeping.transfers.parameters():
        # Whatever passed through the module would not be a number.
        torch.nn.init.constant_(parameter, float("nan"))
    got, state = whole(keeping, x, layout)
    want, _ = whole(plain, x, layout)
    assert torch.equal(got.hidden, want.hidden)
    assert state.pending[0] is not None
    assert state.pending[0].dropped is None
    assert state.pending[0].parked == ()


@pytest.mark.parametrize("stack", ["hybrid", "dense"])
def test_training_mode_computes_what_inference_computes(stack: str) -> None:
    layout = TokenLayout.pack([one(2, [(2, 4)] * 5, 3, 2), one(1, [(0, 3)] * 4, 1, 1)])
    decoder, x = toy(stack, PLANS["paper"]), inputs_for(layout)
    training, _ = decoder.train().run(Tokens.of(x, layout))
    inference, _ = whole(decoder.eval(), x, layout)
    assert training.lengths == inference.lengths
    assert torch.equal(training.hidden.detach(), inference.hidden)


@pytest.mark.parametrize("stack", ["hybrid", "dense"])
@pytest.mark.parametrize("plan", ["none", "paper", "three"])
def test_padding_other_sequences_with_nothing_changes_nothing(stack: str, plan: str) -> None:
    decoder = toy(stack, PLANS[plan])
    layout = one(2, [(2, 4)] * 5, 3, 2)
    x = inputs_for(layout)
    alone, _ = whole(decoder, x, layout)
    empty = TokenLayout(((),))
    for number, pack in enumerate([[layout, empty], [empty, layout, empty], [empty, layout]]):
        got, _ = whole(decoder, x, TokenLayout.pack(pack))
        close(f"among empty sequences {number}", got=got.hidden, want=alone.hidden, tol=TIGHT)
