"""Residual sum and layer norm in plain torch: runs anywhere, oracle of the kernel."""

from __future__ import annotations

from torch import Tensor
from torch.nn import functional as F


def add_layer_norm(
    stream: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Add, then norm; see `timeviper.ops.layer_norm.add_layer_norm`.

    Args:
        stream: vectors along the last axis.
        update: what is added to them.
        weight: one factor a channel.
        bias: one number a channel.
        eps: added to the variance.

    Returns:
        The sum and its norm.
    """
    stream = stream + update
    return stream, F.layer_norm(stream, (stream.shape[-1],), weight, bias, eps)
