"""FP8 products that are scaled later: the device's own, and plain torch as oracle of all passes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from timeviper.ops.fp8 import Activation, Quantized
from timeviper.ops.linear_torch import activated, rounded
from timeviper.ops.product import Fp8Weight, Product


def device_product(x: Tensor, weight: Fp8Weight) -> Tensor:
    """Multiply on the FP8 units; see `timeviper.ops.fp8_product.fp8_product`.

    Args:
        x: e4m3 rows, contiguous.
        weight: `(out, in)`, contiguous.

    Returns:
        `(row, out)` in units of the rows' scales, bfloat16.
    """
    if not len(x):
        return x.new_empty((0, len(weight.values)), dtype=torch.bfloat16)
    return torch._scaled_mm(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        x,
        weight.values.t(),
        torch.ones_like(weight.scale),
        weight.scale,
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def emulated_product(x: Tensor, weight: Fp8Weight) -> Tensor:
    """Multiply what the values stand for; see `timeviper.ops.fp8_product.fp8_product`.

    Args:
        x: e4m3 rows.
        weight: `(out, in)`.

    Returns:
        `(row, out)` in units of the rows' scales, bfloat16.
    """
    return (F.linear(x.float(), weight.values.float()) * weight.scale).bfloat16()


def quantize_product(product: Product, activation: Activation) -> Quantized:
    """Finish, activate and round; see `timeviper.ops.fp8_product.quantize_product`.

    Args:
        product: rows before their scales.
        activation: computed in float32.

    Returns:
        Values and one scale a row.
    """
    return rounded(activated(product.finished(), activation))


def add_product(stream: Tensor, product: Product) -> Tensor:
    """Finish and add; see `timeviper.ops.fp8_product.add_product`.

    Args:
        stream: vectors along the last axis.
        product: rows before their scales.

    Returns:
        The sum in the stream's dtype.
    """
    return (stream.float() + product.finished()).to(stream.dtype)


def add_product_norm(
    stream: Tensor, update: Product | Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Quantized]:
    """Add, norm and round; see `timeviper.ops.fp8_product.add_product_norm`.

    Args:
        stream: vectors along the last axis.
        update: a product to be finished, plain numbers, or None.
        weight: the norm's factors.
        bias: the norm's bias.
        eps: added to the variance.

    Returns:
        The sum and its norm in FP8.
    """
    if isinstance(update, Product):
        stream = add_product(stream, update)
    elif update is not None:
        stream = stream + update
    shape = (stream.shape[-1],)
    normed = F.layer_norm(stream.float(), shape, weight.float(), bias.float(), eps)
    return stream, rounded(normed)
