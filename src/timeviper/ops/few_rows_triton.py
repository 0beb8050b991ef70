"""Products of a few rows with a large weight: a decode step reads every weight once, at full speed.

A program owns some output channels and walks over the width, or over a part of it, with loads in
flight; the rows ride along as the narrow side of the matrix unit's tile, so that one row costs
what sixteen do and a row's result does not depend on how many others there are. The first weights
are fetched while the kernel before still runs, where the device allows that.
"""
# The checker does not know how kernels are launched.
# pyright: reportCallIssue=false

from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from timeviper.ops.triton_probe import is_interpreted

# Rows of the narrowest tile that the matrix unit takes from here.
_FEWEST_ROWS = 16


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How the kernel is cut.

    Args:
        channels: output channels a program.
        width: inputs a step of its walk.
        warps: of 32 threads.
        stages: steps in flight.
        splits: parts of the width, each with programs of its own.
    """

    channels: int
    width: int
    warps: int
    stages: int
    splits: int = 1


def few_rows(
    x: Tensor, weight: Tensor, *, cut: Cut, relu2: bool = False, overlap: bool = True
) -> Tensor:
    """`x @ weight.T` for a few rows, with sums in float32.

    Args:
        x: shape (row, in), rows of any distance.
        weight: shape (out, in), contiguous.
        cut: of the kernel.
        relu2: square what is positive, zero what is not; only without splits.
        overlap: begin while the kernel before still runs.

    Returns:
        Shape (row, out) in the dtype of `x`; with splits (split, row, out) in float32, to be
        summed.
    """
    rows, width = x.shape
    channels = weight.shape[0]
    if cut.splits == 1:
        y = x.new_empty(rows, channels)
    else:
        y = x.new_empty(cut.splits, rows, channels, dtype=torch.float32)
    steps = -(-width // (cut.width * cut.splits))
    with torch.cuda.device_of(x):
        _few_rows_kernel[(-(-channels // cut.channels), cut.splits)](
            x,
            weight,
            y,
            rows,
            channels,
            x.stride(0),
            WIDTH=width,
            STEPS=steps,
            SPLITS=cut.splits,
            ROWS=max(_FEWEST_ROWS, triton.next_power_of_2(rows)),
            BLOCK_C=cut.channels,
            BLOCK_W=cut.width,
            RELU2=relu2,
            OVERLAP=overlap and not is_interpreted(),
            num_warps=cut.warps,
            num_stages=cut.stages,
            **_overlapped(overlap),
        )
    return y


def settle(
    x: Tensor, addends: Tensor | None, weight: Tensor, eps: float, *, overlap: bool = True
) -> tuple[Tensor, Tensor]:
    """Add what a product left in parts to the stream, and norm the sum.

    Args:
        x: shape (row, width).
        addends: shape (split, row, width), or (row, width), or None.
        weight: one factor a channel.
        eps: added to the mean square.
        overlap: begin while the kernel before still runs.

    Returns:
        The sum and its norm, in the dtype of `x`.
    """
    rows, width = x.shape
    total, y = torch.empty_like(x), torch.empty_like(x)
    splits = 0 if addends is None else (1 if addends.ndim == 2 else len(addends))
    block = max(16, triton.next_power_of_2(width))
    with torch.cuda.device_of(x):
        _settle_kernel[(rows,)](
            x,
            addends,
            weight,
            total,
            y,
            rows,
            x.stride(0),
            SPLITS=splits,
            WIDTH=width,
            EPS=eps,
            BLOCK=block,
            OVERLAP=overlap and not is_interpreted(),
            num_warps=min(16, max(1, block // 512)),
            **_overlapped(overlap),
        )
    return total, y


def _overlapped(overlap: bool) -> dict[str, bool]:
    return {} if is_interpreted() else {"launch_pdl": overlap}


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
    STEPS: tl.constexpr,
    SPLITS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    RELU2: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Some channels of all rows, over one part of the width."""
    split = tl.program_id(1)
    EVEN: tl.constexpr = WIDTH == STEPS * BLOCK_W * SPLITS
    c = tl.program_id(0) * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.arange(0, ROWS)
    w = split * (STEPS * BLOCK_W) + tl.arange(0, BLOCK_W)
    # Channels past the end read the last one's weights: a mask would cost registers in the loop.
    safe = tl.minimum(c, channels - 1).to(tl.int64)
    weights = weight + safe[:, None] * WIDTH + w[None, :]
    inputs = x + r[None, :] * x_step + w[:, None]
    there = (r < rows)[None, :]
    if OVERLAP:
        gdc_launch_dependents()
        # Into the second-level cache, before the rows are there.
        first = tl.load(weights, mask=(w < WIDTH)[None, :], other=0.0)
        gdc_wait()
    else:
        first = tl.load(weights, mask=(w < WIDTH)[None, :], other=0.0)
    some = tl.load(inputs, mask=there & (w < WIDTH)[:, None], other=0.0)
    total = tl.dot(first, some)
    for step in range(1, STEPS):
        start = step * BLOCK_W
        if EVEN:
            tile = tl.load(weights + start)
            some = tl.load(inputs + start, mask=there, other=0.0)
        else:
            inside = w < WIDTH - start
            tile = tl.load(weights + start, mask=inside[None, :], other=0.0)
            some = tl.load(inputs + start, mask=there & inside[:, None], other=0.0)
        total = tl.dot(tile, some, total)
    if RELU2:
        # The product is rounded first, as where two kernels do this.
        total = total.to(x.dtype.element_ty).to(tl.float32)
        total = tl.where(total < 0, 0.0, total)
        total = total * total
    out = y + (split * rows + r[None, :]) * channels + c[:, None]
    tl.store(out, total.to(y.dtype.element_ty), mask=there & (c < channels)[:, None])


@no_type_check
@triton.jit
def _settle_kernel(
    x,
    addends,
    weight,
    total,
    y,
    rows,
    x_step,
    SPLITS: tl.constexpr,
    WIDTH: tl.constexpr,
    EPS: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One row."""
    if OVERLAP:
        gdc_launch_dependents()
    row = tl.program_id(0)
    c = tl.arange(0, BLOCK)
    inside = c < WIDTH
    scale = tl.load(weight + c, mask=inside, other=0.0).to(tl.float32)
    if OVERLAP:
        gdc_wait()
    h = tl.load(x + row * x_step + c, mask=inside, other=0.0).to(tl.float32)
    if SPLITS > 0:
        more = tl.zeros([BLOCK], tl.float32)
        for split in tl.static_range(SPLITS):
            at = (split * rows + row) * WIDTH + c
            more += tl.load(addends + at, mask=inside, other=0.0).to(tl.float32)
        # Rounded as a product that is stored, and again as the stream.
        h += more.to(x.dtype.element_ty).to(tl.float32)
        h = h.to(x.dtype.element_ty).to(tl.float32)
    tl.store(total + row * WIDTH + c, h.to(total.dtype.element_ty), mask=inside)
    normed = h * tl.rsqrt(tl.sum(h * h, axis=0) / WIDTH + EPS) * scale
    tl.store(y + row * WIDTH + c, normed.to(y.dtype.element_ty), mask=inside)
