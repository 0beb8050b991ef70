"""Keys that several sequences share, single steps, and the merging of parts: laws and refusals."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.ops.draws import cached_keys, gradients, slow_attention, unchecked
from timeviper.core.errors import LayoutError
from timeviper.ops import attention_parts
from timeviper.ops.attention import attention, attention_step
from timeviper.ops.attention_parts import Part, SharedKeys, merge, part
from timeviper.ops.fronts import Fronts


def shared_keys(length: int, *, spare: int = 3, dtype: torch.dtype = torch.float64) -> SharedKeys:
    k, v = cached_keys([length], spare=spare, dtype=dtype)
    return SharedKeys(k=k[0], v=v[0], length=length)


def copied_in_front(
    shared: SharedKeys, k: Tensor, v: Tensor, k_lengths: list[int]
) -> tuple[Tensor, Tensor, list[int]]:
    """The same keys without sharing: a copy in front of each sequence's own."""
    front = slice(0, shared.length)
    both = [
        torch.cat([x[front].expand(len(k_lengths), *x[front].shape), own], dim=1)
        for x, own in ((shared.k, k), (shared.v, v))
    ]
    return both[0], both[1], [shared.length + length for length in k_lengths]


def in_front(shared: SharedKeys | None, sequences: int) -> list[SharedKeys | None]:
    """The same keys in front of every sequence."""
    return [shared] * sequences


def fronts(
    shared: list[SharedKeys | None], *, ratio: int, device: torch.device | None = None
) -> Fronts:
    return Fronts.of_step(shared, ratio=ratio, device=device or torch.device("cpu"))


LENGTHS = [([3], [5]), ([2, 2], [4, 4]), ([3, 0, 1], [5, 2, 1]), ([2, 1], [2, 1])]


@pytest.mark.parametrize(("q_lengths", "k_lengths"), LENGTHS, ids=str)
@pytest.mark.parametrize("causal", [True, False])
def test_shared_keys_are_as_copies_in_front_with_their_gradients(
    q_lengths: list[int], k_lengths: list[int], causal: bool
) -> None:
    q = torch.randn(sum(q_lengths), 6, 8, dtype=torch.float64, requires_grad=True)
    (k, v), shared = cached_keys(k_lengths), shared_keys(7)
    call = {"q_lengths": q_lengths, "causal": causal}
    got = attention(q, k, v, **call, k_lengths=k_lengths, shared=in_front(shared, len(k_lengths)))
    wide_k, wide_v, total = copied_in_front(shared, k, v, k_lengths)
    want = slow_attention(q, wide_k, wide_v, **call, k_lengths=total)
    close("y", got=got, want=want, tol=TOL.attention.f64)
    leaves = [q, k, v, shared.k, shared.v]
    for a, b in zip(gradients([got], leaves), gradients([want], leaves), strict=True):
        close("gradient", got=a, want=b, tol=TOL.attention.f64)


@pytest.mark.parametrize("causal", [True, False])
def test_each_sequence_sees_what_lies_in_front_of_it(causal: bool) -> None:
    q_lengths, k_lengths = [2, 1, 3, 2, 1], [4, 3, 5, 2, 1]
    q = torch.randn(9, 6, 8, dtype=torch.float64)
    (k, v), video, other = cached_keys(k_lengths), shared_keys(7), shared_keys(4)
    before = [video, other, None, video, other]
    call = {"q_lengths": q_lengths, "k_lengths": k_lengths, "causal": causal}
    got = attention(q, k, v, **call, shared=before).split(q_lengths)
    for s, rows in enumerate(q.split(q_lengths)):
        keys, values, total = k[s : s + 1], v[s : s + 1], [k_lengths[s]]
        front = before[s]
        if front is not None:
            keys, values, total = copied_in_front(front, keys, values, total)
        alone = {"q_lengths": q_lengths[s : s + 1], "k_lengths": total, "causal": causal}
        want = slow_attention(rows, keys, values, **alone)
        close(f"sequence {s}", got=got[s], want=want, tol=TOL.attention.f64)


def test_no_shared_keys_change_nothing() -> None:
    q, (k, v) = torch.randn(3, 4, 8).double(), cached_keys([5])
    call = {"q_lengths": [3], "k_lengths": [5]}
    got = attention(q, k, v, **call, shared=[shared_keys(0)])
    close("y", got=got, want=attention(q, k, v, **call), tol=0.0)


