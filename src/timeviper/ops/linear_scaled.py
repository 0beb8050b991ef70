"""FP8 products of the device itself, through torch's scaled matrix product."""

from __future__ import annotations

import torch
from torch import Tensor

from timeviper.core.errors import ConfigError
from timeviper.ops.fp8 import Quantized


def fp8_linear(x: Quantized, weight: Quantized, bias: Tensor | None, dtype: torch.dtype) -> Tensor:
    """Multiply on the FP8 units; see `timeviper.ops.linear.fp8_linear`.

    Args:
        x: `(row, in)`, contiguous.
        weight: `(out, in)`, contiguous.
        bias: one number an output channel.
        dtype: of the result, bfloat16.

    Returns:
        `(row, out)`.

    Raises:
        ConfigError: another dtype.
    """
    if dtype != torch.bfloat16:
        raise ConfigError(
            want="bfloat16 results of FP8 products",
            got=str(dtype).removeprefix("torch."),
            do="ask for bfloat16",
        )
    if not len(x.values):
        return x.values.new_empty((0, len(weight.values)), dtype=dtype)
    return torch._scaled_mm(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        x.values,
        weight.values.t(),
        x.scales,
        weight.scales.t(),
        bias=None if bias is None else bias.to(dtype),
        out_dtype=dtype,
        # Sums of up to 15,680 products stay on the matrix units: see benchmarks/products_gpu.py.
        use_fast_accum=True,
    )
