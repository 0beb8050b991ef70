"""Products of a few rows with a large weight: a decode step reads every weight once, at full speed.

A program owns some output channels and walks over the width, or over a part of it, with loads in
flight; the rows ride along as the other side of the matrix unit's tile, so that one row costs what
sixteen do. A row's result does not depend on how many others there are: however wide the tile,
each number is added up by the same instruction over the same inputs in the same order. The first
weights are fetched while the kernel before still runs, where the device allows that.
"""
# The checker does not know how kernels are launched.
# pyright: reportCallIssue=false

from dataclasses import dataclass, replace
from typing import no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from timeviper.ops import few_rows_torch
from timeviper.ops.triton_probe import is_interpreted, overlaps

# Rows of the narrowest tile that the matrix unit takes from here, and of the widest of a step.
_FEWEST_ROWS, _STEP_ROWS = 16, 64
# Programs that fill the largest devices about twice; outputs below this need parts for that.
_PROGRAMS, _MANY_OUTPUTS, _MOST_PARTS = 264, 12288, 16
# Fewer outputs than this need narrow programs.
_FEW_OUTPUTS = 4096


@dataclass(frozen=True, kw_only=True)
class Cut:
    """How the product is cut.

    Args:
        channels: output channels a program.
        width: inputs a step of its walk.
        stages: steps in flight.
        parts: of the width, each with programs of its own.
        rows: rows a program.
        warps: of 32 threads.
    """

    channels: int
    width: int
    stages: int
    parts: int = 1
    rows: int = _FEWEST_ROWS
    warps: int = 4


def cut_of(outputs: int, width: int, *, parts: bool, rows: int = 1) -> Cut:
    """The cut for a step's product, as measured on an H100.

    Args:
        outputs: rows of the weight.
        width: its columns.
        parts: whether the product may come in parts.
        rows: how many; they change neither the parts nor the kind of instruction.
    """
    cut = _narrow_cut(outputs, width, parts=parts)
    if rows <= _FEWEST_ROWS:
        return cut
    tile = min(_STEP_ROWS, max(32, _power(rows)))
    # More rows in flight beside the weights: as much of both as two programs can hold.
    return replace(cut, rows=tile, width=min(cut.width, 64), stages=5 if cut.channels < 128 else 4)


def many_cut_of(outputs: int, rows: int) -> Cut:
    """The cut for the product of some hundred rows, as measured on an H100.

    Args:
        outputs: rows of the weight.
        rows: how many; they do not change the kind of instruction.
    """
    if rows <= 32:
        return Cut(channels=64, width=128, stages=4, rows=max(_FEWEST_ROWS, _power(rows)))
    if rows <= 64 or (rows <= 128 and outputs < _MANY_OUTPUTS):
        # Small tiles: of few outputs there are enough for all multiprocessors.
        return Cut(channels=64, width=64, stages=5, rows=64)
    if rows <= 384:
        # A fourth step in flight pays where there are several tiles of rows.
        stages = 3 if rows <= 128 else 4
        return Cut(channels=128, width=64, stages=stages, rows=128, warps=8)
    return Cut(channels=128, width=64, stages=3, rows=256, warps=8)


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << max(0, count - 1).bit_length()


