"""Both root-mean-square norms as one Triton kernel a direction: each input is read once.

A program owns one group of channels and walks over rows; the backward walk norms again instead
of storing, and leaves one partial sum of the weight's gradient.
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
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from timeviper.ops.triton_probe import overlaps

# Elements of one thread: the backward walk holds four tensors of them in registers.
_FORWARD_ELEMENTS, _BACKWARD_ELEMENTS = 32, 16
# Enough warps to fill the largest devices; more rows a program leave fewer partial sums.
_WARPS_WANTED, _MOST_TILES = 4096, 64
_ROWS_OF_A_STEP = 64


def rms_norm(
    x: Float[Tensor, "... width"], weight: Float[Tensor, "width"], eps: float
) -> Float[Tensor, "... width"]:
    """Norm in one pass; see `timeviper.ops.norm.rms_norm`.

    Args:
        x: vectors along the last axis.
        weight: one factor a channel.
        eps: added to the mean square.

    Returns:
        The normed vectors in the dtype of `x`.
    """
    y: Tensor = _Norm.apply(_as_rows(x), None, weight, eps, x.shape[-1])
    return y.reshape(x.shape)


def gated_rms_norm(
    x: Float[Tensor, "... width"],
    gate: Float[Tensor, "... width"],
    weight: Float[Tensor, "width"],
    *,
    eps: float,
    group_size: int,
) -> Float[Tensor, "... width"]:
    """Gate and norm in one pass; see `timeviper.ops.norm.gated_rms_norm`.

    Args:
        x: output of the scan.
        gate: same shape; a slice of a wider projection is read where it lies.
        weight: one factor a channel.
        eps: added to each group's mean square.
        group_size: channels a group; divides the width.

    Returns:
        The gated and normed vectors in the dtype of `x`.
    """
    y: Tensor = _Norm.apply(_as_rows(x), _as_rows(gate), weight, eps, group_size)
    return y.reshape(x.shape)


def _as_rows(x: Tensor) -> Tensor:
    """The vectors as rows with one distance between them; copied only where they have several."""
    rows = x.reshape(-1, x.shape[-1])
    return rows if rows.stride(1) == 1 else rows.contiguous()


class _Norm(torch.autograd.Function):
    """Both walks as one differentiable call; `gate` may be None."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, gate: Tensor | None, weight: Tensor, eps: float, group_size: int
    ) -> Tensor:
        weight = weight.contiguous()
        ctx.save_for_backward(x, gate, weight)
        ctx.eps, ctx.group_size = eps, group_size
        return walk_forward(x, gate, weight, eps, group_size)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> tuple[Tensor | None, ...]:
        x, gate, weight = ctx.saved_tensors
        dx, dgate, dweight = walk_backward(dy, (x, gate, weight), ctx.eps, ctx.group_size)
        return dx, dgate, dweight, None, None


