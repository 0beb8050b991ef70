"""FP8 in plain torch: the same rounding anywhere, the product emulated; oracle of the kernels."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from timeviper.ops.fp8 import E4M3, LEAST, MOST, Activation, Quantized
from timeviper.ops.triton_probe import Probe


def quantize(x: Tensor, activation: Activation) -> Quantized:
    """Activate and round in plain torch; see `timeviper.ops.linear.quantize`.

    Args:
        x: rows along the last axis.
        activation: computed in float32 first.

    Returns:
        Values and one scale a row.
    """
    return rounded(activated(x.float(), activation))


def activated(x: Tensor, activation: Activation) -> Tensor:
    """The activation called `activation`, in the dtype of `x`."""
    if activation == "relu2":
        return F.relu(x).square()
    return F.gelu(x, approximate="tanh") if activation == "gelu_tanh" else x


def rounded(x: Tensor) -> Quantized:
    """Rows of float32 rounded to e4m3, the largest of each becoming the largest number."""
    # What is not a number shows in the scale, so that the whole row tells.
    largest = x.abs().nan_to_num(nan=torch.inf, posinf=torch.inf).amax(-1, keepdim=True)
    return scaled(x, largest)


def scaled(x: Tensor, largest: Tensor) -> Quantized:
    """Rows of float32 rounded to e4m3 so that `largest`, one a row, becomes the largest number."""
    scales = largest.clamp(min=LEAST) / MOST
    return Quantized((x * scales.reciprocal()).to(E4M3), scales)


def fp8_linear(x: Quantized, weight: Quantized, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Multiply what the operands stand for, in float32; see `timeviper.ops.linear.fp8_linear`.

    Args:
        x: `(row, in)`.
        weight: `(out, in)`.
        bias: one number an output channel.
        dtype: of the result.

    Returns:
        `(row, out)`.
    """
    y = F.linear(x.values.float(), weight.values.float()) * x.scales * weight.scales.t()
    return (y if bias is None else y + bias.float()).to(dtype)


def probe_emulation(device_type: str) -> Probe:
    """It runs anywhere and saves nothing: only for those who name it."""
    return Probe(available=True, why=f"FP8 emulated in float32, on {device_type}", by_name=True)
