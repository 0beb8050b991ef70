"""Norms for inference that do more in their one pass: add first, or round to FP8 in the end.

A program owns one group of channels and walks over rows; each is read once.
"""
# The checker does not know how kernels are launched, nor that a backward names its gradients.
# pyright: reportIncompatibleMethodOverride=false, reportCallIssue=false

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from timeviper.ops.fp8 import E4M3, Quantized
from timeviper.ops.linear_triton import LARGEST, SMALLEST, alignment, as_rows
from timeviper.ops.norm_triton import walk_backward

# Elements of one thread, and rows of a program where there are enough for so many programs.
_ELEMENTS, _MOST_TILES, _PROGRAMS_WANTED = 16, 16, 4096


def add_rms_norm(
    x: Float[Tensor, "... width"],
    addition: Float[Tensor, "... width"],
    weight: Float[Tensor, "width"],
    eps: float,
) -> tuple[Float[Tensor, "... width"], Float[Tensor, "... width"]]:
    """Add and norm in one pass; see `timeviper.ops.norm.add_rms_norm`.

    Args:
        x: the residual stream.
        addition: what is added.
        weight: one factor a channel.
        eps: added to the mean square.

    Returns:
        The sum and its norm.
    """
    total, y = _AddNorm.apply(as_rows(x), as_rows(addition), weight, eps)
    return total.reshape(x.shape), y.reshape(x.shape)


def add_rms_norm_fp8(
    x: Float[Tensor, "... width"],
    addition: Float[Tensor, "... width"] | None,
    weight: Float[Tensor, "width"],
    eps: float,
) -> tuple[Float[Tensor, "... width"], Quantized]:
    """Add, norm and round in one pass; see `timeviper.ops.norm.add_rms_norm_fp8`.

    Args:
        x: the residual stream.
        addition: what is added, or None.
        weight: one factor a channel.
        eps: added to the mean square.

    Returns:
        The sum and its norm in FP8.
    """
    rows, more = as_rows(x), None if addition is None else as_rows(addition)
    total = None if more is None else _sum_like(rows, more)
    y = _quantized_like(x)
    _launch(rows, weight, eps, y=y.values, scales=y.scales, addition=more, total=total)
    return (x if total is None else total.reshape(x.shape)), y


def gated_rms_norm_fp8(
    x: Float[Tensor, "... width"],
    gate: Float[Tensor, "... width"],
    weight: Float[Tensor, "width"],
    *,
    eps: float,
    group_size: int,
) -> Quantized:
    """Gate, norm and round in one pass; see `timeviper.ops.norm.gated_rms_norm_fp8`.

    Args:
        x: output of the scan.
        gate: same shape; a slice of a wider projection is read where it lies.
        weight: one factor a channel.
        eps: added to each group's mean square.
        group_size: channels a group; divides the width.

    Returns:
        The gated and normed rows in FP8.
    """
    y = _quantized_like(x)
    rows, groups = as_rows(x), x.shape[-1] // group_size
    _launch(rows, weight, eps, y=y.values, scales=y.scales, gate=as_rows(gate), groups=groups)
    return y


