"""Product and GELU in plain torch, and as one product where the device's library has it."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from timeviper.ops.triton_probe import Probe

_HALF = (torch.float16, torch.bfloat16)


def linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Two passes of torch; see `timeviper.ops.linear_gelu.linear_gelu`.

    Args:
        x: rows along the last axis.
        weight: one row an output channel.
        bias: one number an output channel.

    Returns:
        `gelu(x @ weight.T + bias)`.
    """
    return F.gelu(F.linear(x, weight, bias), approximate="tanh")


def probe_fused(device_type: str) -> Probe:
    """Whether bias and GELU can end a product, and why."""
    if device_type != "cuda":
        return Probe(available=False, why=f"no product ends in a GELU on {device_type}")
    if not torch.cuda.is_available():
        return Probe(available=False, why="no CUDA device found")
    return Probe(available=True, why="cuBLASLt's product with GELU (two passes under gradients)")


def fused_linear_gelu(x: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """One product; see `timeviper.ops.linear_gelu.linear_gelu`.

    It has no gradient and takes halves only; all else is two passes, as the probe says.
    """
    learns = torch.is_grad_enabled() and any(t.requires_grad for t in (x, weight, bias))
    if learns or x.dtype not in _HALF or weight.dtype != x.dtype or not x.numel():
        return linear_gelu(x, weight, bias)
    # On CUDA the library's GELU is the tanh formula; the GPU tests hold it to that.
    product = torch._addmm_activation(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        bias, x.flatten(0, -2), weight.t(), use_gelu=True
    )
    return product.unflatten(0, x.shape[:-1])
