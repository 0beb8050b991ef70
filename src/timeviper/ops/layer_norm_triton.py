"""Residual sum and layer norm as one Triton kernel: each row is read once and stays in registers.

A row is held as its largest power of two and the rest: 1,152 channels are 1,024 and 128, where one
block would be 2,048.
"""
# The checker does not know how kernels are launched, nor that a backward names its gradients.
# pyright: reportIncompatibleMethodOverride=false, reportCallIssue=false

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

# Elements of one thread: 4 warps hold 4 rows of 1,152 channels.
_ELEMENTS, _WARPS = 32, 4


def add_layer_norm(
    stream: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """Add and norm in one pass; see `timeviper.ops.layer_norm.add_layer_norm`.

    Args:
        stream: vectors along the last axis.
        update: what is added to them.
        weight: one factor a channel.
        bias: one number a channel.
        eps: added to the variance.

    Returns:
        The sum and its norm, contiguous, in the stream's dtype.
    """
    return _AddLayerNorm.apply(stream, update, weight, bias, eps)


def halves(width: int) -> tuple[int, int]:
    """The largest power of two below a width, and the power of two that holds the rest."""
    head = max(16, 1 << ((width - 1).bit_length() - 1)) if width > 1 else 16
    return head, max(16, int(triton.next_power_of_2(width - head)) if width > head else 16)


def rows_of(head: int) -> int:
    """Rows of a program that holds so many channels of each."""
    return max(1, 32 * _WARPS * _ELEMENTS // head)


class _AddLayerNorm(torch.autograd.Function):
    """The pass as one differentiable call; its backward pass is torch's own."""

    @staticmethod
    def forward(
        ctx: Any, stream: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float
    ) -> tuple[Tensor, Tensor]:
        total, normed = _launch(stream, update, weight, bias, eps)
        ctx.save_for_backward(total, weight, bias)
        ctx.eps, ctx.update_dtype = eps, update.dtype
        return total, normed

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dtotal: Tensor, dnormed: Tensor) -> tuple[Tensor | None, ...]:
        leaves = [saved.detach().requires_grad_() for saved in ctx.saved_tensors]
        with torch.enable_grad():
            total, weight, bias = (leaf.to(leaves[0].dtype) for leaf in leaves)
            normed = F.layer_norm(total, weight.shape, weight, bias, ctx.eps)
        dx, dweight, dbias = torch.autograd.grad(normed, leaves, dnormed)
        dx = dx + dtotal
        return dx, dx.to(ctx.update_dtype), dweight, dbias, None


def _launch(
    stream: Tensor, update: Tensor, weight: Tensor, bias: Tensor, eps: float
) -> tuple[Tensor, Tensor]:
    """The sum and its norm."""
    stream, update = stream.contiguous(), update.contiguous()
    total, normed = torch.empty_like(stream), torch.empty_like(stream)
    width = stream.shape[-1]
    head, tail = halves(width)
    each = rows_of(head)
    if stream.numel():
        count = stream.numel() // width
        with torch.cuda.device_of(stream):
            _kernel[(-(-count // each),)](
                stream,
                update,
                weight.contiguous(),
                bias.contiguous(),
                total,
                normed,
                count,
                SIZE=width,
                EPS=eps,
                WORK=tl.float64 if stream.dtype == torch.float64 else tl.float32,
                ROWS=each,
                HEAD=head,
                TAIL=tail,
                num_warps=_WARPS,
            )
    return total, normed


@no_type_check
@triton.jit
def norm_scale(a, b, inside_a, inside_b, SIZE: tl.constexpr, EPS: tl.constexpr):
    """Both parts of some rows without their mean, and what brings them to unit variance."""
    mean = (tl.sum(a, axis=1) + tl.sum(b, axis=1)) / SIZE
    a = tl.where(inside_a, a - mean[:, None], 0.0)
    b = tl.where(inside_b, b - mean[:, None], 0.0)
    variance = (tl.sum(a * a, axis=1) + tl.sum(b * b, axis=1)) / SIZE
    return a, b, tl.rsqrt(variance + EPS)[:, None]


@no_type_check
@triton.jit
def _sum(stream, update, total, places, inside, WORK: tl.constexpr):
    """The stream with its update, stored, and as it was rounded."""
    x = tl.load(stream + places, mask=inside, other=0.0).to(WORK)
    u = tl.load(update + places, mask=inside, other=0.0).to(WORK)
    rounded = (x + u).to(total.dtype.element_ty)
    tl.store(total + places, rounded, mask=inside)
    return rounded.to(WORK)


@no_type_check
@triton.jit
def _affine(x, scale, weight, bias, c, SIZE: tl.constexpr, WORK: tl.constexpr):
    """Scaled rows times the weight, plus the bias."""
    w = tl.load(weight + c, mask=c < SIZE, other=0.0).to(WORK)
    b = tl.load(bias + c, mask=c < SIZE, other=0.0).to(WORK)
    return x * scale * w[None, :] + b[None, :]


@no_type_check
@triton.jit
def _kernel(
    stream,
    update,
    weight,
    bias,
    total,
    normed,
    count,
    SIZE: tl.constexpr,
    EPS: tl.constexpr,
    WORK: tl.constexpr,
    ROWS: tl.constexpr,
    HEAD: tl.constexpr,
    TAIL: tl.constexpr,
):
    """Some rows, each in two parts."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    first, rest = tl.arange(0, HEAD), HEAD + tl.arange(0, TAIL)
    alive = (rows < count)[:, None]
    inside_a, inside_b = alive & (first < SIZE)[None, :], alive & (rest < SIZE)[None, :]
    places_a = rows[:, None] * SIZE + first[None, :]
    places_b = rows[:, None] * SIZE + rest[None, :]
    a = _sum(stream, update, total, places_a, inside_a, WORK)
    b = _sum(stream, update, total, places_b, inside_b, WORK)
    a, b, scale = norm_scale(a, b, inside_a, inside_b, SIZE, EPS)
    a = _affine(a, scale, weight, bias, first, SIZE, WORK)
    b = _affine(b, scale, weight, bias, rest, SIZE, WORK)
    tl.store(normed + places_a, a.to(normed.dtype.element_ty), mask=inside_a)
    tl.store(normed + places_b, b.to(normed.dtype.element_ty), mask=inside_b)
