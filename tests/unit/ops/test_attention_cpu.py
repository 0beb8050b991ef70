"""A chunk behind a long past on a CPU: the oracle's values, log-sums that merge, no mask."""

from __future__ import annotations

import pytest
import torch

from tests.tolerances import TOL, close
from timeviper.ops import attention_cpu, attention_parts
from timeviper.ops.attention import attention
from timeviper.ops.attention_parts import SharedKeys


def draw(tokens: int, keys: int, heads: int = 6, kv_heads: int = 2) -> list[torch.Tensor]:
    made = torch.Generator().manual_seed(tokens + keys)
    shapes = (tokens, heads, 8), (keys, kv_heads, 8), (keys, kv_heads, 8)
    return [torch.randn(shape, generator=made, dtype=torch.float64) for shape in shapes]


def same(name: str, got: torch.Tensor, want: torch.Tensor) -> None:
    close(name, got=got, want=want, tol=TOL.attention.f64)


@pytest.mark.parametrize("tokens", [1, 7, 64, 130])
@pytest.mark.parametrize("past", [1, 5, 300])
@pytest.mark.parametrize("scale", [None, 0.3])
def test_a_chunk_behind_a_past_is_the_oracles(tokens: int, past: int, scale: float | None):
    q, k, v = draw(tokens, tokens + past)
    want = attention_parts.part(q, k, v, causal=True, scale=scale)
    rows = attention_cpu.after_past(q[None], k[None], v[None], scale)[0]
    same("rows", rows, want.out)
    got = attention_cpu.part(q, k, v, causal=True, scale=scale)
    same("out", got.out, want.out)
    same("log-sum", got.lse, want.lse)


@pytest.mark.parametrize(("tokens", "keys"), [(5, 0), (0, 4), (9, 4), (9, 9), (3, 40)])
@pytest.mark.parametrize("causal", [True, False])
def test_any_number_of_queries_and_keys(tokens: int, keys: int, causal: bool):
    q, k, v = draw(tokens, keys)
    want = attention_parts.part(q, k, v, causal=causal, scale=None)
    got = attention_cpu.part(q, k, v, causal=causal, scale=None)
    same("out", got.out, want.out)
    same("log-sum", got.lse, want.lse)


def test_behind_shared_keys_it_is_one_call_over_all():
    q, k, v = draw(9, 50)
    shared = SharedKeys(k=k[:30], v=v[:30], length=30)
    got = attention(q, k[None, 30:], v[None, 30:], q_lengths=[9], k_lengths=[20], shared=[shared])
    want = attention(q, k[None], v[None], q_lengths=[9], k_lengths=[50])
    same("out", got, want)


def test_it_is_left_alone_where_there_is_a_gradient_or_another_dtype():
    q, k, v = draw(4, 9)
    assert attention_cpu.takes(q, k, v)
    assert not attention_cpu.takes(q.requires_grad_(), k, v)
    with torch.no_grad():
        assert attention_cpu.takes(q, k, v)
    assert not attention_cpu.takes(q.detach(), k.float(), v)


def test_no_mask_is_made():
    """Whatever the past, a call takes little more memory than its result."""
    q, k, v = draw(256, 4096)
    profiler = torch.profiler.profile(profile_memory=True)
    with profiler, torch.inference_mode():
        attention_cpu.after_past(q[None], k[None], v[None], None)
    largest = max(event.self_cpu_memory_usage for event in profiler.key_averages())
    assert largest < q.shape[0] * k.shape[0] * q.itemsize // 4
