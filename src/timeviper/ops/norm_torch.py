"""Root-mean-square norms in plain torch: run anywhere, oracle of the kernels."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def rms_norm(
    x: Float[Tensor, "... width"], weight: Float[Tensor, "width"], eps: float
) -> Float[Tensor, "... width"]:
    """Norm in plain torch; see `timeviper.ops.norm.rms_norm`.

    Args:
        x: vectors along the last axis, any dtype.
        weight: one factor a channel.
        eps: added to the mean square.

    Returns:
        The normed vectors in the dtype of `x`.
    """
    work = _work_dtype(x)
    return F.rms_norm(x.to(work), (x.shape[-1],), weight.to(work), eps).to(x.dtype)


def gated_rms_norm(
    x: Float[Tensor, "... width"],
    gate: Float[Tensor, "... width"],
    weight: Float[Tensor, "width"],
    *,
    eps: float,
    group_size: int,
) -> Float[Tensor, "... width"]:
    """Gate and norm in plain torch; see `timeviper.ops.norm.gated_rms_norm`.

    Args:
        x: output of the scan, any dtype.
        gate: same shape.
        weight: one factor a channel.
        eps: added to each group's mean square.
        group_size: channels a group; divides the width.

    Returns:
        The gated and normed vectors in the dtype of `x`.
    """
    work = _work_dtype(x)
    gated = x.to(work) * F.silu(gate.to(work))
    groups = gated.unflatten(-1, (x.shape[-1] // group_size, group_size))
    normed = F.rms_norm(groups, (group_size,), None, eps).flatten(-2)
    return (normed * weight.to(work)).to(x.dtype)


def _work_dtype(x: Tensor) -> torch.dtype:
    """float64 stays, for gradient checks; all else is normed in float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