class _Shape:
    """How a norm of some rows is spread over programs."""

    def __init__(self, x: Tensor, group_size: int, elements: int) -> None:
        rows, width = x.shape
        self.block = max(16, int(triton.next_power_of_2(group_size)))
        self.warps = min(16, max(1, self.block // (32 * _BACKWARD_ELEMENTS)))
        self.rows = max(1, 32 * elements * self.warps // self.block)
        self.groups = width // group_size
        total = -(-rows // self.rows)
        wanted = total * self.groups * self.warps // _WARPS_WANTED
        # A power of two: every value is compiled for itself.
        self.tiles = min(_MOST_TILES, 1 << max(0, wanted.bit_length() - 1))
        self.runs = -(-total // self.tiles)


def walk_forward(
    x: Tensor, gate: Tensor | None, weight: Tensor, eps: float, group_size: int
) -> Tensor:
    """The normed rows, contiguous."""
    y = x.new_empty(x.shape)
    shape = _Shape(x, group_size, _FORWARD_ELEMENTS)
    # The launches of a decode step cost as much as their work.
    overlap = x.shape[0] <= _ROWS_OF_A_STEP and overlaps(x.device)
    if x.numel():
        with torch.cuda.device_of(x):
            _forward_kernel[(shape.runs * shape.groups,)](
                x,
                gate,
                weight,
                y,
                x.shape[0],
                x.stride(0),
                0 if gate is None else gate.stride(0),
                GROUPS=shape.groups,
                SIZE=group_size,
                EPS=eps,
                ALIGN=_alignment(x),
                ALIGN_GATE=_alignment(gate),
                WORK=_work(x),
                ROWS=shape.rows,
                TILES=shape.tiles,
                BLOCK=shape.block,
                OVERLAP=overlap,
                num_warps=shape.warps,
                launch_pdl=overlap,
            )
    return y


def walk_backward(
    dy: Tensor, saved: tuple[Tensor, Tensor | None, Tensor], eps: float, group_size: int
) -> tuple[Tensor, Tensor | None, Tensor]:
    """Gradients of the rows, of the gate and of the weight."""
    x, gate, weight = saved
    dy = dy if dy.stride(1) == 1 else dy.contiguous()
    dx = x.new_empty(x.shape)
    dgate = None if gate is None else gate.new_empty(gate.shape)
    shape = _Shape(x, group_size, _BACKWARD_ELEMENTS)
    sums = torch.float64 if x.dtype == torch.float64 else torch.float32
    # One partial sum a program, then torch's sum: no atomics, so the same bits every time.
    partial = torch.empty(shape.runs, x.shape[1], dtype=sums, device=x.device)
    if x.numel():
        with torch.cuda.device_of(x):
            _backward_kernel[(shape.runs * shape.groups,)](
                x,
                gate,
                weight,
                dy,
                dx,
                dgate,
                partial,
                x.shape[0],
                x.stride(0),
                0 if gate is None else gate.stride(0),
                dy.stride(0),
                GROUPS=shape.groups,
                SIZE=group_size,
                EPS=eps,
                ALIGN=_alignment(x),
                ALIGN_GATE=_alignment(gate),
                ALIGN_DY=_alignment(dy),
                WORK=_work(x),
                ROWS=shape.rows,
                TILES=shape.tiles,
                BLOCK=shape.block,
                num_warps=shape.warps,
            )
    return dx, dgate, partial.sum(0).to(weight.dtype)


def _alignment(x: Tensor | None) -> int:
    """Elements that every row's address is a multiple of, so that loads can be wide."""
    if x is None:
        return 1
    bits = x.stride(0) | (x.data_ptr() // x.element_size()) | 16
    return bits & -bits


def _work(x: Tensor) -> tl.dtype:
    """Precision of sums: float64 for gradient checks, else float32."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


@no_type_check
@triton.jit
def _tile(base, rows, step, c, mask, ALIGN: tl.constexpr, WORK: tl.constexpr):
    """Some channels of some rows."""
    places = tl.multiple_of(rows * step, ALIGN)
    return tl.load(base + places[:, None] + c[None, :], mask=mask, other=0.0).to(WORK)


@no_type_check
@triton.jit
def _forward_kernel(
    x,
    gate,
    weight,
    y,
    count,
    x_step,
    gate_step,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    EPS: tl.constexpr,
    ALIGN: tl.constexpr,
    ALIGN_GATE: tl.constexpr,
    WORK: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """One group of the outputs of a run of rows."""
    if OVERLAP:
        gdc_launch_dependents()
        gdc_wait()
    within = tl.arange(0, BLOCK)
    inside = within < SIZE
    c = (tl.program_id(0) % GROUPS) * SIZE + within
    w = tl.load(weight + c, mask=inside, other=0.0).to(WORK)
    begin = (tl.program_id(0) // GROUPS).to(tl.int64) * (ROWS * TILES)
    for t in range(TILES):
        rows = begin + t * ROWS + tl.arange(0, ROWS)
        mask = (rows < count)[:, None] & inside[None, :]
        u = _tile(x, rows, x_step, c, mask, ALIGN, WORK)
        if gate is not None:
            z = _tile(gate, rows, gate_step, c, mask, ALIGN_GATE, WORK)
            u = u * z * tl.sigmoid(z)
        scale = tl.rsqrt(tl.sum(u * u, axis=1) / SIZE + EPS)
        out = u * scale[:, None] * w[None, :]
        places = rows[:, None] * (GROUPS * SIZE) + c[None, :]
        tl.store(y + places, out.to(y.dtype.element_ty), mask=mask)


@no_type_check
@triton.jit
def _backward_kernel(
    x,
    gate,
    weight,
    dy,
    dx,
    dgate,
    partial,
    count,
    x_step,
    gate_step,
    dy_step,
    GROUPS: tl.constexpr,
    SIZE: tl.constexpr,
    EPS: tl.constexpr,
    ALIGN: tl.constexpr,
    ALIGN_GATE: tl.constexpr,
    ALIGN_DY: tl.constexpr,
    WORK: tl.constexpr,
    ROWS: tl.constexpr,
    TILES: tl.constexpr,
    BLOCK: tl.constexpr,
):
    """One group of the gradients of a run of rows, and what the run adds to the weight's."""
    within = tl.arange(0, BLOCK)
    inside = within < SIZE
    c = (tl.program_id(0) % GROUPS) * SIZE + within
    w = tl.load(weight + c, mask=inside, other=0.0).to(WORK)
    run = (tl.program_id(0) // GROUPS).to(tl.int64)
    total = tl.zeros([ROWS, BLOCK], WORK)
    for t in range(TILES):
        rows = (run * TILES + t) * ROWS + tl.arange(0, ROWS)
        mask = (rows < count)[:, None] & inside[None, :]
        places = rows[:, None] * (GROUPS * SIZE) + c[None, :]
        raw = _tile(x, rows, x_step, c, mask, ALIGN, WORK)
        up = _tile(dy, rows, dy_step, c, mask, ALIGN_DY, WORK)
        u = raw
        if gate is not None:
            z = _tile(gate, rows, gate_step, c, mask, ALIGN_GATE, WORK)
            s = tl.sigmoid(z)
            u = raw * z * s
        scale = tl.rsqrt(tl.sum(u * u, axis=1) / SIZE + EPS)[:, None]
        normed = u * scale
        total += up * normed
        up = up * w[None, :]
        du = scale * (up - normed * (tl.sum(up * normed, axis=1) / SIZE)[:, None])
        if gate is not None:
            dz = du * raw * s * (1 + z * (1 - s))
            tl.store(dgate + places, dz.to(dgate.dtype.element_ty), mask=mask)
            du = du * z * s
        tl.store(dx + places, du.to(dx.dtype.element_ty), mask=mask)
    tl.store(partial + run * (GROUPS * SIZE) + c, tl.sum(total, axis=0), mask=inside)