def test_a_sequence_without_own_keys_still_sees_the_shared() -> None:
    q, (k, v), shared = torch.randn(2, 4, 8).double(), cached_keys([0, 3]), shared_keys(5)
    got = attention_step(
        q, k, v, k_lengths=torch.tensor([0, 3]), shared=fronts([shared] * 2, ratio=2)
    )
    alone = slow_attention(
        q[:1], shared.k[None], shared.v[None], q_lengths=[1], k_lengths=[5], causal=False
    )
    close("y", got=got[:1], want=alone, tol=TOL.attention.f64)


@pytest.mark.parametrize("k_lengths", [[9], [5, 5, 5], [1, 8, 3], [0, 2]], ids=str)
@pytest.mark.parametrize("shared_length", [None, 6])
def test_a_step_is_attention_of_one_query_a_sequence(
    k_lengths: list[int], shared_length: int | None
) -> None:
    q, (k, v) = torch.randn(len(k_lengths), 6, 8).double(), cached_keys(k_lengths)
    shared = None if shared_length is None else shared_keys(shared_length)
    before = in_front(shared, len(k_lengths))
    call = {"shared": fronts(before, ratio=3), "scale": 0.3}
    got = attention_step(q, k, v, k_lengths=torch.tensor(k_lengths), **call)
    ones = [1] * len(k_lengths)
    call |= {"shared": before}
    want = attention(q, k, v, q_lengths=ones, k_lengths=k_lengths, causal=False, **call)
    close("y", got=got, want=want, tol=TOL.attention.f64)


def test_parts_merge_in_any_cut_and_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(attention_parts, "_SCORES", 40)
    q, (k, v) = torch.randn(5, 6, 8).double(), cached_keys([20], spare=0)
    whole = part(q, k[0], v[0], causal=True, scale=None)
    want = slow_attention(q, k, v, q_lengths=[5], k_lengths=[20])
    close("whole", got=whole.out, want=want, tol=TOL.attention.f64)
    past = [
        part(q, k[0, a:b], v[0, a:b], causal=False, scale=None)
        for a, b in ((9, 13), (0, 1), (4, 4), (1, 9))
    ]
    last = part(q, k[0, 13:], v[0, 13:], causal=True, scale=None)
    merged = merge([*past, last])
    close("merged", got=merged.out, want=want, tol=TOL.attention.f64)
    close("log-sum", got=merged.lse, want=whole.lse, tol=TOL.attention.f64)


def test_merging_nothing_with_nothing_is_nothing() -> None:
    nothing = Part(torch.zeros(2, 1, 4), torch.full((2, 1), -torch.inf))
    merged = merge([nothing, nothing])
    assert merged.out.abs().max() == 0
    assert bool((merged.lse == -torch.inf).all())


def test_queries_before_every_key_of_a_causal_part_see_nothing() -> None:
    q, (k, v) = torch.randn(4, 2, 8).double(), cached_keys([2], spare=0)
    seen = part(q, k[0], v[0], causal=True, scale=None)
    assert seen.out[:2].abs().max() == 0
    assert bool((seen.lse[:2] == -torch.inf).all())
    want = part(q[2:], k[0], v[0], causal=True, scale=None)
    close("y", got=seen.out[2:], want=want.out, tol=TOL.attention.f64)


def test_refusals_of_shared_keys_and_steps_name_the_numbers() -> None:
    q, (k, v), shared = torch.randn(2, 4, 8).double(), cached_keys([3, 4]), shared_keys(5)
    lengths = torch.tensor([3, 4])
    long = SharedKeys(k=shared.k, v=shared.v, length=9)
    with pytest.raises(LayoutError, match="within the capacity of 8; got 9"):
        attention_step(q, k, v, k_lengths=lengths, shared=fronts([None, long], ratio=2))
    narrow = SharedKeys(k=shared.k[:, :1], v=shared.v[:, :1], length=5)
    with pytest.raises(LayoutError, match="2 heads x 8"):
        attention(q, k, v, q_lengths=[1, 1], k_lengths=[3, 4], shared=[narrow] * 2)
    with pytest.raises(LayoutError, match="each of 2 sequences; got 1"):
        attention(q, k, v, q_lengths=[1, 1], k_lengths=[3, 4], shared=[shared])
    with pytest.raises(LayoutError, match="2 sequences; got keys of 2, 1 lengths"):
        unchecked(attention_step)(q, k, v, k_lengths=lengths[:1])
    with pytest.raises(LayoutError, match="divides 3 query heads"):
        attention_step(q[:, :3], k, v, k_lengths=lengths)
