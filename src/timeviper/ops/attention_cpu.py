"""Attention of a chunk behind a long past on a CPU: fused calls without a mask, merged."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from timeviper.ops import attention_parts
from timeviper.ops.attention_parts import Part


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether these functions may be called: on a CPU, for one dtype, without a gradient."""
    if q.device.type != "cpu" or not q.dtype == k.dtype == v.dtype:
        return False
    return not (torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)))


def after_past(
    q: Float[Tensor, "sequence place head head_dim"],
    k: Float[Tensor, "sequence key kv_head head_dim"],
    v: Float[Tensor, "sequence key kv_head head_dim"],
    scale: float | None,
) -> Float[Tensor, "sequence place head head_dim"]:
    """Causal attention of the last places of each sequence to all its keys.

    A mask would be written out as floats for every block of queries, which takes longer than
    the attention itself.

    Args:
        q: queries of the newest places, at least one.
        k: keys of all places, more than there are queries.
        v: values of the same places.
        scale: factor of the scores; None means 1 / sqrt(head_dim).

    Returns:
        Weighted values of the queries.

    Source: parts of a softmax, merged by their log-sums (Milakov and Gimelshein 2018).
    """
    out, _ = _after_past(q.transpose(1, 2), k.transpose(1, 2), v.transpose(1, 2), scale)
    return out.transpose(1, 2)


def part(
    q: Float[Tensor, "token head head_dim"],
    k: Float[Tensor, "key kv_head head_dim"],
    v: Float[Tensor, "key kv_head head_dim"],
    *,
    causal: bool,
    scale: float | None,
) -> Part:
    """As `attention_parts.part`, by torch's fused attention."""
    if not len(k) or not len(q) or (causal and len(q) > len(k)):
        return attention_parts.part(q, k, v, causal=causal, scale=scale)
    behind = causal and len(q) < len(k)
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out, mass = _after_past(q, k, v, scale) if behind else _fused(q, k, v, causal, scale)
    return Part(out[0].transpose(0, 1), mass[0].transpose(0, 1))


def _after_past(q: Tensor, k: Tensor, v: Tensor, scale: float | None) -> tuple[Tensor, Tensor]:
    """All (sequence, head, place, head_dim); weighted values and log-sums."""
    past = k.shape[2] - q.shape[2]
    old, old_mass = _fused(q, k[:, :, :past], v[:, :, :past], False, scale)
    new, new_mass = _fused(q, k[:, :, past:], v[:, :, past:], True, scale)
    share = torch.sigmoid(new_mass - old_mass).to(old.dtype).unsqueeze(-1)
    return torch.lerp(old, new, share), torch.logaddexp(old_mass, new_mass)


def _fused(
    q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None
) -> tuple[Tensor, Tensor]:
    fused = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    return fused(q, k, v, 0.0, causal, scale=scale)
