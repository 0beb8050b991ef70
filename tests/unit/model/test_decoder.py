"""The decoder as one call: turns, plans, precisions, gradients through a shared state."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tolerances import TOL, close
from tests.unit.model.toys import (
    HYBRID,
    PLANS,
    STACKS,
    chain,
    inputs_for,
    one,
    same_state,
    sequence,
    site,
    toy,
    whole,
)
from timeviper.core.errors import ConfigError
from timeviper.core.layout import TokenLayout
from timeviper.model import parts
from timeviper.model.config import TransferPlan
from timeviper.model.decoder import Decoder, last_of_each, with_plan
from timeviper.model.state import AttentionMemory, MambaMemory
from timeviper.model.tokens import Tokens

VIDEOS = TokenLayout.pack([one(2, [(2, 4)] * 5, 0, 0), one(1, [(2, 4)] * 3, 0, 0)])
ROWS = [0, 0, 0, 1, 1, 1]
QUESTIONS = [
    one(0, [], asked, answered)
    for asked, answered in ((3, 2), (5, 1), (2, 4), (6, 1), (1, 1), (4, 0))
]


def encoded_once(decoder: Decoder, video: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states of each question on a forked state."""
    _, state = decoder.run(Tokens.of(video, VIDEOS), more=True)
    asked = TokenLayout.pack(QUESTIONS)
    out, _ = decoder.run(Tokens.of(x, asked), state.select(ROWS))
    return [sequence(out, n)[-q.total :] for n, q in enumerate(QUESTIONS)]


def in_full(decoder: Decoder, video: torch.Tensor, x: torch.Tensor) -> list[torch.Tensor]:
    """Hidden states of each question after its whole video."""
    shown = video.split(list(VIDEOS.lengths))
    asked = x.split([q.total for q in QUESTIONS])
    outputs: list[torch.Tensor] = []
    for row, question, own in zip(ROWS, QUESTIONS, asked, strict=True):
        layout = chain(TokenLayout((VIDEOS.sequences[row],)), question)
        out, _ = decoder.run(Tokens.of(torch.cat([shown[row], own]), layout))
        outputs.append(out.hidden[-question.total :])
    return outputs


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("plan", ["none", "paper"])
def test_gradients_through_a_shared_state_are_those_of_full_runs(stack: str, plan: str) -> None:
    decoder = toy(stack, PLANS[plan])
    asked = TokenLayout.pack(QUESTIONS)
    got: list[dict[str, torch.Tensor]] = []
    for run in (encoded_once, in_full):
        video = inputs_for(VIDEOS).requires_grad_()
        hidden = torch.cat(run(decoder, video, inputs_for(asked, seed=1)))
        decoder.zero_grad()
        (hidden * torch.linspace(-1, 1, hidden.numel()).view_as(hidden)).sum().backward()
        used = {n: p.grad.clone() for n, p in decoder.named_parameters() if p.grad is not None}
        assert video.grad is not None
        got.append({"hidden": hidden.detach(), "video": video.grad, **used})
    assert got[0].keys() == got[1].keys()
    for name, want in got[1].items():
        if name.endswith("k_proj.bias") and stack == "dense" and "transfers" in name:
            # One bias for all keys shifts every score alike: its gradient is rounding.
            assert want.abs().max() < 1e-9
            continue
        close(name, got=got[0][name], want=want, tol=TOL.training.f64)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("plan", ["none", "paper"])
