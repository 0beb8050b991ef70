"""Activation and rounding to e4m3 as one Triton kernel: a program reads its rows once."""
# The checker does not know how kernels are launched.
# pyright: reportCallIssue=false

from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from timeviper.ops.fp8 import E4M3, LEAST, MOST, Activation, Quantized

# Elements of one thread where a row allows it, and most warps of a program.
_ELEMENTS, _MOST_WARPS = 16, 16
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
    elif ACTIVATION == "gelu_tanh":
        # 1 + tanh(a) = 2 sigmoid(2 a), with a = sqrt(2 / pi) (u + 0.044715 u^3).
        u = u * tl.sigmoid(1.5957691216057308 * u * (1 + 0.044715 * u * u))
    scale = tl.maximum(tl.max(magnitude(u), axis=1), SMALLEST) / LARGEST
    low = (u * (1.0 / scale)[:, None]).to(values.dtype.element_ty)
    tl.store(values + rows[:, None] * SIZE + c[None, :], low, mask=mask)
    tl.store(scales + rows, scale, mask=rows < count)
