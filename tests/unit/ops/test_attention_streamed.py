"""Keys that come block by block: the same for every size of block, wherever the keys lie."""

from __future__ import annotations

import pytest
import torch

from tests.tolerances import TOL, close
from tests.unit.ops.draws import cached_keys, slow_attention
from tests.unit.ops.test_attention_shared import copied_in_front, fronts, shared_keys
from timeviper.ops.attention import attention, attention_step
from timeviper.ops.attention_parts import SharedKeys, further
from timeviper.ops.attention_streamed import attention as streamed

LENGTHS = [([4], [17]), ([6], [6]), ([4, 0, 5], [17, 3, 5]), ([1, 1], [9, 30]), ([0, 2], [0, 2])]


@pytest.mark.parametrize(("q_lengths", "k_lengths"), LENGTHS, ids=str)
@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize("block_keys", [1, 3, 7, 100])
@pytest.mark.parametrize("front", [0, 11])
def test_blocks_of_any_size_give_the_same(
    q_lengths: list[int], k_lengths: list[int], causal: bool, block_keys: int, front: int
) -> None:
    q = torch.randn(sum(q_lengths), 6, 8, dtype=torch.float64)
    (k, v), shared = cached_keys(k_lengths), shared_keys(front)
    before = [shared] * len(k_lengths)
    call = {"q_lengths": q_lengths, "causal": causal, "scale": 0.4}
    got = streamed(
        q, k, v, **call, k_lengths=k_lengths, shared=before, further=further, block_keys=block_keys
    )
    wide_k, wide_v, total = copied_in_front(shared, k, v, k_lengths)
    want = slow_attention(q, wide_k, wide_v, **call, k_lengths=total)
    close("y", got=got, want=want, tol=TOL.attention.f64)


def test_rounding_waits_for_the_last_block() -> None:
    q = torch.randn(5, 4, 8).bfloat16()
    k, v = cached_keys([400], dtype=torch.bfloat16)
    call = {"q_lengths": [5], "k_lengths": [400]}
    want = slow_attention(q.double(), k.double(), v.double(), **call)
    few, many = (streamed(q, k, v, **call, further=further, block_keys=size) for size in (400, 1))
    assert many.dtype == torch.bfloat16
    errors = [(y.double() - want).norm() for y in (few, many)]
    assert errors[1] <= 1.5 * errors[0]


def test_no_keys_at_all_give_zeros() -> None:
    k, v = cached_keys([0])
    q = torch.randn(2, 4, 8).double()
    got = streamed(q, k, v, q_lengths=[2], k_lengths=[0], causal=False, further=further)
    close("y", got=got, want=q * 0, tol=0.0)


@pytest.mark.gpu
@pytest.mark.parametrize("pinned", [True, False])
@pytest.mark.parametrize(("queries", "keys"), [(300, 70_000), (20, 70_001), (64, 64)])
def test_host_keys_are_as_device_keys(pinned: bool, queries: int, keys: int) -> None:
    q = torch.randn(queries, 8, 64, device="cuda", dtype=torch.bfloat16)
    k, v = (x.detach() for x in cached_keys([keys], head_dim=64, dtype=torch.bfloat16))
    front = SharedKeys(k=k[0], v=v[0], length=keys)
    if pinned:
        k, v = k.pin_memory(), v.pin_memory()
    call = {"q_lengths": [queries], "k_lengths": [keys]}
    want = attention(q, k.cuda(), v.cuda(), **call)
    close("y", got=attention(q, k, v, **call), want=want, tol=TOL.attention.bf16)
    close("again", got=attention(q, k, v, **call), want=want, tol=TOL.attention.bf16)
    lengths = torch.tensor([keys], device="cuda")
    got = attention_step(q[:1], k, v, k_lengths=lengths, shared=fronts([front], ratio=1))
    want = attention_step(q[:1], k.cuda(), v.cuda(), k_lengths=lengths)
    close("doubled keys", got=got, want=want, tol=TOL.attention.bf16)
