"""Attention of a vision tower: every patch sees every patch of its frame."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from timeviper.ops import backend as backends


def patch_attention(
    qkv: Float[Tensor, "frame patch three_widths"], heads: int, *, backend: str | None = None
) -> Float[Tensor, "frame patch width"]:
    """Attend among the patches of each frame.

    Args:
        qkv: queries, keys and values beside each other, each `heads` times the head's width.
        heads: number of heads.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        Weighted values, heads beside each other.

    Raises:
        ConfigError: an unknown backend.

    Source: Dosovitskiy et al. 2021 (ViT).
    """
    chosen = backends.choose("patch_attention", backend, device_type=qkv.device.type)
    return chosen.run(qkv, heads)