class _AddNorm(torch.autograd.Function):
    """The sum and its norm as one differentiable call."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, addition: Tensor, weight: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        total = _sum_like(x, addition)
        y = torch.empty_like(total)
        _launch(x, weight, eps, y=y, addition=addition, total=total)
        ctx.save_for_backward(total, weight.contiguous())
        ctx.eps, ctx.dtypes = eps, (x.dtype, addition.dtype)
        return total, y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor, dy: Tensor) -> tuple[Tensor | None, ...]:
        total, weight = ctx.saved_tensors
        dx, _, dweight = walk_backward(dy, (total, None, weight), ctx.eps, total.shape[1])
        dx = dx + dtotal
        return dx.to(ctx.dtypes[0]), dx.to(ctx.dtypes[1]), dweight, None


def _launch(
    x: Tensor,
    weight: Tensor,
    eps: float,
    *,
    y: Tensor,
    scales: Tensor | None = None,
    addition: Tensor | None = None,
    total: Tensor | None = None,
    gate: Tensor | None = None,
    groups: int = 1,
) -> None:
    """Walk over all rows; writes `y`, and `scales` and `total` where they are given."""
    count, size = x.shape[0], x.shape[1] // groups
    block = max(16, int(triton.next_power_of_2(size)))
    warps = min(16, max(1, block // (32 * _ELEMENTS)))
    # Powers of two: every value is compiled for itself.
    wanted = min(_MOST_TILES, count * groups // _PROGRAMS_WANTED)
    tiles = 1 << max(0, wanted.bit_length() - 1)
    if not x.numel():
        return
    with torch.cuda.device_of(x):
        _row_kernel[(-(-count // tiles) * groups,)](
            x,
            addition,
            gate,
            weight.contiguous(),
            total,
            y,
            scales,
            count,
            x.stride(0),
            0 if addition is None else addition.stride(0),
            0 if gate is None else gate.stride(0),
            GROUPS=groups,
            SIZE=size,
            # No value of a normed group exceeds it.
            ROOT=size**0.5,
            EPS=eps,
            ALIGN=alignment(x),
            ALIGN_ADDITION=1 if addition is None else alignment(addition),
            ALIGN_GATE=1 if gate is None else alignment(gate),
            WORK=tl.float64 if x.dtype == torch.float64 and scales is None else tl.float32,
            TILES=tiles,
            BLOCK=block,
            num_warps=warps,
        )


def _sum_like(x: Tensor, addition: Tensor) -> Tensor:
    """Room for the sum, contiguous."""
    dtype = torch.promote_types(x.dtype, addition.dtype)
    return torch.empty(x.shape, dtype=dtype, device=x.device)


def _quantized_like(x: Tensor) -> Quantized:
    """Room for rows in FP8, contiguous."""
    scales = torch.empty((*x.shape[:-1], 1), dtype=torch.float32, device=x.device)
    return Quantized(torch.empty(x.shape, dtype=E4M3, device=x.device), scales)


@no_type_check
@triton.jit
def _row_kernel(
    x,
    addition,
    gate,
    weight,
    total,
    y,
    scales,
    count,
    x_step,
    addition_step,
    gate_step,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    ROOT: tl.constexpr,
    EPS: tl.constexpr,
    ALIGN: tl.constexpr,
    ALIGN_ADDITION: tl.constexpr,
    ALIGN_GATE: tl.constexpr,
    WORK: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One group of a run of rows: add, gate, norm, round."""
    group = tl.program_id(0) % GROUPS
    within = tl.arange(0, BLOCK)
    inside = within < SIZE
    c = group * SIZE + within
    w = tl.load(weight + c, mask=inside, other=0.0).to(WORK)
    scale = 1.0
    if scales is not None:
        largest = tl.max(tl.abs(w), axis=0)
        for other in tl.static_range(1, GROUPS):
            at = (group + other) % GROUPS * SIZE + within
            v = tl.load(weight + at, mask=inside, other=0.0).to(WORK)
            largest = tl.maximum(largest, tl.max(tl.abs(v), axis=0))
        scale = tl.maximum(largest * ROOT, SMALLEST) / LARGEST
        w = w * (1.0 / scale)
    begin = (tl.program_id(0) // GROUPS).to(tl.int64) * TILES
    for t in range(TILES):
        row = begin + t
        mask = inside & (row < count)
        u = tl.load(x + tl.multiple_of(row * x_step, ALIGN) + c, mask=mask, other=0.0).to(WORK)
        if addition is not None:
            place = tl.multiple_of(row * addition_step, ALIGN_ADDITION)
            u += tl.load(addition + place + c, mask=mask, other=0.0).to(WORK)
            low = u.to(total.dtype.element_ty)
            tl.store(total + row * (GROUPS * SIZE) + c, low, mask=mask)
            # What is normed is what the next layer adds to.
            u = low.to(WORK)
        if gate is not None:
            place = tl.multiple_of(row * gate_step, ALIGN_GATE)
            z = tl.load(gate + place + c, mask=mask, other=0.0).to(WORK)
            u = u * z * tl.sigmoid(z)
        u = u * tl.rsqrt(tl.sum(u * u, axis=0) / SIZE + EPS) * w
        if scales is not None:
            tl.store(scales + row, scale, mask=(row < count) & (group == 0))
        tl.store(y + row * (GROUPS * SIZE) + c, u.to(y.dtype.element_ty), mask=mask)