def test_bfloat16_autocast_trains_and_keeps_scan_states_in_float32(stack: str, plan: str) -> None:
    decoder = toy(stack, PLANS[plan], dtype=torch.float32)
    asked = TokenLayout.pack(QUESTIONS)
    video, x = (inputs_for(la, seed=s, dtype=torch.float32) for la, s in ((VIDEOS, 0), (asked, 1)))
    with torch.autocast("cpu", torch.bfloat16):
        _, state = decoder.run(Tokens.of(video, VIDEOS), more=True)
        got = encoded_once(decoder, video, x)
        want = in_full(decoder, video, x)
        torch.cat(got).square().sum().backward()
    for memory in state.memories:
        if isinstance(memory, MambaMemory):
            assert (memory.ssm.dtype, memory.tail.dtype) == (torch.float32, torch.bfloat16)
        if isinstance(memory, AttentionMemory):
            assert memory.k.dtype == torch.bfloat16
    assert got[0].dtype == torch.float32
    for name, parameter in decoder.named_parameters():
        if parameter.grad is not None:
            assert torch.isfinite(parameter.grad).all(), name
    # Rounding may rank two near tokens otherwise; most answers must agree closely.
    pairs = [(a.detach(), b.detach()) for a, b in zip(got, want, strict=True)]
    near = [bool((a - b).norm() < TOL.model.bf16 * b.norm()) for a, b in pairs]
    assert sum(near) >= len(near) - 1


@pytest.mark.parametrize("plan", ["none", "paper", "three", "whole"])
def test_bfloat16_weights_run(plan: str) -> None:
    decoder = toy("hybrid", PLANS[plan], dtype=torch.bfloat16)
    layout = one(2, [(2, 4)] * 5, 3, 2)
    out, state = whole(decoder, inputs_for(layout, dtype=torch.bfloat16), layout)
    assert out.hidden.dtype == torch.bfloat16
    assert torch.isfinite(out.hidden).all()
    scan = state.memories[0]
    assert isinstance(scan, MambaMemory)
    assert scan.ssm.dtype == torch.float32


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("plan", ["attention", "whole", "paper", "three"])
def test_each_video_of_a_conversation_is_ranked_by_its_own_question(stack: str, plan: str) -> None:
    turns = [one(1, [(1, 4)] * 4, 2, 2), one(0, [(1, 4)] * 3, 3, 1), one(0, [], 2, 2)]
    layout = chain(*turns)
    decoder, x = toy(stack, PLANS[plan]), inputs_for(layout)
    want, want_state = whole(decoder, x, layout)
    state, outputs = None, []
    for turn, rows in zip(turns, x.split([t.total for t in turns]), strict=True):
        with torch.no_grad():
            out, state = decoder.run(Tokens.of(rows, turn), state)
        outputs.append(out.hidden)
    close("turns", got=torch.cat(outputs), want=want.hidden, tol=TOL.cuts.f64)
    assert state is not None
    same_state("turns", state, want_state, TOL.cuts.f64)


def test_one_sequences_next_video_leaves_anothers_question_open() -> None:
    decoder = toy("hybrid", PLANS["paper"])
    first = [one(1, [(1, 4)] * 3, 2, 0), one(1, [(1, 4)] * 3, 2, 0)]
    then = [one(0, [(1, 4)] * 2, 3, 0), one(0, [], 3, 0)]
    pack, rest = TokenLayout.pack(first), TokenLayout.pack(then)
    x, y = inputs_for(pack), inputs_for(rest, seed=1)
    with torch.no_grad():
        held, state = decoder.run(Tokens.of(x, pack), more=True)
        out, state = decoder.run(Tokens.of(y, rest), state)
    for number in range(2):
        layout = chain(first[number], then[number])
        own = [t.split(list(la.lengths))[number] for t, la in ((x, pack), (y, rest))]
        want, want_state = whole(decoder, torch.cat(own), layout)
        got = torch.cat([sequence(held, number), sequence(out, number)])
        close(f"sequence {number}", got=got, want=want.hidden, tol=TOL.cuts.f64)
        same_state(f"sequence {number}", state.select([number]), want_state, TOL.cuts.f64)


def test_last_of_each_skips_sequences_without_tokens() -> None:
    hidden = torch.arange(5.0)[:, None]
    layout = TokenLayout.pack([one(2, [], 0, 0), TokenLayout(((),)), one(3, [], 0, 0)])
    assert last_of_each(Tokens.of(hidden, layout)).flatten().tolist() == [1.0, 4.0]
    nothing = TokenLayout(())
    assert len(last_of_each(Tokens.of(hidden[:0], nothing))) == 0


