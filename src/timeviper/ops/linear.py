"""Linear layers on FP8 operands: round rows to e4m3, multiply, scale back."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import ConfigError
from timeviper.ops import backend as backends
from timeviper.ops.fp8 import MULTIPLE, Activation, Quantized, probe_fp8, refuse_gradients


def require_fp8(device_type: str) -> None:
    """Refuse a device that has no FP8 products.

    Args:
        device_type: "cpu" or "cuda".

    Raises:
        ConfigError: it has none, and no emulation was asked for by an override.
    """
    try:
        backends.choose("fp8_linear", device_type=device_type)
    except ConfigError:
        raise ConfigError(
            want="a GPU that multiplies in FP8, of compute capability 8.9 or newer",
            got=probe_fp8(device_type).why,
            do="use precision bfloat16, or float32 on a CPU",
        ) from None


def quantize(
    x: Float[Tensor, "... width"], *, activation: Activation = "none", backend: str | None = None
) -> Quantized:
    """Round each row to e4m3 by its own scale, after an activation.

    Args:
        x: rows along the last axis, any dtype.
        activation: computed in float32 in the same pass: `max(x, 0) ** 2`, or GELU by tanh.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        Values and one scale a row. A row with what is not finite stands for NaN.

    Raises:
        ConfigError: `x` wants a gradient, or an unknown backend.

    Source: Micikevicius et al. 2022, FP8 Formats for Deep Learning.
    """
    refuse_gradients(x)
    return backends.choose("quantize", backend, device_type=x.device.type).run(x, activation)


def fp8_linear(
    x: Quantized,
    weight: Quantized,
    bias: Float[Tensor, "out"] | None = None,
    *,
    dtype: torch.dtype = torch.bfloat16,
    backend: str | None = None,
) -> Float[Tensor, "... out"]:
    """Multiply FP8 rows by an FP8 weight and add a bias, with sums in float32.

    Args:
        x: `(..., in)` with one scale a row.
        weight: `(out, in)` with one scale an output channel.
        bias: one number an output channel, any dtype.
        dtype: of the result; the device's own products give bfloat16 alone.
        backend: name of an implementation; None leaves the choice to the registry. A CPU has
            none but the emulation, which must be named.

    Returns:
        `x @ weight.T + bias`.

    Raises:
        ConfigError: widths that differ or are no multiples of 16, or a device without FP8.
    """
    features, width = weight.values.shape
    if x.values.shape[-1] != width or width % MULTIPLE or features % MULTIPLE:
        raise ConfigError(
            want=f"operands as wide as each other, widths multiples of {MULTIPLE}",
            got=f"{x.values.shape[-1]} by a weight of {features} x {width}",
            do="leave this layer in another precision",
        )
    chosen = backends.choose("fp8_linear", backend, device_type=x.values.device.type)
    y: Tensor = chosen.run(x.rows(), weight, bias, dtype)
    return y.unflatten(0, x.values.shape[:-1])
