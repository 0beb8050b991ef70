"""FP8 products that are scaled later: the device's own, and plain torch as oracle of all passes."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from timeviper.ops.fp8 import E4M3
from timeviper.ops.product import Fp8Norm, Fp8Weight, Product


def device_product(
    x: Tensor, weight: Fp8Weight, scale: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Multiply on the FP8 units; see `timeviper.ops.fp8_product`.

    Args:
        x: e4m3 rows, contiguous.
        weight: `(out, in)`, contiguous.
        scale: of all rows; None leaves the product in units of theirs.
        bias: one number an output channel, or None.

    Returns:
        `(row, out)`, bfloat16.
    """
    if not len(x):
        return x.new_empty((0, len(weight.values)), dtype=torch.bfloat16)
    return torch._scaled_mm(  # pyright: ignore[reportPrivateUsage, reportPrivateImportUsage]
        x,
        weight.values.t(),
        torch.ones_like(weight.scale) if scale is None else scale,
        weight.scale,
        bias=None if bias is None else bias.bfloat16(),
        out_dtype=torch.bfloat16,
        use_fast_accum=True,
    )


def emulated_product(
    x: Tensor, weight: Fp8Weight, scale: Tensor | None, bias: Tensor | None
) -> Tensor:
    """Multiply what the values stand for; arguments and results as of `device_product`."""
    sums = F.linear(x.float(), weight.values.float()) * weight.scale
    sums = sums if scale is None else sums * scale
    return (sums if bias is None else sums + bias.float()).bfloat16()


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
    stream: Tensor, update: Product | Tensor | None, norm: Fp8Norm
) -> tuple[Tensor, Tensor]:
    """Add, norm and round; see `timeviper.ops.fp8_product.add_product_norm`.

    Args:
        stream: vectors along the last axis.
        update: a product to be finished, plain numbers, or None.
        norm: with the scale of its results.

    Returns:
        The sum, and the values of its norm in FP8.
    """
    if isinstance(update, Product):
        stream = add_product(stream, update)
    elif update is not None:
        stream = stream + update
    shape = (stream.shape[-1],)
    normed = F.layer_norm(stream.float(), shape, norm.weight, norm.bias, norm.eps)
    return stream, normed.to(E4M3)
