"""Products of a few rows with a large weight: a decode step reads every weight once, at full speed.

A program owns some output channels and walks over the width with loads in flight; the rows ride
along as the narrow side of the matrix unit's tile, so that one row costs what sixteen do, and a
row's result does not depend on how many others there are.
"""
# The checker does not know how kernels are launched.
# pyright: reportCallIssue=false

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows of one tile: the narrowest that the matrix unit takes from here.
ROWS = 16


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How the kernel is cut: channels a program, width a step, warps, steps in flight."""

    channels: int
    width: int
    warps: int
    stages: int


def few_rows(x: Tensor, weight: Tensor, cut: Cut) -> Tensor:
    """`x @ weight.T` for up to sixteen rows, with sums in float32.

    Args:
        x: shape (row, in), rows of any distance.
        weight: shape (out, in), contiguous.
        cut: of the kernel.

    Returns:
        Shape (row, out), in the dtype of `x`.
    """
    rows, width = x.shape
    channels = weight.shape[0]
    y = x.new_empty(rows, channels)
    with torch.cuda.device_of(x):
        _few_rows_kernel[(-(-channels // cut.channels),)](
            x,
            weight,
            y,
            rows,
            channels,
            x.stride(0),
            WIDTH=width,
            ROWS=ROWS,
            BLOCK_C=cut.channels,
            BLOCK_W=cut.width,
            num_warps=cut.warps,
            num_stages=cut.stages,
        )
    return y


@no_type_check
@triton.jit
def _few_rows_kernel(
    x,
    weight,
    y,
    rows,
    channels,
    x_step,
    WIDTH: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
):
    """Some channels of all rows."""
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.arange(0, ROWS)
    w = tl.arange(0, BLOCK_W)
    # Channels past the end read the last one's weights: a mask would cost registers in the loop.
    safe = tl.minimum(c, channels - 1).to(tl.int64)
    weights = weight + safe[:, None] * WIDTH + w[None, :]
    inputs = x + r[None, :] * x_step + w[:, None]
    there = (r < rows)[None, :]
    total = tl.zeros([BLOCK_C, ROWS], tl.float32)
    for start in range(0, WIDTH, BLOCK_W):
        if WIDTH % BLOCK_W == 0:
            tile = tl.load(weights + start)
            some = tl.load(inputs + start, mask=there, other=0.0)
        else:
            inside = w < WIDTH - start
            tile = tl.load(weights + start, mask=inside[None, :], other=0.0)
            some = tl.load(inputs + start, mask=there & inside[:, None], other=0.0)
        total = tl.dot(tile, some, total)
    out = y + r[None, :] * channels + c[:, None]
    tl.store(out, total.to(y.dtype.element_ty), mask=there & (c < channels)[:, None])
