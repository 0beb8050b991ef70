"""Attention of patches by torch's own choice of kernel: runs anywhere, oracle of the others."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def patch_attention(qkv: Tensor, heads: int) -> Tensor:
    """Attend through SDPA; see `timeviper.ops.patch_attention.patch_attention`.

    Args:
        qkv: queries, keys and values beside each other.
        heads: number of heads.

    Returns:
        Weighted values, heads beside each other.
    """
    return joined(F.scaled_dot_product_attention(*by_head(qkv, heads)))


def by_head(qkv: Tensor, heads: int) -> tuple[Tensor, Tensor, Tensor]:
    """Queries, keys and values as (frame, head, patch, channel), where they lie."""
    q, k, v = qkv.unflatten(-1, (3, heads, -1)).permute(2, 0, 3, 1, 4).unbind()
    return q, k, v


def joined(values: Tensor) -> Tensor:
    """(frame, head, patch, channel) as (frame, patch, width)."""
    return values.transpose(1, 2).flatten(2)
