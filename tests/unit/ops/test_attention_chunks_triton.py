"""How pieces are run and merged, with plain torch in the kernels' place: sizes made small."""

from __future__ import annotations

from types import MappingProxyType
from typing import Any

import pytest
import torch
from torch import Tensor

pytest.importorskip("triton", reason="no Triton for this platform")

from tests.tolerances import TOL, close
from tests.unit.ops.draws import cached_keys, slow_attention
from tests.unit.ops.test_attention_shared import copied_in_front, shared_keys
from timeviper.ops import attention_chunks_triton as room
from timeviper.ops import attention_flash, attention_pieces, attention_triton
from timeviper.ops.attention_parts import Part, merge, part
from timeviper.ops.fronts import Fronts

CALLS = list[tuple[str, int, int]]


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> CALLS:
    """Small sizes, and the kernels by plain torch; what they were called with, as it comes."""
    seen: CALLS = []
    monkeypatch.setattr(attention_pieces, "CUDNN_QUERIES", (16, 8, 4))
    monkeypatch.setattr(attention_pieces, "CUDNN_KEYS", (32, 16))
    monkeypatch.setattr(attention_pieces, "SPLIT_QUERIES", 2)
    monkeypatch.setattr(attention_pieces, "SPLIT_KEYS", 6)
    monkeypatch.setattr(room, "_HALF", (torch.float64,))

    def plain(name: str) -> Any:
        def run(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Part:
            seen.append((name, len(q), len(k)))
            if name == "cudnn" and causal:
                assert len(q) == len(k), "cuDNN's mask begins at the first key"
            return part(q, k, v, causal=causal, scale=scale)

        return run

    def packed(q: Tensor, k: Tensor, v: Tensor, **call: Any) -> Part:
        seen.append(("packed", len(q), sum(call["k_lengths"])))
        rows = zip(q.split(call["q_lengths"]), k, v, call["k_lengths"], strict=True)
        parts = [
            part(a, b[:n], c[:n], causal=call["causal"], scale=call["scale"]) for a, b, c, n in rows
        ]
        return Part(torch.cat([p.out for p in parts]), torch.cat([p.lse for p in parts]))

    def step(q: Tensor, k: Tensor, v: Tensor, **call: Any) -> Tensor:
        seen.append(("step", len(q), int(call["k_lengths"].sum())))
        return room.attention_flash.attention_torch.attention_step(q, k, v, **call)

    def in_front(q: Tensor, tables: Fronts, *, kv_heads: int, scale: float | None) -> Part:
        seen.append(("front", len(q), len(tables.places)))
        outs = [
            part(row, row[:0, :kv_heads], row[:0, :kv_heads], causal=False, scale=scale)
            for row in q.split(1)
        ]
        for front, rows in tables.tiles():
            for n in rows:
                keys, values = front.k[: front.length], front.v[: front.length]
                outs[n] = part(q[n : n + 1], keys, values, causal=False, scale=scale)
        return Part(torch.cat([p.out for p in outs]), torch.cat([p.lse for p in outs]))

    kernels = {name: plain(name) for name in ("cudnn", "flash", "split")}
    monkeypatch.setattr(room, "_KERNELS", MappingProxyType(kernels))
    monkeypatch.setattr(attention_flash, "packed", packed)
    monkeypatch.setattr(attention_triton, "attention_step", step)
    monkeypatch.setattr(attention_triton, "in_front", in_front)
    monkeypatch.setattr(attention_triton, "merge_two", lambda a, b, dtype: merge([a, b]))
    return seen


@torch.no_grad()
@pytest.mark.parametrize(
    ("q_lengths", "k_lengths"),
    [
        ([16], [16]),
        ([16], [100]),
        ([37], [130]),
        ([3], [70]),
        ([2], [9]),
        ([7], [7]),
        ([20, 9], [90, 60]),
        ([3, 0, 5], [50, 2, 5]),
        ([1, 1], [50, 3]),
        ([2, 0, 1], [50, 3, 60]),
        ([2, 3], [2, 3]),
    ],
    ids=str,
)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("front", [0, 70])
def test_pieces_together_are_attention(
    calls: CALLS, q_lengths: list[int], k_lengths: list[int], causal: bool, front: int
) -> None:
    q = torch.randn(sum(q_lengths), 6, 8, dtype=torch.float64)
    (k, v), shared = cached_keys(k_lengths), shared_keys(front)
    call = {"q_lengths": q_lengths, "causal": causal, "scale": 0.4}
    before = [shared] * len(k_lengths)
    got = room.attention(q, k, v, **call, k_lengths=k_lengths, shared=before)
    wide_k, wide_v, total = copied_in_front(shared, k, v, k_lengths)
    want = slow_attention(q, wide_k, wide_v, **call, k_lengths=total)
    close("y", got=got, want=want, tol=TOL.attention.f64)
    assert calls


@torch.no_grad()
def test_which_kernels_take_what(calls: CALLS) -> None:
    def taken(q_lengths: list[int], k_lengths: list[int]) -> CALLS:
        calls.clear()
        q, (k, v) = torch.randn(sum(q_lengths), 2, 8).double(), cached_keys(k_lengths)
        room.attention(q, k, v, q_lengths=q_lengths, k_lengths=k_lengths)
        return list(calls)

    assert taken([16], [51]) == [("cudnn", 16, 32), ("flash", 16, 3), ("cudnn", 16, 16)]
    assert taken([2], [40]) == [("split", 2, 38), ("flash", 2, 2)]
    assert taken([1, 1, 1], [4, 5, 6]) == [("step", 3, 15)]
    assert taken([2, 1], [40, 30]) == [
        ("split", 2, 38),
        ("flash", 2, 2),
        ("step", 1, 30),
    ]
    assert taken([2, 1], [5, 4]) == [("step", 1, 4), ("packed", 2, 5)]
    assert taken([2, 2], [5, 4]) == [("packed", 4, 9)]
    # Few queries behind few own keys go packed, more of either alone.
    assert taken([2, 5, 2], [5, 40, 4]) == [
        ("cudnn", 4, 32),
        ("flash", 4, 7),
        ("split", 1, 39),
        ("flash", 1, 1),
        ("packed", 4, 9),
    ]
    assert {name for name, *_ in taken([8, 4], [30, 40])} == {"cudnn", "flash"}


@torch.no_grad()
def test_many_questions_go_some_at_a_time(calls: CALLS, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "_AT_ONCE", 5)
    q_lengths, k_lengths = [2, 2, 0, 2, 4, 2], [5, 4, 1, 2, 60, 2]
    q, (k, v), film = torch.randn(12, 6, 8).double(), cached_keys(k_lengths), shared_keys(70)
    before = [film, film, None, None, film, film]
    call = {"q_lengths": q_lengths, "k_lengths": k_lengths, "causal": True}
    got = room.attention(q, k, v, **call, shared=before).split(q_lengths)
    packed = [(name, count) for name, count, _ in calls if name in ("front", "packed")]
    assert packed == [("front", 4), ("packed", 4), ("front", 4), ("packed", 4)]
    for s, rows in enumerate(q.split(q_lengths)):
        alone = {"q_lengths": q_lengths[s : s + 1], "k_lengths": k_lengths[s : s + 1]}
        here = slice(s, s + 1)
        want = room.attention(rows, k[here], v[here], **alone, shared=before[here])
        close(f"sequence {s}", got=got[s], want=want, tol=TOL.attention.f64)


@torch.no_grad()
def test_no_queries_or_no_keys_give_zeros(calls: CALLS) -> None:
    k, v = cached_keys([0, 0])
    q = torch.randn(3, 4, 8).double()
    call = {"k_lengths": [0, 0], "causal": False}
    close("y", got=room.attention(q, k, v, q_lengths=[2, 1], **call), want=q * 0, tol=0.0)
    assert room.attention(q[:0], k, v, q_lengths=[0, 0], **call).shape == (0, 4, 8)
    (k, v), shared = cached_keys([0]), shared_keys(40)
    got = room.attention(q, k, v, q_lengths=[3], k_lengths=[0], causal=False, shared=[shared])
    want = part(q, shared.k[:40], shared.v[:40], causal=False, scale=None)
    close("only shared", got=got, want=want.out, tol=TOL.attention.f64)
    assert calls


def test_what_wants_gradients_or_other_precisions_goes_elsewhere() -> None:
    q = torch.zeros(2, 4, 8, dtype=torch.bfloat16)
    assert room.takes(q, q, q)
    assert not room.takes(q.float(), q.float(), q.float())
    assert not room.takes(q, q.float(), q.float())
    assert not room.takes(q.requires_grad_(), q, q)
    wide = torch.zeros(2, 4, 256, dtype=torch.bfloat16)
    assert not room.takes(wide, wide, wide)
    odd = torch.zeros(2, 4, 12, dtype=torch.bfloat16)
    assert not room.takes(odd, odd, odd)


def test_gradients_pass_where_the_kernels_have_none() -> None:
    q = torch.randn(3, 4, 8, requires_grad=True)
    k, v = cached_keys([5], dtype=torch.float32)
    room.attention(q, k, v, q_lengths=[3], k_lengths=[5]).sum().backward()
    assert q.grad is not None


def test_parts_that_no_kernel_holds_are_merged_in_plain_torch() -> None:
    q, k, v = torch.randn(5, 4, 8), torch.randn(9, 2, 8), torch.randn(9, 2, 8)
    how = {"causal": False, "scale": None}
    first = room.further(None, q, k[:4], v[:4], last=False, **how)
    got = room.further(first, q, k[4:], v[4:], last=True, **how)
    want = part(q, k, v, **how)
    close("merged", got=got.out, want=want.out, tol=TOL.attention.f32)
    close("mass", got=got.lse, want=want.lse, tol=TOL.attention.f32)
