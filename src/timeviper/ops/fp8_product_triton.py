"""Finish FP8 products, add them and norm, as a Triton kernel: each row is read once.

A row is held in two parts, as in `layer_norm_triton`.
"""
# The checker does not know how kernels are launched.
# pyright: reportCallIssue=false

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from timeviper.ops.fp8 import E4M3
from timeviper.ops.layer_norm_triton import halves, norm_scale
from timeviper.ops.product import Fp8Norm, Product

# Of a program: rows held at once, warps.
_ROWS, _WARPS = 4, 4


def add_product(stream: Tensor, product: Product) -> Tensor:
    """Finish and add in one pass; see `timeviper.ops.fp8_product.add_product`.

    Args:
        stream: vectors along the last axis.
        product: rows before their scales.

    Returns:
        The sum in the stream's dtype.
    """
    stream = stream.contiguous()
    total = torch.empty_like(stream)
    _launch(stream, product, total, None)
    return total


def add_product_norm(
    stream: Tensor, update: Product | Tensor | None, norm: Fp8Norm
) -> tuple[Tensor, Tensor]:
    """All in one pass; see `timeviper.ops.fp8_product.add_product_norm`.

    Args:
        stream: vectors along the last axis.
        update: a product to be finished, plain numbers, or None.
        norm: with the scale of its results.

    Returns:
        The sum, and the values of its norm in FP8.
    """
    stream = stream.contiguous()
    total = stream if update is None else torch.empty_like(stream)
    values = torch.empty(stream.shape, dtype=E4M3, device=stream.device)
    _launch(stream, update, total, (norm, values))
    return total, values


def _launch(
    stream: Tensor,
    update: Product | Tensor | None,
    total: Tensor,
    wanted: tuple[Fp8Norm, Tensor] | None,
) -> None:
    """Write the sum, and its norm where one is wanted."""
    width = stream.shape[-1]
    head, tail = halves(width)
    count = stream.numel() // max(1, width)
    sums, scales, bias = update if isinstance(update, Product) else (update, None, None)
    norm, values = wanted or (None, None)
    if stream.numel():
        with torch.cuda.device_of(stream):
            _norm_kernel[(-(-count // _ROWS),)](
                stream,
                None if sums is None else sums.contiguous(),
                None if scales is None else scales.contiguous(),
                None if bias is None else bias.contiguous(),
                None if norm is None else norm.weight,
                None if norm is None else norm.bias,
                None if update is None else total,
                values,
                count,
                SIZE=width,
                EPS=0.0 if norm is None else norm.eps,
                ROWS=_ROWS,
                HEAD=head,
                TAIL=tail,
                num_warps=_WARPS,
            )


@no_type_check
@triton.jit
def _channel(base, c, SIZE: tl.constexpr):
    """One number a channel, for all rows."""
    return tl.load(base + c, mask=c < SIZE, other=0.0).to(tl.float32)[None, :]


@no_type_check
@triton.jit
def _total(stream, sums, scale, bias, total, places, inside):
    """The stream with its update, finished if it is a product, stored, and as it was rounded."""
    x = tl.load(stream + places, mask=inside, other=0.0).to(tl.float32)
    if sums is not None:
        u = tl.load(sums + places, mask=inside, other=0.0).to(tl.float32)
        rounded = (x + (u * scale + bias)).to(total.dtype.element_ty)
        tl.store(total + places, rounded, mask=inside)
        x = rounded.to(tl.float32)
    return x


@no_type_check
@triton.jit
def _norm_kernel(
    stream,
    sums,
    row_scales,
    bias,
    factors,
    offsets,
    total,
    values,
    count,
    SIZE: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD: tl.constexpr,
    TAIL: tl.constexpr,
):
    """Some rows: finish the product if there is one, add, norm and round if that is wanted."""
    first, rest = tl.arange(0, HEAD), HEAD + tl.arange(0, TAIL)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    alive = rows < count
    inside_a = alive[:, None] & (first < SIZE)[None, :]
    inside_b = alive[:, None] & (rest < SIZE)[None, :]
    places_a = rows[:, None] * SIZE + first[None, :]
    places_b = rows[:, None] * SIZE + rest[None, :]
    scale, bias_a, bias_b = 1.0, 0.0, 0.0
    if row_scales is not None:
        scale = tl.load(row_scales + rows, mask=alive, other=0.0)[:, None]
        bias_a, bias_b = _channel(bias, first, SIZE), _channel(bias, rest, SIZE)
    a = _total(stream, sums, scale, bias_a, total, places_a, inside_a)
    b = _total(stream, sums, scale, bias_b, total, places_b, inside_b)
    if values is not None:
        a, b, unit = norm_scale(a, b, inside_a, inside_b, SIZE, EPS)
        a = a * unit * _channel(factors, first, SIZE) + _channel(offsets, first, SIZE)
        b = b * unit * _channel(factors, rest, SIZE) + _channel(offsets, rest, SIZE)
        tl.store(values + places_a, a.to(values.dtype.element_ty), mask=inside_a)
        tl.store(values + places_b, b.to(values.dtype.element_ty), mask=inside_b)
