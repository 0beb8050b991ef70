"""Which tokens stay: formulas, independence of cutting, and the layer's own softmax row."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tolerances import TOL, close
from tests.unit.model.toys import HIDDEN, chain, inputs_for, one, site, toy
from timeviper.core.errors import ConfigError, LayoutError
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.attention import AttentionMixer
from timeviper.model.block import Block, Stream
from timeviper.model.keep import (
    attention_keep,
    question_scores,
    stream_keep,
    whole_keep,
)
from timeviper.model.pile import Pile
from timeviper.model.state import AttentionMemory
from timeviper.model.tokens import Tokens

RATES = st.sampled_from([0.0, 0.1, 0.25, 0.3, 0.5, 0.7, 0.9, 0.95])


def tokens_of(layout: TokenLayout) -> Tokens:
    return Tokens.of(inputs_for(layout), layout)


def kept_vision(tokens: Tokens, mask: np.ndarray) -> list[list[int]]:
    """Numbers of the vision tokens that stay, a list for each sequence."""
    rows = []
    for start, length in zip(tokens.starts, tokens.lengths, strict=True):
        own = tokens.kinds[start : start + length] == SpanKind.VISION.code
        rows.append(np.flatnonzero(mask[start : start + length][own]).tolist())
    return rows


@given(rate=RATES, counts=st.lists(st.integers(0, 40), min_size=1, max_size=3))
def test_stream_keeps_where_the_floor_rises(rate: float, counts: list[int]) -> None:
    tokens = tokens_of(TokenLayout.pack([one(1, [(1, n)], 1, 0) for n in counts]))
    keep = site(0, "uniform_stream", rate).keep
    mask = stream_keep(tokens, (0,) * len(counts), keep)
    want = [
        [i for i in range(n) if ((i + 1) * keep).__floor__() > (i * keep).__floor__()]
        for n in counts
    ]
    assert kept_vision(tokens, mask) == want
    assert [len(row) for row in want] == [(n * keep).__floor__() for n in counts]
    assert mask[tokens.kinds != SpanKind.VISION.code].all()


@given(rate=RATES, total=st.integers(1, 60), data=st.data())
def test_stream_does_not_depend_on_the_cut(rate: float, total: int, data: st.DataObject) -> None:
    at = data.draw(st.integers(0, total))
    keep = site(0, "uniform_stream", rate).keep
    parts = [
        stream_keep(tokens_of(one(0, [(0, n)], 1, 0)), (seen,), keep)[:n]
        for n, seen in ((at, 0), (total - at, at))
    ]
    whole = stream_keep(tokens_of(one(0, [(0, total)], 1, 0)), (0,), keep)[:total]
    assert np.concatenate(parts).tolist() == whole.tolist()


def test_stream_at_one_third_is_exact_far_into_a_video() -> None:
    layout = one(0, [(0, 6)], 0, 0)
    mask = stream_keep(tokens_of(layout), (3 * 10**12,), Fraction(1, 3))
    assert mask.tolist() == [False, False, True, False, False, True]


@given(rate=RATES, counts=st.lists(st.integers(0, 50), min_size=1, max_size=3))
def test_whole_keeps_evenly_and_at_least_one(rate: float, counts: list[int]) -> None:
    tokens = tokens_of(TokenLayout.pack([one(1, [(1, n)], 1, 1) for n in counts]))
    where = site(0, "uniform_whole", rate)
    rows = kept_vision(tokens, whole_keep(tokens, where))
    for row, present in zip(rows, counts, strict=True):
        assert len(row) == where.kept(present)
        assert (len(row) >= 1) == (present >= 1)
        steps = np.diff(row)
        if len(steps):
            assert steps.min() >= 1
            assert steps.max() - steps.min() <= 1
            # As far from the beginning as from the end.
            assert abs(row[0] - (present - 1 - row[-1])) <= 1


def brute_row(block: Block, hidden: torch.Tensor, asking: int, theta: float | None) -> torch.Tensor:
    """Attention row of token `asking` over all of `hidden`, by the definitions, in float64."""
    mixer = block.mixer
    assert isinstance(mixer, AttentionMixer)

    def norm(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
        return x / (x.square().mean(-1, keepdim=True) + block.norm_eps).sqrt() * weight

    def turned(x: torch.Tensor, position: int) -> torch.Tensor:
        if theta is None:
            return x
        half = x.shape[-1] // 2
        angle = position * theta ** (-torch.arange(half, dtype=torch.float64) / half)
        a, b = x[..., :half], x[..., half:]
        return torch.cat([a * angle.cos() - b * angle.sin(), b * angle.cos() + a * angle.sin()], -1)

    normed = norm(hidden.double(), block.norm.weight)
    heads, kv_heads = 4, 2
    q, k = mixer.q_proj(normed[asking]).view(heads, -1), mixer.k_proj(normed)
    k = k.view(len(hidden), kv_heads, -1)
    if mixer.q_norm is not None and mixer.k_norm is not None:
        q, k = norm(q, mixer.q_norm.weight), norm(k, mixer.k_norm.weight)
    q = turned(q, asking)
    k = torch.stack([turned(row, place) for place, row in enumerate(k)])
    rows = []
    for head in range(heads):
        scores = k[: asking + 1, head // (heads // kv_heads)] @ q[head] / q.shape[-1] ** 0.5
        rows.append(torch.cat([scores.softmax(0), torch.zeros(len(hidden) - asking - 1)]))
    return torch.stack(rows).mean(0)


@pytest.mark.parametrize("remembered", [0, 7])
@pytest.mark.parametrize("stack", ["hybrid", "dense"])
@torch.no_grad()
def test_ranking_is_the_layers_own_softmax_row(stack: str, remembered: int) -> None:
    decoder = toy(stack, [site(4, "attention", 0.6)])
    block = decoder.layers[4]
    assert isinstance(block, Block)
    theta = decoder.config.rope_theta
    layouts = [one(2, [(2, 4)] * 3, 3, 2), one(1, [(0, 5)], 2, 0), one(0, [(1, 3)] * 4, 1, 3)]
    pack = TokenLayout.pack(layouts)
    now = tokens_of(pack)
    past = torch.randn(3 * remembered, HIDDEN, dtype=torch.float64)
    memory = None
    if remembered:
        # Ragged: sequence 1 remembers less.
        lengths = (remembered, remembered - 3, remembered)
        past = past[: sum(lengths)]
        memory = block(Stream(past), None, lengths=lengths)[1]
        assert isinstance(memory, AttentionMemory)
    else:
        lengths = (0, 0, 0)
    before = past.split(list(lengths))
    pile = Pile.of([now])
    mask = attention_keep(now, site(4, "attention", 0.6), block, memory)
    wanted: list[list[int]] = []
    for number, hidden in enumerate(now.hidden.split(list(pack.lengths))):
        kinds = now.kinds[now.starts[number] :][: pack.lengths[number]]
        asking = int(np.flatnonzero(kinds == SpanKind.INSTRUCTION.code)[-1])
        full = torch.cat([before[number], hidden])
        row = brute_row(block, full, lengths[number] + asking, theta)[lengths[number] :]
        got = question_scores(pile, number, block, memory)
        close("row", got=got, want=row[: asking + 1], tol=TOL.model.f64)
        vision = row[torch.from_numpy(kinds == SpanKind.VISION.code)]
        kept = site(4, "attention", 0.6).kept(len(vision))
        wanted.append(sorted(vision.topk(kept).indices.tolist()))
    assert kept_vision(now, mask) == wanted
    assert mask[now.kinds != SpanKind.VISION.code].all()


@pytest.mark.parametrize("stack", ["hybrid", "dense"])
@torch.no_grad()
def test_ranking_does_not_depend_on_the_parts(stack: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block = toy(stack).layers[4]
    assert isinstance(block, Block)
    layout = one(2, [(2, 4)] * 5, 3, 2)
    now = tokens_of(layout)
    memory = block(Stream(torch.randn(9, HIDDEN).double()), None, lengths=(9,))[1]
    assert isinstance(memory, AttentionMemory)
    want = question_scores(Pile.of([now]), 0, block, memory)
    for module in ("pile", "keep"):
        monkeypatch.setattr(f"timeviper.model.{module}.AT_ONCE", 4)
    # A fork holds the earlier keys as a prefix that it shares.
    for kept in (memory, memory.fork(1)):
        got = question_scores(Pile.of([now]), 0, block, kept)
        close("scores", got=got, want=want, tol=TOL.model.f64)


@torch.no_grad()
def test_ranking_leaves_the_layers_cache_alone() -> None:
    block = toy("dense").layers[4]
    assert isinstance(block, Block)
    now = tokens_of(one(1, [(0, 5)], 2, 0))
    _, memory = block(Stream(now.hidden), None, lengths=now.lengths)
    _, memory = block(Stream(now.hidden), memory, lengths=now.lengths)
    k, lengths, used = memory.k.clone(), memory.lengths, memory.buffer.used
    question_scores(Pile.of([now]), 0, block, memory)
    assert torch.equal(memory.k, k)
    assert (memory.lengths, memory.buffer.used) == (lengths, used)


@torch.no_grad()
def test_equal_scores_keep_the_earlier_tokens() -> None:
    block = toy("hybrid").layers[4]
    assert isinstance(block, Block)
    layout = one(0, [(0, 8)], 1, 0)
    same = Tokens.of(inputs_for(one(1, [], 0, 0)).expand(9, -1), layout)
    mask = attention_keep(same, site(4, "attention", 0.5), block, None)
    assert kept_vision(same, mask) == [[0, 1, 2, 3]]


@torch.no_grad()
def test_the_first_question_after_the_video_ranks() -> None:
    decoder = toy("hybrid")
    block = decoder.layers[4]
    assert isinstance(block, Block)
    first = one(1, [(1, 6)], 3, 2)
    talk = tokens_of(chain(first, one(0, [], 2, 1)))
    alone = Tokens.of(talk.hidden[: first.total], first)
    got, want = (question_scores(Pile.of([t]), 0, block, None) for t in (talk, alone))
    close("first question", got=got, want=want, tol=TOL.model.f64)


@torch.no_grad()
def test_sequences_without_a_video_are_not_ranked_and_need_no_question() -> None:
    block = toy("hybrid").layers[4]
    assert isinstance(block, Block)
    video = one(1, [(0, 6)], 2, 0)
    where = site(4, "attention", 0.5)
    empty = TokenLayout(((),))
    pack = TokenLayout.pack([one(3, [], 0, 2), video, empty])
    x = inputs_for(pack)
    mask = attention_keep(Tokens.of(x, pack), where, block, None)
    alone = attention_keep(Tokens.of(x[5:], video), where, block, None)
    assert mask[:5].all()
    assert mask[5:].tolist() == alone.tolist()


@torch.no_grad()
def test_refusals_say_what_is_missing() -> None:
    decoder = toy("hybrid")
    mamba, attention = decoder.layers[0], decoder.layers[4]
    assert isinstance(mamba, Block)
    assert isinstance(attention, Block)
    with pytest.raises(ConfigError, match="an attention layer"):
        question_scores(Pile.of([tokens_of(one(1, [(0, 2)], 1, 0))]), 0, mamba, None)
    with pytest.raises(LayoutError, match="instruction after the video"):
        attention_keep(tokens_of(one(1, [(0, 2)], 0, 0)), site(4, "attention"), attention, None)
