"""Laws of the tensor mathematics: any cuts, packed as alone, scratch never read, mass conserved."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor

from tests.tolerances import TOL, close
from timeviper.ops.attention import attention
from timeviper.ops.attention_row import attention_row
from timeviper.ops.conv1d import causal_conv1d
from timeviper.ops.merge import merge_schedule, tome
from timeviper.ops.packing import from_rows, to_rows
from timeviper.ops.rotary import rotary
from timeviper.ops.ssd import ssd

F64 = torch.float64

seeds = st.integers(0, 2**31 - 1)
# Several sequences, each cut into pieces; a piece may be empty, and so may a sequence.
cuts = st.lists(
    st.lists(st.one_of(st.integers(0, 3), st.integers(0, 40)), min_size=3, max_size=3),
    min_size=1,
    max_size=4,
)


def _draw(seed: int) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def _pick(x: Tensor, lengths: Sequence[int], pieces: Sequence[Sequence[int]], turn: int) -> Tensor:
    """The tokens that piece number `turn` of every sequence holds, packed."""
    picked = [
        tokens.split(list(piece))[turn]
        for tokens, piece in zip(x.split(list(lengths)), pieces, strict=True)
    ]
    return torch.cat(picked)


def _join(outputs: Sequence[Tensor], pieces: Sequence[Sequence[int]]) -> Tensor:
    """Outputs of all turns back in the order of the whole call."""
    parts = [y.split([piece[turn] for piece in pieces]) for turn, y in enumerate(outputs)]
    return torch.cat([part[s] for s in range(len(pieces)) for part in parts])


def _scan_operands(seed: int, tokens: int, sequences: int) -> dict[str, Tensor]:
    g = _draw(seed)
    shapes = {"x": (4, 3), "dt": (4,), "B": (2, 5), "C": (2, 5)}
    packed = {
        name: torch.randn(tokens, *rest, generator=g, dtype=F64) for name, rest in shapes.items()
    }
    state = torch.randn(sequences, 4, 3, 5, generator=g, dtype=F64)
    decay = -torch.rand(4, generator=g, dtype=F64) * 3
    return {**packed, "A": decay, "D": torch.randn(4, generator=g, dtype=F64), "state": state}


@given(pieces=cuts, seed=seeds, chunk=st.sampled_from([1, 4, 16]))
def test_scan_cut_anywhere_is_the_whole_scan(
    pieces: list[list[int]], seed: int, chunk: int
) -> None:
    lengths = [sum(piece) for piece in pieces]
    o = _scan_operands(seed, sum(lengths), len(lengths))
    whole, final = ssd(**o, lengths=lengths, dt_softplus=True, chunk_size=64)
    outputs: list[Tensor] = []
    state = o["state"]
    for turn in range(3):
        part = {n: _pick(o[n], lengths, pieces, turn) for n in ("x", "dt", "B", "C")}
        sizes = [piece[turn] for piece in pieces]
        call = {**o, **part, "state": state}
        y, state = ssd(**call, lengths=sizes, dt_softplus=True, chunk_size=chunk)
        outputs.append(y)
    close("y", got=_join(outputs, pieces), want=whole, tol=TOL.ssd.f64)
    close("state", got=state, want=final, tol=TOL.ssd.f64)


@given(pieces=cuts, seed=seeds)
def test_convolution_cut_anywhere_is_the_whole(pieces: list[list[int]], seed: int) -> None:
    lengths, g = [sum(piece) for piece in pieces], _draw(seed)
    x = torch.randn(sum(lengths), 3, generator=g, dtype=F64)
    weight, bias = torch.randn(3, 4, generator=g, dtype=F64), torch.randn(3, generator=g, dtype=F64)
    tail = torch.randn(len(lengths), 3, 3, generator=g, dtype=F64)
    whole, final = causal_conv1d(x, weight, bias, tail, lengths=lengths)
    outputs: list[Tensor] = []
    for turn in range(3):
        sizes = [piece[turn] for piece in pieces]
        part = _pick(x, lengths, pieces, turn)
        y, tail = causal_conv1d(part, weight, bias, tail, lengths=sizes)
        outputs.append(y)
    close("y", got=_join(outputs, pieces), want=whole, tol=TOL.conv1d.f64)
    close("tail", got=tail, want=final, tol=0.0)


@given(pieces=cuts, seed=seeds)
def test_attention_cut_anywhere_is_the_whole(pieces: list[list[int]], seed: int) -> None:
    """Later keys lie in the buffer already: slots beyond the filled length are not read."""
    lengths, g = [sum(piece) for piece in pieces], _draw(seed)
    q = torch.randn(sum(lengths), 4, 8, generator=g, dtype=F64)
    shape = (len(lengths), max(lengths) + 1, 2, 8)
    k, v = torch.randn(shape, generator=g, dtype=F64), torch.randn(shape, generator=g, dtype=F64)
    whole = attention(q, k, v, q_lengths=lengths, k_lengths=lengths)
    outputs: list[Tensor] = []
    filled = [0] * len(lengths)
    for turn in range(3):
        sizes = [piece[turn] for piece in pieces]
        filled = [a + b for a, b in zip(filled, sizes, strict=True)]
        part = _pick(q, lengths, pieces, turn)
        spoiled = [x.clone() for x in (k, v)]
        for s, length in enumerate(filled):
            for x in spoiled:
                x[s, length:] = torch.nan
        outputs.append(attention(part, *spoiled, q_lengths=sizes, k_lengths=filled))
    close("y", got=_join(outputs, pieces), want=whole, tol=TOL.attention.f64)


lengths_of_many = st.lists(st.integers(0, 50), min_size=1, max_size=12)


@given(lengths=lengths_of_many, seed=seeds)
def test_packed_is_each_sequence_alone(lengths: list[int], seed: int) -> None:
    o = _scan_operands(seed, sum(lengths), len(lengths))
    y, state = ssd(**o, lengths=lengths, dt_softplus=True, chunk_size=8)
    start = 0
    for s, length in enumerate(lengths):
        stop = start + length
        own = {n: o[n][start:stop] for n in ("x", "dt", "B", "C")}
        call = {**o, **own, "state": o["state"][s : s + 1]}
        alone, final = ssd(**call, lengths=[length], dt_softplus=True, chunk_size=8)
        close("y", got=y[start:stop], want=alone, tol=TOL.ssd.f64)
        close("state", got=state[s : s + 1], want=final, tol=TOL.ssd.f64)
        start = stop


@given(lengths=lengths_of_many, cached=st.integers(0, 9), seed=seeds)
def test_packed_attention_is_each_sequence_alone(
    lengths: list[int], cached: int, seed: int
) -> None:
    g = _draw(seed)
    k_lengths = [length + (cached * (s + 1)) % 7 for s, length in enumerate(lengths)]
    q = torch.randn(sum(lengths), 2, 8, generator=g, dtype=F64)
    shape = (len(lengths), max(k_lengths) + 2, 1, 8)
    k, v = torch.randn(shape, generator=g, dtype=F64), torch.randn(shape, generator=g, dtype=F64)
    packed = attention(q, k, v, q_lengths=lengths, k_lengths=k_lengths)
    for s, (rows, own) in enumerate(zip(q.split(lengths), packed.split(lengths), strict=True)):
        one = (k[s : s + 1], v[s : s + 1])
        alone = attention(rows, *one, q_lengths=[lengths[s]], k_lengths=[k_lengths[s]])
        close("y", got=own, want=alone, tol=TOL.attention.f64)


@given(lengths=lengths_of_many, seed=seeds)
def test_rows_are_packed_tokens_and_back(lengths: list[int], seed: int) -> None:
    x = torch.randn(sum(lengths), 2, generator=_draw(seed))
    rows = to_rows(x, lengths)
    close("round trip", got=from_rows(rows, lengths), want=x, tol=0.0)
    close("nothing is added", got=rows.double().sum(), want=x.double().sum(), tol=1e-9)


@given(
    patches=st.integers(1, 120),
    share=st.floats(0.01, 1.0),
    frames=st.integers(1, 3),
    seed=seeds,
)
def test_merging_conserves_mass(patches: int, share: float, frames: int, seed: int) -> None:
    keep = max(1, int(patches * share))
    x = torch.randn(frames, patches, 8, generator=_draw(seed), dtype=F64)
    tokens, sizes = tome(x, keep, metric_heads=2)
    assert tokens.shape == (frames, keep, 8)
    assert sizes.sum(1).tolist() == [patches] * frames
    assert sizes.min() >= 1
    scale = x.abs().sum(1)
    mass = (tokens * sizes[..., None]).sum(1)
    close("mass", got=mass + scale, want=x.sum(1) + scale, tol=TOL.merge.f64)


@given(patches=st.integers(1, 2000), share=st.floats(0.0, 1.0))
def test_a_schedule_ends_exactly_and_never_takes_more_than_half(patches: int, share: float) -> None:
    keep = max(1, int(patches * share))
    left = patches
    for remove in merge_schedule(patches, keep):
        assert 1 <= remove <= left // 2
        left -= remove
    assert left == keep


@given(shift=st.integers(0, 5000), seed=seeds)
def test_rotary_scores_do_not_see_a_common_shift(shift: int, seed: int) -> None:
    q, k = torch.randn(2, 6, 2, 16, generator=_draw(seed), dtype=F64)
    places = torch.arange(6)

    def scores(offset: int) -> Tensor:
        turned = [rotary(x, places + offset, base=1e4) for x in (q, k)]
        return torch.einsum("ihd,jhd->hij", *turned)

    close("scores", got=scores(shift), want=scores(0), tol=1e-11)


@given(keys=st.integers(1, 30), cuts=st.sets(st.integers(1, 29)), seed=seeds)
def test_a_chosen_row_is_a_row_of_the_full_softmax_however_its_keys_come(
    keys: int, cuts: set[int], seed: int
) -> None:
    g = _draw(seed)
    q = torch.randn(keys, 4, 8, generator=g, dtype=F64)
    k = torch.randn(keys, 2, 8, generator=g, dtype=F64)
    scores = torch.einsum("ihd,jhd->hij", q, k.repeat_interleave(2, 1)) / 8**0.5
    future = torch.ones(keys, keys, dtype=torch.bool).triu(1)
    full = scores.masked_fill(future, -torch.inf).softmax(-1).transpose(0, 1)
    for chosen in {0, keys // 2, keys - 1}:
        seen = k[: chosen + 1]
        pieces = seen.tensor_split(sorted(cut for cut in cuts if cut <= chosen))
        row = attention_row(q[chosen], iter(pieces))
        close("row", got=row, want=full[chosen, :, : chosen + 1], tol=TOL.attention.f64)
