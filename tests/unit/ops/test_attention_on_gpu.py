"""Every path of attention on a CUDA device at the shapes that choose it, against float32."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.ops.draws import cached_keys
from timeviper.ops import attention_torch
from timeviper.ops.attention import attention, attention_step, warm_attention
from timeviper.ops.attention_parts import Part, SharedKeys, merge, part

pytestmark = pytest.mark.gpu


def on_device(k_lengths: list[int]) -> tuple[Tensor, Tensor]:
    """Keys and values of the 9B model's layout, unused slots full of NaN."""
    shape = {"kv_heads": 2, "head_dim": 64, "dtype": torch.bfloat16}
    k, v = cached_keys(k_lengths, **shape)
    return k.detach().cuda(), v.detach().cuda()


def wanted(q: Tensor, k: Tensor, v: Tensor, **call: object) -> Tensor:
    """By plain torch in float32."""
    shared = call.pop("shared", None)
    k, v, q = k.float(), v.float(), q.float()
    fronts = [
        front and SharedKeys(k=front.k.float(), v=front.v.float(), length=front.length)
        for front in shared or [None] * len(k)
    ]
    return attention_torch.behind_shared(q, k, v, **call, scale=None, shared=fronts)


@pytest.mark.parametrize(
    ("q_lengths", "k_lengths", "front"),
    [
        ([8_192], [8_192], 0),
        ([8_192], [16_408], 0),
        ([2_100], [12_000], 0),
        ([300], [9_000], 0),
        ([200], [8_392], 0),
        ([20], [9_000], 0),
        ([20], [20], 0),
        ([500, 600], [500, 9_000], 0),
        ([1, 1, 1], [900, 3, 5_000], 0),
        ([5, 0, 20], [5, 3, 90], 9_000),
        ([400], [500], 9_000),
    ],
    ids=str,
)
@pytest.mark.parametrize("causal", [True, False])
def test_every_path(q_lengths: list[int], k_lengths: list[int], front: int, causal: bool) -> None:
    q = torch.randn(sum(q_lengths), 10, 64, device="cuda", dtype=torch.bfloat16)
    k, v = on_device(k_lengths)
    shared = None
    if front:
        shared_k, shared_v = on_device([front])
        shared = [SharedKeys(k=shared_k[0], v=shared_v[0], length=front)] * len(k_lengths)
    call = {"q_lengths": q_lengths, "k_lengths": k_lengths, "causal": causal, "shared": shared}
    close("y", got=attention(q, k, v, **call), want=wanted(q, k, v, **call), tol=TOL.attention.bf16)


@pytest.mark.slow
def test_offsets_beyond_32_bits() -> None:
    """2.2 million keys of 1,024 numbers: offsets pass 2^31 within one sequence."""
    keys, step = 2_200_000, 100_000
    k = torch.empty(1, keys, 8, 128, device="cuda", dtype=torch.bfloat16).normal_()
    v = torch.empty_like(k).normal_()
    q = torch.randn(400, 40, 128, device="cuda", dtype=torch.bfloat16)
    want: Part | None = None
    for first in range(0, keys, step):
        here = slice(first, first + step)
        found = part(q.float(), k[0, here].float(), v[0, here].float(), causal=False, scale=None)
        want = found if want is None else merge([want, found])
    assert want is not None
    for count in (400, 20):
        got = attention(q[:count], k, v, q_lengths=[count], k_lengths=[keys], causal=False)
        close("y", got=got, want=want.out[:count], tol=TOL.attention.bf16)
    lengths = torch.tensor([keys], device="cuda")
    got = attention_step(q[:1], k, v, k_lengths=lengths)
    close("step", got=got, want=want.out[:1], tol=TOL.attention.bf16)


def test_warming_runs() -> None:
    warm_attention(
        heads=10, kv_heads=2, head_dim=64, dtype=torch.bfloat16, device=torch.device("cuda")
    )
