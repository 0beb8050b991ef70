"""Random operands and slow oracles that several tests of the ops share."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor


def scan_operands(
    lengths: Sequence[int],
    *,
    heads: int = 4,
    head_dim: int = 3,
    groups: int = 2,
    size: int = 5,
    dtype: torch.dtype = torch.float64,
) -> dict[str, Tensor]:
    """Leaves of one call of the scan, with steps and decays as trained models have them."""
    tokens = sum(lengths)

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, dtype=dtype)

    operands = {
        "x": draw(tokens, heads, head_dim),
        "dt": draw(tokens, heads),
        "A": -0.1 - 4 * torch.rand(heads, dtype=dtype),
        "B": draw(tokens, groups, size),
        "C": draw(tokens, groups, size),
        "D": draw(heads),
        "state": draw(len(lengths), heads, head_dim, size),
        "dt_bias": draw(heads) - 2,
    }
    return {name: value.requires_grad_() for name, value in operands.items()}


def gradients(outputs: Sequence[Tensor], leaves: Sequence[Tensor], seed: int = 1) -> list[Tensor]:
    """Gradients of a random weighting of the outputs; zeros where a leaf is not used."""
    generator = torch.Generator().manual_seed(seed)
    total = torch.zeros((), dtype=torch.float64)
    for output in outputs:
        weights = torch.randn(output.shape, generator=generator, dtype=torch.float64)
        total = total + (output.double() * weights).sum()
    found = torch.autograd.grad(total, list(leaves), allow_unused=True)
    return [
        torch.zeros_like(leaf) if g is None else g for g, leaf in zip(found, leaves, strict=True)
    ]


def slow_attention(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_lengths: Sequence[int],
    k_lengths: Sequence[int],
    causal: bool = True,
    scale: float | None = None,
) -> Tensor:
    """Attention one query at a time over exactly the keys it may see."""
    ratio = q.shape[1] // k.shape[2]
    factor = q.shape[2] ** -0.5 if scale is None else scale
    outputs: list[Tensor] = []
    token = 0
    for s, (queries, keys) in enumerate(zip(q_lengths, k_lengths, strict=True)):
        for i in range(queries):
            end = keys - queries + i + 1 if causal else keys
            seen = k[s, :end].repeat_interleave(ratio, dim=1)
            values = v[s, :end].repeat_interleave(ratio, dim=1)
            weights = (torch.einsum("hd,khd->hk", q[token], seen) * factor).softmax(-1)
            outputs.append(torch.einsum("hk,khd->hd", weights, values))
            token += 1
    return torch.stack(outputs)


def cached_keys(
    k_lengths: Sequence[int],
    *,
    spare: int = 3,
    kv_heads: int = 2,
    head_dim: int = 8,
    dtype: torch.dtype = torch.float64,
) -> tuple[Tensor, Tensor]:
    """Keys and values in buffers with room to spare, unused slots full of NaN."""
    shape = (len(k_lengths), max(k_lengths) + spare, kv_heads, head_dim)
    k, v = torch.randn(shape, dtype=dtype), torch.randn(shape, dtype=dtype)
    for s, length in enumerate(k_lengths):
        k[s, length:] = torch.nan
        v[s, length:] = torch.nan
    return k.requires_grad_(), v.requires_grad_()


def unchecked(function: Callable[..., Any]) -> Callable[..., Any]:
    """The op as users run it, without the axis checks that the tests switch on."""
    return inspect.unwrap(function)