def _narrow_cut(outputs: int, width: int, *, parts: bool) -> Cut:
    """The cut for sixteen rows."""
    if outputs >= _MANY_OUTPUTS:
        return Cut(channels=64, width=128, stages=4)
    if not parts and outputs < _FEW_OUTPUTS:
        return Cut(channels=16, width=256, stages=5)
    if not parts:
        return Cut(channels=32, width=128, stages=5)
    cut = Cut(channels=128, width=64, stages=4)
    tiles, steps = -(-outputs // cut.channels), -(-width // cut.width)
    even = [n for n in range(1, _MOST_PARTS + 1) if steps % n == 0]
    best = min(even, key=lambda n: abs(tiles * n - _PROGRAMS))
    return replace(cut, parts=best)


def few_rows(
    x: Float[Tensor, "row in"], weight: Float[Tensor, "out in"], *, relu2: bool = False
) -> Float[Tensor, "row out"]:
    """Multiply in one pass over the weight; see `timeviper.ops.few_rows.few_rows`.

    Args:
        x: one row a sequence.
        weight: of a linear layer.
        relu2: square what is positive, zero what is not.
    """
    if not _takes(x, weight):
        return few_rows_torch.few_rows(x, weight, relu2=relu2)
    y = x.new_empty(len(x), len(weight))
    cut = cut_of(len(weight), x.shape[1], parts=False, rows=len(x))
    _launch(x, weight, y, cut, relu2=relu2)
    return y


def some_rows(
    x: Float[Tensor, "row in"], weight: Float[Tensor, "out in"], *, relu2: bool = False
) -> Float[Tensor, "row out"]:
    """Multiply rows of short sequences; see `timeviper.ops.few_rows.some_rows`.

    Args:
        x: rows of all sequences.
        weight: of a linear layer.
        relu2: square what is positive, zero what is not.
    """
    if not _takes(x, weight):
        return few_rows_torch.few_rows(x, weight, relu2=relu2)
    y = x.new_empty(len(x), len(weight))
    _launch_some(x, weight, y, many_cut_of(len(weight), len(x)), relu2=relu2)
    return y


def few_rows_parts(
    x: Float[Tensor, "row in"], weight: Float[Tensor, "out in"]
) -> Float[Tensor, "part row out"]:
    """Multiply by parts of the width; see `timeviper.ops.few_rows.few_rows_parts`.

    Args:
        x: one row a sequence.
        weight: of a linear layer.
    """
    if not _takes(x, weight):
        return few_rows_torch.few_rows_parts(x, weight)
    cut = cut_of(len(weight), x.shape[1], parts=True, rows=len(x))
    y = x.new_empty(cut.parts, len(x), len(weight), dtype=torch.float32)
    _launch(x, weight, y, cut)
    return y


def settle(
    x: Float[Tensor, "row width"],
    parts: Float[Tensor, "part row width"],
    weight: Float[Tensor, "width"],
    eps: float,
) -> tuple[Float[Tensor, "row width"], Float[Tensor, "row width"]]:
    """Add up and norm in one pass; see `timeviper.ops.few_rows.settle`.

    Args:
        x: the residual stream.
        parts: to be added up.
        weight: one factor a channel.
        eps: added to the mean square.

    Returns:
        The sum and its norm.
    """
    if x.dtype == torch.float64:
        return few_rows_torch.settle(x, parts, weight, eps)
    x, parts = x.contiguous(), parts.contiguous()
    rows, width = x.shape
    total, y = torch.empty_like(x), torch.empty_like(x)
    block = max(16, triton.next_power_of_2(width))
    overlap = overlaps(x.device)
    if x.numel():
        with torch.cuda.device_of(x):
            _settle_kernel[(rows,)](
                x,
                parts,
                weight,
                total,
                y,
                rows,
                PARTS=len(parts),
                WIDTH=width,
                EPS=eps,
                BLOCK=block,
                OVERLAP=overlap,
                num_warps=min(16, max(1, block // 512)),
                launch_pdl=overlap,
            )
    return total, y


def _takes(x: Tensor, weight: Tensor) -> bool:
    """Whether the kernel runs on these: rows of a half, or of float32 in the interpreter."""
    halves = x.dtype in (torch.float16, torch.bfloat16) or is_interpreted()
    same = x.dtype == weight.dtype and x.dtype != torch.float64
    return halves and same and len(x) > 0 and weight.is_contiguous()


def _launch(x: Tensor, weight: Tensor, y: Tensor, cut: Cut, *, relu2: bool = False) -> None:
    x = x if x.stride(1) == 1 else x.contiguous()
    overlap = overlaps(x.device)
    with torch.cuda.device_of(x):
        # Programs with the same weights follow one another.
        _few_rows_kernel[-(-len(x) // cut.rows), -(-len(weight) // cut.channels), cut.parts](
            x,
            weight,
            y,
            len(x),
            len(weight),
            x.stride(0),
            WIDTH=x.shape[1],
            STEPS=-(-x.shape[1] // (cut.width * cut.parts)),
            PARTS=cut.parts,
            ROWS=cut.rows,
            BLOCK_C=cut.channels,
            BLOCK_W=cut.width,
            RELU2=relu2,
            OVERLAP=overlap,
            num_warps=cut.warps,
            num_stages=cut.stages,
            launch_pdl=overlap,
        )


def _launch_some(x: Tensor, weight: Tensor, y: Tensor, cut: Cut, *, relu2: bool = False) -> None:
    x = x if x.stride(1) == 1 else x.contiguous()
    with torch.cuda.device_of(x):
        # Programs with the same weights follow one another.
        _some_rows_kernel[-(-len(x) // cut.rows), -(-len(weight) // cut.channels)](
            x,
            weight,
            y,
            len(x),
            len(weight),
            x.stride(0),
            x.shape[1],
            EVEN=x.shape[1] % cut.width == 0,
            ROWS=cut.rows,
            BLOCK_C=cut.channels,
            BLOCK_W=cut.width,
            RELU2=relu2,
            WHILE=is_interpreted(),
            num_warps=cut.warps,
            num_stages=cut.stages,
        )


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
    PARTS: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    RELU2: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Some channels of some rows, over one part of the width."""
    part = tl.program_id(2)
    EVEN: tl.constexpr = WIDTH == STEPS * BLOCK_W * PARTS
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    w = part * (STEPS * BLOCK_W) + tl.arange(0, BLOCK_W)
    # Channels past the end read the last one's weights: a mask would cost registers in the loop.
    safe = tl.minimum(c, channels - 1).to(tl.int64)
    weights = weight + safe[:, None] * WIDTH + w[None, :]
    inputs = x + r[None, :] * x_step + w[:, None]
    there = (r < rows)[None, :]
    if OVERLAP:
        gdc_launch_dependents()
    # Weights never change: the first of them come before the rows are there.
    first = tl.load(weights, mask=(w < WIDTH)[None, :], other=0.0)
    if OVERLAP:
        gdc_wait()
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
    out = y + (part * rows + r[None, :]).to(tl.int64) * channels + c[:, None]
    tl.store(out, total.to(y.dtype.element_ty), mask=there & (c < channels)[:, None])


@no_type_check
@triton.jit
def _further(
    total,
    weights,
    inputs,
    there,
    w,
    left,
    EVEN: tl.constexpr,
):
    """The sums with some more of the width."""
    if EVEN:
        tile = tl.load(weights)
        some = tl.load(inputs, mask=there, other=0.0)
    else:
        inside = w < left
        tile = tl.load(weights, mask=inside[None, :], other=0.0)
        some = tl.load(inputs, mask=there & inside[:, None], other=0.0)
    return tl.dot(tile, some, total)


@no_type_check
@triton.jit
def _some_rows_kernel(
    x,
    weight,
    y,
    rows,
    channels,
    x_step,
    width,
    EVEN: tl.constexpr,
    ROWS: tl.constexpr,
    BLOCK_C: tl.constexpr,
    BLOCK_W: tl.constexpr,
    RELU2: tl.constexpr,
    WHILE: tl.constexpr,
):
    """Some channels of some rows, over the whole width; one kernel for weights of every shape."""
    c = tl.program_id(1) * BLOCK_C + tl.arange(0, BLOCK_C)
    r = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    w = tl.arange(0, BLOCK_W)
    weights = weight + tl.minimum(c, channels - 1).to(tl.int64)[:, None] * width + w[None, :]
    inputs = x + r.to(tl.int64)[None, :] * x_step + w[:, None]
    there = (r < rows)[None, :]
    total = tl.zeros([BLOCK_C, ROWS], tl.float32)
    if WHILE:
        # The interpreter counts no loop whose end is an argument.
        start = 0
        while start < width:
            total = _further(total, weights + start, inputs + start, there, w, width - start, EVEN)
            start += BLOCK_W
    else:
        for start in range(0, width, BLOCK_W):
            total = _further(total, weights + start, inputs + start, there, w, width - start, EVEN)
    if RELU2:
        # The product is rounded first, as where two kernels do this.
        total = total.to(x.dtype.element_ty).to(tl.float32)
        total = tl.where(total < 0, 0.0, total)
        total = total * total
    out = y + r.to(tl.int64)[None, :] * channels + c[:, None]
    tl.store(out, total.to(y.dtype.element_ty), mask=there & (c < channels)[:, None])


@no_type_check
@triton.jit
def _settle_kernel(
    x,
    parts,
    weight,
    total,
    y,
    rows,
    PARTS: tl.constexpr,
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
    h = tl.load(x + row * WIDTH + c, mask=inside, other=0.0).to(tl.float32)
    more = tl.zeros([BLOCK], tl.float32)
    for part in tl.static_range(PARTS):
        at = (part * rows + row) * WIDTH + c
        more += tl.load(parts + at, mask=inside, other=0.0).to(tl.float32)
    # Rounded as a product that is stored, and again as the stream.
    h += more.to(x.dtype.element_ty).to(tl.float32)
    h = h.to(x.dtype.element_ty).to(tl.float32)
    tl.store(total + row * WIDTH + c, h.to(total.dtype.element_ty), mask=inside)
    normed = h * tl.rsqrt(tl.sum(h * h, axis=0) / WIDTH + EPS) * scale
    tl.store(y + row * WIDTH + c, normed.to(y.dtype.element_ty), mask=inside)
