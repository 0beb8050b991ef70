"""Root-mean-square norms in plain torch: run anywhere, oracle of the kernels."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from timeviper.ops.fp8 import Quantized
from timeviper.ops.linear_torch import scaled


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
    return _normed(x, weight, eps).to(x.dtype)


def add_rms_norm(
    x: Float[Tensor, "... width"],
    addition: Float[Tensor, "... width"],
    weight: Float[Tensor, "width"],
    eps: float,
) -> tuple[Float[Tensor, "... width"], Float[Tensor, "... width"]]:
    """Add and norm in plain torch; see `timeviper.ops.norm.add_rms_norm`.

    Args:
        x: the residual stream.
        addition: what is added.
        weight: one factor a channel.
        eps: added to the mean square.

    Returns:
        The sum and its norm.
    """
    total = x + addition
    return total, rms_norm(total, weight, eps)


def add_rms_norm_fp8(
    x: Float[Tensor, "... width"],
    addition: Float[Tensor, "... width"] | None,
    weight: Float[Tensor, "width"],
    eps: float,
) -> tuple[Float[Tensor, "... width"], Quantized]:
    """Add, norm and round in plain torch; see `timeviper.ops.norm.add_rms_norm_fp8`.

    Args:
        x: the residual stream.
        addition: what is added, or None.
        weight: one factor a channel.
        eps: added to the mean square.

    Returns:
        The sum and its norm in FP8.
    """
    total = x if addition is None else x + addition
    return total, _rounded(_normed(total, weight, eps), weight, total.shape[-1])


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
    return _gated(x, gate, weight, eps, group_size).to(x.dtype)


def gated_rms_norm_fp8(
    x: Float[Tensor, "... width"],
    gate: Float[Tensor, "... width"],
    weight: Float[Tensor, "width"],
    *,
    eps: float,
    group_size: int,
) -> Quantized:
    """Gate, norm and round in plain torch; see `timeviper.ops.norm.gated_rms_norm_fp8`.

    Args:
        x: output of the scan, any dtype.
        gate: same shape.
        weight: one factor a channel.
        eps: added to each group's mean square.
        group_size: channels a group; divides the width.

    Returns:
        The gated and normed rows in FP8.
    """
    return _rounded(_gated(x, gate, weight, eps, group_size), weight, group_size)


def _rounded(y: Tensor, weight: Tensor, group_size: int) -> Quantized:
    """A norm in e4m3; no value of a group exceeds the root of its size times its weight."""
    most = weight.float().abs().max() * group_size**0.5
    return scaled(y.float(), most.expand(*y.shape[:-1], 1).contiguous())


def _normed(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    """The norm before it is rounded to the dtype of `x`."""
    work = _work_dtype(x)
    return F.rms_norm(x.to(work), (x.shape[-1],), weight.to(work), eps)


def _gated(x: Tensor, gate: Tensor, weight: Tensor, eps: float, group_size: int) -> Tensor:
    """The gated norm before it is rounded to the dtype of `x`."""
    work = _work_dtype(x)
    gated = x.to(work) * F.silu(gate.to(work))
    groups = gated.unflatten(-1, (x.shape[-1] // group_size, group_size))
    return F.rms_norm(groups, (group_size,), None, eps).flatten(-2) * weight.to(work)


def _work_dtype(x: Tensor) -> torch.dtype:
    """float64 stays, for gradient checks; all else is normed in float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32
