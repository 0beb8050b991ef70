"""Passes that finish FP8 products, as Triton kernels: each row is read once and stays on the chip.

A row is held in two parts, as in `layer_norm_triton`. A program walks over several rows with the
channels' own numbers, bias and norm, in its registers.
"""
# The checker does not know how kernels are launched.
# pyright: reportCallIssue=false

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from timeviper.ops.fp8 import E4M3, Activation, Quantized
from timeviper.ops.layer_norm_triton import halves, norm_scale
from timeviper.ops.linear_triton import LARGEST, SMALLEST
from timeviper.ops.product import Product
from timeviper.ops.triton_probe import is_interpreted

# Of a norm's program: rows held at once, walks, warps. Of an activation's: one row is wide enough.
_NORM, _ACTIVATION = (4, 1, 4), (1, 1, 4)


def quantize_product(product: Product, activation: Activation) -> Quantized:
    """Finish, activate and round in one pass; see `timeviper.ops.fp8_product.quantize_product`.

    Args:
        product: rows before their scales.
        activation: computed in float32.

    Returns:
        Values and one scale a row.
    """
    sums, width = product.sums.contiguous(), product.sums.shape[-1]
    out = _quantized_like(sums)
    rows, tiles, warps = _NORM if activation == "none" else _ACTIVATION
    head, tail = halves(width)
    count = sums.numel() // max(1, width)
    if sums.numel():
        with torch.cuda.device_of(sums):
            _activation_kernel[(-(-count // (rows * tiles)),)](
                sums,
                product.scales.contiguous(),
                product.bias.contiguous(),
                out.values,
                out.scales,
                count,
                SIZE=width,
                ACTIVATION=activation,
                FAST=not is_interpreted(),
                ROWS=rows,
                TILES=tiles,
                HEAD=head,
                TAIL=tail,
                num_warps=warps,
            )
    return out


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
    _launch_norm(stream, product, total, None)
    return total


def add_product_norm(
    stream: Tensor, update: Product | Tensor | None, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Quantized]:
    """All in one pass; see `timeviper.ops.fp8_product.add_product_norm`.

    Args:
        stream: vectors along the last axis.
        update: a product to be finished, plain numbers, or None.
        weight: the norm's factors.
        bias: the norm's bias.
        eps: added to the variance.

    Returns:
        The sum and its norm in FP8.
    """
    stream = stream.contiguous()
    total = stream if update is None else torch.empty_like(stream)
    out = _quantized_like(stream)
    _launch_norm(stream, update, total, (weight.contiguous(), bias.contiguous(), eps, out))
    return total, out


def _quantized_like(x: Tensor) -> Quantized:
    """Buffers for rows in FP8."""
    scales = torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)
    return Quantized(torch.empty(x.shape, dtype=E4M3, device=x.device), scales)


def _launch_norm(
    stream: Tensor,
    update: Product | Tensor | None,
    total: Tensor,
    norm: tuple[Tensor, Tensor, float, Quantized] | None,
) -> None:
    """Write the sum, and its norm where one is wanted."""
    rows, tiles, warps = _NORM
    width = stream.shape[-1]
    head, tail = halves(width)
    count = stream.numel() // max(1, width)
    sums, scales, bias = update if isinstance(update, Product) else (update, None, None)
    factors, offsets, eps, out = (None, None, 0.0, None) if norm is None else norm
    if stream.numel():
        with torch.cuda.device_of(stream):
            _norm_kernel[(-(-count // (rows * tiles)),)](
                stream,
                None if sums is None else sums.contiguous(),
                None if scales is None else scales.contiguous(),
                None if bias is None else bias.contiguous(),
                factors,
                offsets,
                None if update is None else total,
                None if out is None else out.values,
                None if out is None else out.scales,
                count,
                SIZE=width,
                EPS=eps,
                ROWS=rows,
                TILES=tiles,
                HEAD=head,
                TAIL=tail,
                num_warps=warps,
            )


@no_type_check
@triton.jit
def _channel(base, c, SIZE: tl.constexpr):
    """One number a channel, for all rows."""
    return tl.load(base + c, mask=c < SIZE, other=0.0).to(tl.float32)[None, :]


@no_type_check
@triton.jit
def _gelu(x, FAST: tl.constexpr):
    """GELU by tanh: 1 + tanh(a) = 2 sigmoid(2 a), with a = sqrt(2 / pi) (x + 0.044715 x^3)."""
    if FAST:
        # One instruction, its error of 2^-11 far below e4m3's own of 2^-4.
        a = x * (0.7978845608028654 + 0.035677408136300125 * x * x)
        t = tl.inline_asm_elementwise(
            "tanh.approx.f32 $0, $1;", "=f,f", [a], dtype=tl.float32, is_pure=True, pack=1
        )
        half = 0.5 * x
        y = half * t + half
    else:
        y = x * tl.sigmoid(1.5957691216057308 * x * (1 + 0.044715 * x * x))
    return y


@no_type_check
@triton.jit
def _activated(x, ACTIVATION: tl.constexpr, FAST: tl.constexpr):
    """The activation of finished values."""
    if ACTIVATION == "gelu_tanh":
        x = _gelu(x, FAST)
    elif ACTIVATION == "relu2":
        # Where, not maximum: a NaN must stay one.
        x = tl.where(x < 0, 0.0, x * x)
    return x


@no_type_check
@triton.jit
def _store_rows(a, b, places_a, places_b, inside_a, inside_b, rows, alive, values, scales):
    """Both parts of some rows in e4m3, and their scales."""
    top = tl.maximum(tl.max(tl.abs(a), axis=1), tl.max(tl.abs(b), axis=1))
    scale = tl.maximum(top, SMALLEST) / LARGEST
    factor = (1.0 / scale)[:, None]
    tl.store(values + places_a, (a * factor).to(values.dtype.element_ty), mask=inside_a)
    tl.store(values + places_b, (b * factor).to(values.dtype.element_ty), mask=inside_b)
    tl.store(scales + rows, scale, mask=alive)


@no_type_check
@triton.jit
def _activation_kernel(
    sums,
    row_scales,
    bias,
    values,
    scales,
    count,
    SIZE: tl.constexpr,
    ACTIVATION: tl.constexpr,
    FAST: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    HEAD: tl.constexpr,
    TAIL: tl.constexpr,
):
    """Some rows: finish, activate, find the largest, round."""
    first, rest = tl.arange(0, HEAD), HEAD + tl.arange(0, TAIL)
    bias_a, bias_b = _channel(bias, first, SIZE), _channel(bias, rest, SIZE)
    begin = tl.program_id(0).to(tl.int64) * (ROWS * TILES)
    for t in range(TILES):
        rows = begin + t * ROWS + tl.arange(0, ROWS)
        alive = rows < count
        inside_a = alive[:, None] & (first < SIZE)[None, :]
        inside_b = alive[:, None] & (rest < SIZE)[None, :]
        places_a = rows[:, None] * SIZE + first[None, :]
        places_b = rows[:, None] * SIZE + rest[None, :]
        scale = tl.load(row_scales + rows, mask=alive, other=0.0)[:, None]
        a = tl.load(sums + places_a, mask=inside_a, other=0.0).to(tl.float32)
        b = tl.load(sums + places_b, mask=inside_b, other=0.0).to(tl.float32)
        a = _activated(a * scale + bias_a, ACTIVATION, FAST)
        b = _activated(b * scale + bias_b, ACTIVATION, FAST)
        _store_rows(a, b, places_a, places_b, inside_a, inside_b, rows, alive, values, scales)


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
    scales,
    count,
    SIZE: tl.constexpr,
    EPS: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    HEAD: tl.constexpr,
    TAIL: tl.constexpr,
):
    """Some rows: finish the product if there is one, add, norm if it is wanted, round."""
    first, rest = tl.arange(0, HEAD), HEAD + tl.arange(0, TAIL)
    begin = tl.program_id(0).to(tl.int64) * (ROWS * TILES)
    for t in range(TILES):
        rows = begin + t * ROWS + tl.arange(0, ROWS)
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
            _store_rows(a, b, places_a, places_b, inside_a, inside_b, rows, alive, values, scales)