@pytest.mark.parametrize("stack", STACKS)
def test_logits_use_the_head_or_the_tied_embedding(stack: str) -> None:
    decoder = toy(stack)
    hidden = torch.randn(3, 16, dtype=torch.float64)
    table = decoder.embed_tokens.weight if decoder.lm_head is None else decoder.lm_head.weight
    assert (decoder.lm_head is None) == decoder.config.tie_word_embeddings
    close("logits", got=decoder.logits(hidden), want=hidden @ table.T, tol=TOL.model.f64)
    ids = torch.tensor([3, 0, 3])
    assert torch.equal(decoder.embed(ids), decoder.embed_tokens.weight[ids])


def test_forward_is_run_without_the_kinds() -> None:
    decoder = toy("hybrid", PLANS["paper"])
    layout = one(1, [(1, 4)] * 3, 2, 2)
    x = inputs_for(layout)
    with torch.no_grad():
        got, state = decoder(x, layout=layout)
    want, want_state = whole(decoder, x, layout)
    assert torch.equal(got, want.hidden)
    same_state("forward", state, want_state, 0.0)


def test_other_plans_share_the_weights() -> None:
    decoder = toy("hybrid", PLANS["paper"])
    layout = one(1, [(1, 4)] * 3, 2, 2)
    x = inputs_for(layout)
    full = with_plan(decoder, TransferPlan())
    assert full.embed_tokens is decoder.embed_tokens
    assert whole(full, x, layout)[0].lengths == (layout.total,)
    dropping = with_plan(decoder, TransferPlan(sites=(site(1, "uniform_stream", transfer=False),)))
    assert whole(dropping, x, layout)[0].lengths == (layout.total - 6,)
    assert len(decoder.config.transfer.sites) == 2
    with pytest.raises(ConfigError, match=r"layers 1, 4; got layers \[2\]"):
        with_plan(decoder, TransferPlan(sites=(site(2, "attention"),)))
    with pytest.raises(ConfigError, match=r"attention layer \(2, 4\)"):
        with_plan(decoder, TransferPlan(sites=(site(1, "attention", transfer=False),)))


def test_a_preset_scan_chunk_does_not_change_the_result() -> None:
    layout = one(1, [(1, 4)] * 6, 2, 2)
    x = inputs_for(layout)
    decoder = toy("hybrid")
    assert HYBRID.mamba is not None
    other = Decoder(replace(HYBRID, mamba=replace(HYBRID.mamba, chunk_size=64))).double()
    other.load_state_dict(decoder.state_dict())
    got, want = whole(other, x, layout)[0], whole(decoder, x, layout)[0]
    close("chunk size", got=got.hidden, want=want.hidden, tol=TOL.cuts.f64)


@pytest.mark.parametrize("stack", STACKS)
@pytest.mark.parametrize("plan", ["none", "paper", "whole"])
def test_a_long_sequence_goes_through_a_layer_in_parts(
    stack: str, plan: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    decoder = toy(stack, PLANS[plan])
    video, question = one(1, [(1, 4)] * 6, 0, 0), one(0, [], 3, 1)
    x, y = inputs_for(video), inputs_for(question, seed=1)
    want, want_state = whole(decoder, torch.cat([x, y]), chain(video, question))
    monkeypatch.setitem(parts._AT_ONCE, "cpu", 5)
    calls: list[int] = []
    decoder.layers[-1].register_forward_pre_hook(
        lambda module, args: calls.append(len(args[0].hidden))
    )
    with torch.no_grad():
        first, state = decoder.run(Tokens.of(x, video), more=True)
        second, state = decoder.run(Tokens.of(y, question), state)
    assert len(calls) > 2
    assert max(calls) == 5
    got = torch.cat([first.hidden, second.hidden])
    close("in parts", got=got, want=want.hidden, tol=TOL.cuts.f64)
    same_state("in parts", state, want_state, TOL.cuts.f64)
    # With gradients a layer takes all at once, and gives the same.
    out, _ = decoder.run(Tokens.of(torch.cat([x, y]), chain(video, question)))
    assert max(calls) > 5
    close("with gradients", got=out.hidden, want=want.hidden, tol=TOL.cuts.f64)
