"""Attention and its rows against one query at a time, with NaN in every unused key slot."""

from __future__ import annotations

import pytest
import torch

from tests.tolerances import TOL, close
from tests.unit.ops.draws import cached_keys, gradients, slow_attention, unchecked
from timeviper.core.errors import LayoutError
from timeviper.ops import attention_torch as room
from timeviper.ops.attention import attention

raw_attention = unchecked(attention)

# (queries, keys) of each sequence: whole, cached, single steps, ragged few, ragged many.
LENGTHS = [
    ([7], [7]),
    ([4, 4], [9, 9]),
    ([1, 1, 1], [5, 5, 5]),
    ([1, 1], [8, 3]),
    ([3, 0, 5], [9, 4, 5]),
    ([0, 2], [0, 2]),
    ([3, 2, 0, 5, 1] * 3, list(range(6, 21))),
    ([3] * 10 + [2], [9] * 11),
    ([0, 1] * 10, [0, 3] * 10),
]


@pytest.mark.parametrize(("q_lengths", "k_lengths"), LENGTHS, ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_outputs_and_gradients_are_the_oracles(
    q_lengths: list[int], k_lengths: list[int], causal: bool
) -> None:
    q = torch.randn(sum(q_lengths), 6, 8, dtype=torch.float64, requires_grad=True)
    k, v = cached_keys(k_lengths)
    call = {"q_lengths": q_lengths, "k_lengths": k_lengths, "causal": causal}
    got, want = attention(q, k, v, **call), slow_attention(q, k, v, **call)
    close("y", got=got, want=want, tol=TOL.attention.f64)
    pairs = zip("qkv", gradients([got], [q, k, v]), gradients([want], [q, k, v]), strict=True)
    for name, a, b in pairs:
        close(f"gradient of {name}", got=a, want=b, tol=TOL.attention.f64)


@pytest.mark.parametrize(("heads", "kv_heads"), [(1, 1), (4, 4), (6, 1), (8, 2)])
def test_every_ratio_of_heads(heads: int, kv_heads: int) -> None:
    q = torch.randn(12, heads, 8, dtype=torch.float64)
    k, v = cached_keys([20, 11], kv_heads=kv_heads)
    call = {"q_lengths": [5, 7], "k_lengths": [20, 11]}
    want = slow_attention(q, k, v, **call)
    close("y", got=attention(q, k, v, **call), want=want, tol=TOL.attention.f64)


@pytest.mark.parametrize(("queries", "keys"), [(700, 700), (300, 1000), (513, 514)])
def test_long_chunks_go_block_by_block(
    queries: int, keys: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "_BLOCK_ENTRIES", 100_000)
    q = torch.randn(queries, 2, 8, dtype=torch.float64)
    k, v = cached_keys([keys], kv_heads=1)
    call = {"q_lengths": [queries], "k_lengths": [keys]}
    want = slow_attention(q, k, v, **call)
    close("y", got=attention(q, k, v, **call), want=want, tol=TOL.attention.f64)


def test_many_ragged_sequences_go_a_bounded_number_at_a_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    q_lengths, k_lengths = [3, 1, 2] * 6, list(range(4, 22))
    monkeypatch.setattr(room, "_PADDED_ENTRIES", 3 * 3 * 21 * 5)
    q = torch.randn(sum(q_lengths), 6, 8, dtype=torch.float64)
    k, v = cached_keys(k_lengths)
    call = {"q_lengths": q_lengths, "k_lengths": k_lengths}
    want = slow_attention(q, k, v, **call)
    close("y", got=attention(q, k, v, **call), want=want, tol=TOL.attention.f64)


@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float32, TOL.attention.f32), (torch.bfloat16, TOL.attention.bf16)]
)
@pytest.mark.parametrize("lengths", [([9], [9]), ([4], [9]), ([2] * 9, list(range(3, 12)))])
def test_working_precisions(
    dtype: torch.dtype, tol: float, lengths: tuple[list[int], list[int]]
) -> None:
    q_lengths, k_lengths = lengths
    q = torch.randn(sum(q_lengths), 4, 8).to(dtype)
    k, v = cached_keys(k_lengths, dtype=dtype)
    call = {"q_lengths": q_lengths, "k_lengths": k_lengths}
    got = attention(q, k, v, **call)
    assert got.dtype == dtype
    want = slow_attention(q.double(), k.double(), v.double(), **call)
    close("y", got=got, want=want, tol=tol)


def test_scale_replaces_the_square_root() -> None:
    q = torch.randn(5, 2, 8, dtype=torch.float64)
    k, v = cached_keys([7])
    call = {"q_lengths": [5], "k_lengths": [7], "scale": 0.3}
    want = slow_attention(q, k, v, **call)
    close("y", got=attention(q, k, v, **call), want=want, tol=TOL.attention.f64)


def test_no_queries_give_no_outputs() -> None:
    k, v = cached_keys([3, 0])
    y = attention(torch.zeros(0, 4, 8).double(), k, v, q_lengths=[0, 0], k_lengths=[3, 0])
    assert y.shape == (0, 4, 8)


@pytest.mark.parametrize("sequences", [2, 12])
def test_cross_attention_may_have_fewer_keys_than_queries_or_none(sequences: int) -> None:
    q_lengths, k_lengths = [4, 3] * (sequences // 2), [2, 0] * (sequences // 2)
    q = torch.randn(sum(q_lengths), 4, 8, dtype=torch.float64, requires_grad=True)
    k, v = cached_keys(k_lengths)
    call = {"q_lengths": q_lengths, "k_lengths": k_lengths, "causal": False}
    got = attention(q, k, v, **call)
    close("no keys", got=got[4:7], want=torch.zeros(3, 4, 8), tol=0.0)
    own = {"q_lengths": [4], "k_lengths": [2], "causal": False}
    want = slow_attention(q[:4], k[:1], v[:1], **own)
    close("y", got=got[:4], want=want, tol=TOL.attention.f64)
    assert all(g.isfinite().all() for g in gradients([got], [q, k, v]))
    nothing = attention(q, k, v, q_lengths=q_lengths, k_lengths=[0] * sequences, causal=False)
    close("nothing", got=nothing, want=torch.zeros_like(q), tol=0.0)


def test_refusals_name_the_numbers() -> None:
    q, (k, v) = torch.randn(5, 4, 8).double(), cached_keys([9, 4])
    with pytest.raises(LayoutError, match="q_lengths that sum to the 5"):
        attention(q, k, v, q_lengths=[2, 2], k_lengths=[9, 4])
    with pytest.raises(LayoutError, match="capacity of 12"):
        attention(q, k, v, q_lengths=[3, 2], k_lengths=[13, 4])
    with pytest.raises(LayoutError, match="at least 3 keys for the 3 queries of sequence 1; got 2"):
        attention(q, k, v, q_lengths=[2, 3], k_lengths=[9, 2])
    with pytest.raises(LayoutError, match="divides 3 query heads; got 2"):
        attention(q[:, :3], k, v, q_lengths=[2, 3], k_lengths=[9, 4])
    with pytest.raises(LayoutError, match="keys of 2, 1 lengths"):
        attention(q, k, v, q_lengths=[5], k_lengths=[9])
    with pytest.raises(LayoutError, match="values shaped like the keys"):
        raw_attention(q, k, v[:, :5], q_lengths=[2, 3], k_lengths=[9, 4])
