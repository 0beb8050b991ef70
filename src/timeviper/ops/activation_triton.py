"""Activations as Triton kernels: one pass forward, one backward, only the input kept."""
# The checker does not know how kernels are launched, nor that a backward names its gradients.
# pyright: reportIncompatibleMethodOverride=false, reportCallIssue=false

from typing import Any, no_type_check

import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

# Sixteen elements a thread: two loads of 16 bytes in bfloat16.
_BLOCK, _WARPS = 4096, 8


def squared_relu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Square in one pass; see `timeviper.ops.activation.squared_relu`.

    Args:
        x: values of any shape.

    Returns:
        `max(x, 0) ** 2` in the dtype of `x`.
    """
    y: Tensor = _SquaredRelu.apply(x.contiguous())
    return y


class _SquaredRelu(torch.autograd.Function):
    """Both passes as one differentiable call."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        ctx.save_for_backward(x)
        y = x.new_empty(x.shape)
        _launch(x, None, y)
        return y

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        dx = x.new_empty(x.shape)
        _launch(x, dy.contiguous(), dx)
        return dx


def _launch(x: Tensor, dy: Tensor | None, out: Tensor) -> None:
    """The values where `dy` is None, else the gradient."""
    work = tl.float64 if x.dtype == torch.float64 else tl.float32
    blocks = -(-x.numel() // _BLOCK)
    if blocks:
        with torch.cuda.device_of(x):
            _kernel[(blocks,)](x, dy, out, x.numel(), WORK=work, BLOCK=_BLOCK, num_warps=_WARPS)


@no_type_check
@triton.jit
def _kernel(x, dy, out, count, WORK: tl.constexpr, BLOCK: tl.constexpr):
    """One block of values, or of gradients where those of the values are given."""
    places = tl.program_id(0).to(tl.int64) * BLOCK + tl.arange(0, BLOCK)
    mask = places < count
    value = tl.load(x + places, mask=mask, other=0.0).to(WORK)
    # Where, not maximum: a NaN must stay one.
    value = tl.where(value < 0, 0.0, value)
    if dy is None:
        value = value * value
    else:
        value = 2 * value * tl.load(dy + places, mask=mask, other=0.0).to(WORK)
    tl.store(out + places, value.to(out.dtype.element_ty), mask=mask)
