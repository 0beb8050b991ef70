"""Transfer sites: how many tokens stay, who receives, what waits, and what is refused."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.tolerances import TOL, close
from tests.unit.model.toys import inputs_for, one, pieces, site, toy, whole
from timeviper.core.errors import LayoutError
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.inference.planning.live_bytes import LiveBytes
from timeviper.model.config import TransferSite
from timeviper.model.decoder import Decoder
from timeviper.model.state import AttentionMemory, DecoderState
from timeviper.model.tokens import Tokens, join
from timeviper.model.transv import Transfer

VISION, INSTRUCTION = SpanKind.VISION.code, SpanKind.INSTRUCTION.code
PAPER = (site(1, "uniform_stream", 0.5), site(4, "attention", 0.9))


def through_site(
    decoder: Decoder, layout: TokenLayout, number: int = 0, *, more: bool = False
) -> tuple[Tokens, Tokens]:
    """Tokens before and after one site alone."""
    before = Tokens.of(inputs_for(layout), layout)
    with torch.no_grad():
        after, _ = decoder.runner(number)(before, None, None, more=(more,) * len(before.lengths))
    return before, after


def reached(decoder: Decoder, layout: TokenLayout) -> list[int]:
    """Vision tokens that each layer sees, for one sequence."""
    seen: list[int] = []
    for block in decoder.layers:
        block.register_forward_pre_hook(lambda module, args: seen.append(len(args[0].hidden)))
    whole(decoder, inputs_for(layout), layout)
    rest = layout.total - layout.count(SpanKind.VISION)[0]
    return [n - rest for n in seen]


@pytest.mark.parametrize("stack", ["hybrid", "dense"])
def test_the_papers_rates_leave_five_percent(stack: str) -> None:
    layout = one(3, [(2, 4)] * 20, 4, 2)
    assert reached(toy(stack, PAPER), layout)[:6] == [80, 40, 40, 40, 4, 4]


@pytest.mark.parametrize(
    ("sites", "present"),
    [
        ((site(1, "uniform_whole", 0.9),), [77, 7, 7, 7, 7, 7, 7]),
        ((site(1, "uniform_stream", 0.9),), [77, 7, 7, 7, 7, 7, 7]),
        (
            (site(0, "uniform_stream", 0.25), site(2, "attention", 0.5)),
            [57, 57, 28, 28, 28, 28, 28],
        ),
        ((site(2, "attention", 0.99),), [77, 77, 1, 1, 1, 1, 1]),
        (
            (
                site(1, "uniform_stream", 0.3),
                site(3, "uniform_whole", 0.5),
                site(6, "uniform_whole"),
            ),
            [77, 53, 53, 26, 26, 26, 13],
        ),
        ((site(1, "uniform_stream", 0.5, transfer=False),), [77, 38, 38, 38, 38, 38, 38]),
    ],
)
def test_rates_are_of_what_is_present_at_the_site(
    sites: tuple[TransferSite, ...], present: list[int]
) -> None:
    assert reached(toy("hybrid", sites), one(3, [(2, 7)] * 11, 4, 2)) == present


@pytest.mark.parametrize("policy", ["uniform_stream", "uniform_whole", "attention"])
def test_only_instruction_tokens_receive(policy: str) -> None:
    decoder = toy("hybrid", [site(4, policy, 0.5)])
    layout = TokenLayout.pack(
        [one(2, [(1, 4)] * 3, 3, 2), one(3, [], 2, 1), one(1, [(0, 6)], 1, 4)]
    )
    before, after = through_site(decoder, layout)
    kinds = after.kinds
    ends = np.cumsum(after.lengths)
    with_video = np.ones(len(kinds), dtype=bool)
    with_video[ends[0] : ends[1]] = False
    rest = before.kinds != VISION
    changed = torch.zeros(len(kinds), dtype=torch.bool)
    # Tokens other than vision keep their order, so they pair up.
    moved = after.hidden[torch.from_numpy(kinds != VISION)] != before.hidden[torch.from_numpy(rest)]
    changed[torch.from_numpy(kinds != VISION)] = moved.any(-1)
    assert changed.tolist() == ((kinds == INSTRUCTION) & with_video).tolist()
    stayed = after.hidden[torch.from_numpy(kinds == VISION)]
    assert all((before.hidden == row).all(-1).any() for row in stayed)


def test_vision_text_and_marks_keep_their_order() -> None:
    decoder = toy("hybrid", [site(1, "uniform_stream", 0.5, transfer=False)])
    layout = one(2, [(1, 2)] * 3, 2, 1)
    before = Tokens.of(torch.arange(14.0).double()[:, None].expand(-1, 16).contiguous(), layout)
    after, _ = decoder.runner(0)(before, None, None, more=(False,))
    # Of each frame's tokens (3, 4), (6, 7), (9, 10) the second stays.
    assert after.hidden[:, 0].tolist() == [0, 1, 2, 4, 5, 7, 8, 10, 11, 12, 13]


def test_the_transfer_is_cross_attention_with_a_gate() -> None:
    decoder = toy("dense", [site(1, "uniform_stream", 0.5)], alpha=0.3)
    transfer = decoder.runner(0).transfer
    assert isinstance(transfer, Transfer)
    layout = one(2, [(1, 4)] * 3, 3, 2)
    before, after = through_site(decoder, layout)
    vision = before.hidden[torch.from_numpy(before.kinds == VISION)]
    asked = before.hidden[torch.from_numpy(before.kinds == INSTRUCTION)]
    dropped = vision[0::2]
    with torch.no_grad():
        q = transfer.q_proj(asked).view(3, 4, 4)
        k = transfer.k_proj(dropped).view(6, 2, 4).repeat_interleave(2, 1)
        v = transfer.v_proj(dropped).view(6, 2, 4).repeat_interleave(2, 1)
        weights = (torch.einsum("qhd,khd->hqk", q, k) / 2).softmax(-1)
        told = transfer.o_proj(torch.einsum("hqk,khd->qhd", weights, v).flatten(1))
        want = asked + torch.tanh(torch.tensor(0.3)) * told
    got = after.hidden[torch.from_numpy(after.kinds == INSTRUCTION)]
    close("transfer", got=got, want=want, tol=1e-7)


def test_a_video_waits_for_its_question_at_a_ranked_site() -> None:
    decoder = toy("hybrid", [site(4, "attention", 0.5)])
    layout = one(2, [(1, 4)] * 3, 0, 0)
    out, state = whole(decoder, inputs_for(layout), layout)
    # The text and the first mark stand before the video and need not wait.
    assert out.lengths == (3,)
    pending = state.pending[0]
    assert pending is not None
    assert pending.seen == (0,)
    assert sum(part.lengths[0] for part in pending.parked) == layout.total - 3
    assert pending.nbytes == (layout.total - 3) * 16 * 8
    question = one(0, [], 2, 0)
    with torch.no_grad():
        asked = Tokens.of(inputs_for(question), question)
        held, held_state = decoder.run(asked, state, more=True)
        assert held.lengths == (0,)
        out, state = decoder.run(asked, state)
    assert out.lengths == (6 + 2 + 2,)
    assert held_state.pending[0] is not None
    assert held_state.pending[0].parked
    assert state.pending[0] is not None
    assert state.pending[0].parked == ()
    assert state.pending[0].seen == (12,)


def test_an_empty_call_lets_go_what_was_held() -> None:
    decoder = toy("hybrid", PAPER)
    layout = TokenLayout.pack([one(2, [(1, 4)] * 3, 3, 0), one(1, [(1, 4)], 2, 0)])
    x = inputs_for(layout)
    want, _ = whole(decoder, x, layout)
    got, _ = pieces(decoder, x, layout, [list(layout.lengths)])
    assert got.lengths == want.lengths
    close("flushed", got=got.hidden, want=want.hidden, tol=TOL.cuts.f64)


@pytest.mark.parametrize("policy", ["uniform_whole", "attention"])
@pytest.mark.parametrize("cut", [False, True])
def test_an_answer_without_a_question_is_refused(policy: str, cut: bool) -> None:
    decoder = toy("hybrid", [site(4, policy, 0.5)])
    layout = TokenLayout.pack([one(1, [(0, 4)], 1, 1), one(1, [(0, 4)], 0, 2)])
    x = inputs_for(layout)
    with pytest.raises(LayoutError, match="an answer of sequence 1 to no instruction"):
        pieces(decoder, x, layout, [[7, 5]] if cut else [])


def test_full_parked_parts_are_never_copied_while_a_video_streams(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    # Six tokens of a clip reach the second site: three clips make a part.
    monkeypatch.setattr("timeviper.model.transv.AT_ONCE", 18)
    decoder = toy("hybrid", [site(1, "uniform_stream"), site(4, "attention", 0.9)])
    clip = one(0, [(1, 4)] * 2, 0, 0)
    x = inputs_for(clip)
    state: DecoderState | None = None
    held: list[int] = []
    for _ in range(30):
        with torch.no_grad():
            _, state = decoder.run(Tokens.of(x, clip), state, more=True)
        pending = state.pending[1]
        assert pending is not None
        parts = [part.hidden.data_ptr() for part in pending.parked]
        assert parts[: len(held) - 1] == held[:-1]
        assert len(parts) - len(held) in (0, 1)
        held = parts
    assert len(held) == 10


@pytest.mark.parametrize("parts", ["as it came", "one part, as a file holds it"])
def test_a_question_copies_nothing_as_long_as_the_queue(
    parts: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("pile", "keep", "transv"):
        monkeypatch.setattr(f"timeviper.model.{module}.AT_ONCE", 32)
    decoder = toy("hybrid", [site(4, "attention", 0.99, transfer=False)], dtype=torch.float32)
    state = parked_video(decoder, 50)
    waiting = state.pending[0]
    assert waiting is not None
    assert len(waiting.parked) > 25
    if parts != "as it came":
        waiting = replace(waiting, parked=(join(waiting.parked),))
        state = replace(state, pending=(waiting,))
    queue = waiting.nbytes
    held = [part.hidden.data_ptr() for part in waiting.parked]
    known = [part.hidden for part in waiting.parked]
    for memory in state.memories:
        known += [memory.k, memory.v] if isinstance(memory, AttentionMemory) else []
    question, made = one(0, [], 3, 0), list[int]()
    with torch.inference_mode(), LiveBytes(refuse=made.append, ignore=known):
        out, after = decoder.run(
            Tokens.of(inputs_for(question, dtype=torch.float32), question), state
        )
    assert out.lengths == (10 + 3,)
    # The scores of four heads are a quarter of a token of this toy.
    assert max(made) < queue / 3
    assert after.pending[0] is not None
    assert after.pending[0].parked == ()
    assert [part.hidden.data_ptr() for part in waiting.parked] == held


def parked_video(decoder: Decoder, clips: int) -> DecoderState:
    """A video of clips of 20 vision tokens each that waits for its question."""
    clip = one(0, [(0, 20)], 0, 0)
    state: DecoderState | None = None
    for number in range(clips):
        x = inputs_for(clip, seed=number, dtype=decoder.norm.weight.dtype)
        with torch.no_grad():
            _, state = decoder.run(Tokens.of(x, clip), state, more=True)
    assert state is not None
    return state


@pytest.mark.parametrize("transfer", [False, True])
def test_a_question_in_several_calls_leaves_the_queue_where_it_is(
    transfer: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timeviper.model.transv.AT_ONCE", 32)
    decoder = toy("hybrid", [site(4, "attention", 0.9, transfer=transfer)])
    state = parked_video(decoder, 10)
    question = one(0, [], 6, 0)
    x = inputs_for(question)
    with torch.no_grad():
        want, _ = decoder.run(Tokens.of(x, question), state)
        begun = state
        for first in (0, 2, 4):
            part = one(0, [], 2, 0)
            out, begun = decoder.run(Tokens.of(x[first : first + 2], part), begun, more=first < 4)
            before, now = state.pending[0], begun.pending[0]
            assert before is not None
            assert now is not None
            if first < 4:
                assert out.lengths == (0,)
                kept = [part.hidden.data_ptr() for part in now.parked]
                assert kept[:-1] == [p.hidden.data_ptr() for p in before.parked][: len(kept) - 1]
        # Text behind a question lets go of it, even where more is to come.
        text = TokenLayout.of((SpanKind.TEXT, 1))
        held = decoder.run(Tokens.of(x, question), state, more=True)[1]
        freed, _ = decoder.run(Tokens.of(x[:1], text), held, more=True)
    assert freed.lengths == (want.lengths[0] + 1,)
    close("in parts", got=out.hidden, want=want.hidden, tol=TOL.cuts.f64)
    close("freed by text", got=freed.hidden[:-1], want=want.hidden, tol=TOL.cuts.f64)


def test_gradient_reaches_the_gate_first_and_the_module_when_it_opens() -> None:
    layout = TokenLayout.pack([one(2, [(2, 4)] * 5, 3, 2), one(1, [(0, 3)] * 4, 1, 1)])
    for alpha, reaches in ((0.0, False), (0.1, True)):
        decoder = toy("hybrid", PAPER, dtype=torch.float32, alpha=alpha)
        x = inputs_for(layout, dtype=torch.float32).requires_grad_()
        out, _ = decoder.run(Tokens.of(x, layout))
        (decoder.logits(out.hidden) * torch.randn(24)).sum().backward()
        for name, parameter in decoder.named_parameters():
            if name == "embed_tokens.weight":
                continue
            assert parameter.grad is not None, name
            assert torch.isfinite(parameter.grad).all(), name
            arrives = bool(parameter.grad.any())
            assert arrives == (reaches or "transfers" not in name or "alpha" in name), name
        assert x.grad is not None
        # A gate that is closed lets no gradient through to what was dropped.
        assert x.grad.any(-1).sum() > layout.total // 2
