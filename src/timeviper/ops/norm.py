"""Root-mean-square norms, plain and gated by group, in float32 whatever the input."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from timeviper.core.errors import ConfigError


def rms_norm(
    x: Float[Tensor, "... width"], weight: Float[Tensor, "width"], eps: float
) -> Float[Tensor, "... width"]:
    """Scale each vector to unit root mean square, then by a weight a channel.

    Args:
        x: vectors along the last axis, any dtype.
        weight: one factor a channel, applied in float32 before the cast back.
        eps: added to the mean square.

    Returns:
        The normed vectors in the dtype of `x`.

    Source: spec of Nemotron-H blocks; Zhang and Sennrich 2019.
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
    """Gate, then norm each group of channels by itself, then scale.

    Args:
        x: output of the scan, any dtype.
        gate: same shape; enters as `silu(gate)` before the norm.
        weight: one factor a channel.
        eps: added to each group's mean square.
        group_size: channels a group; must divide the width.

    Returns:
        The gated and normed vectors in the dtype of `x`.

    Raises:
        ConfigError: the group size does not divide the width.

    Source: Mamba-2, gated RMSNorm with `norm_before_gate=False`.
    """
    width = x.shape[-1]
    if group_size < 1 or width % group_size:
        raise ConfigError(
            want=f"a group size that divides the width {width}",
            got=group_size,
            do="set group_size to intermediate size / n_groups",
        )
    work = _work_dtype(x)
    gated = x.to(work) * F.silu(gate.to(work))
    groups = gated.unflatten(-1, (width // group_size, group_size))
    normed = F.rms_norm(groups, (group_size,), None, eps).flatten(-2)
    return (normed * weight.to(work)).to(x.dtype)


def _work_dtype(x: Tensor) -> torch.dtype:
    """float64 stays, for gradient checks; all else is normed in float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
