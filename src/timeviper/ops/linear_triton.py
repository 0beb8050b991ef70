"""Activation and rounding to e4m3 as Triton kernels: a program reads its rows once."""
# The checker does not know how kernels are launched.
# pyright: reportCallIssue=false

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from timeviper.ops.fp8 import E4M3, LEAST, MOST, Activation, Quantized
from timeviper.ops.layer_norm_triton import halves
from timeviper.ops.triton_probe import is_interpreted

# Elements of one thread where a row allows it, and most warps of a program.
_ELEMENTS, _MOST_WARPS = 16, 16
# Of a program that ends with GELU: rows held at once, warps.
_GELU_ROWS, _GELU_WARPS = 1, 2
LARGEST, SMALLEST = tl.constexpr(MOST), tl.constexpr(LEAST)


def quantize(x: Tensor, activation: Activation) -> Quantized:
    """Activate and round in one pass; see `timeviper.ops.linear.quantize`.

    Args:
        x: rows along the last axis; a slice of wider ones is read where it lies.
        activation: computed in float32 first.

    Returns:
        Values and one scale a row.
    """
    rows = as_rows(x)
    count, width = rows.shape
    values = torch.empty(x.shape, dtype=E4M3, device=x.device)
    scales = torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)
    if activation == "gelu_tanh":
        _gelu(rows, values, scales)
        return Quantized(values, scales)
    block = max(16, int(triton.next_power_of_2(width)))
    warps = warps_of(block)
    each = max(1, 32 * _ELEMENTS * warps // block)
    if x.numel():
        with torch.cuda.device_of(x):
            _quantize_kernel[(-(-count // each),)](
                rows,
                values,
                scales,
                count,
                rows.stride(0),
                SIZE=width,
                ALIGN=alignment(rows),
                ACTIVATION=activation,
                ROWS=each,
                BLOCK=block,
                num_warps=warps,
            )
    return Quantized(values, scales)


def _gelu(rows: Tensor, values: Tensor, scales: Tensor) -> None:
    """GELU and rounding of rows."""
    count, width = rows.shape
    head, tail = halves(width)
    if rows.numel():
        with torch.cuda.device_of(rows):
            _gelu_kernel[(-(-count // _GELU_ROWS),)](
                rows,
                values,
                scales,
                count,
                rows.stride(0),
                SIZE=width,
                ALIGN=alignment(rows),
                FAST=not is_interpreted(),
                ROWS=_GELU_ROWS,
                HEAD=head,
                TAIL=tail,
                num_warps=_GELU_WARPS,
            )


def as_rows(x: Tensor) -> Tensor:
    """The vectors as rows with one distance between them; copied only where they have several."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


def alignment(rows: Tensor) -> int:
    """Elements that every row's address is a multiple of, so that loads can be wide."""
    bits = rows.stride(0) | (rows.data_ptr() // rows.element_size()) | 16
    return bits & -bits


def warps_of(elements: int) -> int:
    """Warps for so many elements a program."""
    return min(_MOST_WARPS, max(1, elements // (32 * _ELEMENTS)))


@no_type_check
@triton.jit
def magnitude(value):
    """The absolute value; infinity for what is not a number, so that its row's scale tells."""
    return tl.where(value == value, tl.abs(value), float("inf"))


@no_type_check
@triton.jit
def _quantize_kernel(
    x,
    values,
    scales,
    count,
    x_step,
    SIZE: tl.constexpr,
    ALIGN: tl.constexpr,
    ACTIVATION: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """Some rows: activate, find the largest, round."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    c = tl.arange(0, BLOCK)
    mask = (rows < count)[:, None] & (c < SIZE)[None, :]
    places = tl.multiple_of(rows * x_step, ALIGN)
    u = tl.load(x + places[:, None] + c[None, :], mask=mask, other=0.0).to(tl.float32)
    if ACTIVATION == "relu2":
        # Where, not maximum: a NaN must stay one.
        u = tl.where(u < 0, 0.0, u * u)
    scale = tl.maximum(tl.max(magnitude(u), axis=1), SMALLEST) / LARGEST
    low = (u * (1.0 / scale)[:, None]).to(values.dtype.element_ty)
    tl.store(values + rows[:, None] * SIZE + c[None, :], low, mask=mask)
    tl.store(scales + rows, scale, mask=rows < count)


@no_type_check
@triton.jit
def _gelu_of(x, FAST: tl.constexpr):
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
def _gelu_kernel(
    x,
    values,
    scales,
    count,
    x_step,
    SIZE: tl.constexpr,
    ALIGN: tl.constexpr,
    FAST: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD: tl.constexpr,
    TAIL: tl.constexpr,
):
    """Some rows, each in two parts as in `layer_norm_triton`: activate, find the largest, round."""
    first, rest = tl.arange(0, HEAD), HEAD + tl.arange(0, TAIL)
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    alive = rows < count
    inside_a = alive[:, None] & (first < SIZE)[None, :]
    inside_b = alive[:, None] & (rest < SIZE)[None, :]
    places = tl.multiple_of(rows * x_step, ALIGN)[:, None]
    a = tl.load(x + places + first[None, :], mask=inside_a, other=0.0).to(tl.float32)
    b = tl.load(x + places + rest[None, :], mask=inside_b, other=0.0).to(tl.float32)
    a, b = _gelu_of(a, FAST), _gelu_of(b, FAST)
    top = tl.maximum(tl.max(magnitude(a), axis=1), tl.max(magnitude(b), axis=1))
    scale = tl.maximum(top, SMALLEST) / LARGEST
    factor = (1.0 / scale)[:, None]
    out = values + rows[:, None] * SIZE
    tl.store(out + first[None, :], (a * factor).to(values.dtype.element_ty), mask=inside_a)
    tl.store(out + rest[None, :], (b * factor).to(values.dtype.element_ty), mask=inside_b)
    tl.store(scales + rows, scale, mask=alive)
