"""The single step in plain torch: runs anywhere, oracle of the kernel."""

import math
from typing import NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from timeviper.ops.ssd_steps import step_sizes


class StepWeights(NamedTuple):
    """What a layer's step knows by heart: filters and their bias, decay rates, D and dt's bias."""

    filters: Float[Tensor, "channel width"]
    bias: Float[Tensor, "channel"] | None
    A: Float[Tensor, "head"]
    D: Float[Tensor, "head"]
    dt_bias: Float[Tensor, "head"]


def mamba_step(  # noqa: PLR0913
    xbc: Float[Tensor, "sequence channel"],
    dt: Float[Tensor, "sequence head"],
    weights: StepWeights,
    *,
    ring: Float[Tensor, "sequence width channel"],
    ssm: Float[Tensor, "sequence head head_dim state_size"],
    place: Int[Tensor, "sequence"],
    dt_limit: tuple[float, float] = (0.0, math.inf),
) -> Float[Tensor, "sequence head head_dim"]:
    """Step in plain torch; see `timeviper.ops.step.mamba_step`, which has checked it all.

    Args:
        xbc: inputs of the convolution.
        dt: step sizes before bias and softplus.
        weights: of the layer.
        ring: last inputs, written in place.
        ssm: states, written in place.
        place: count of each sequence's slot.
        dt_limit: lowest and highest step size.

    Returns:
        Outputs of the scan in the dtype of `xbc`.
    """
    _, heads, head_dim, size = ssm.shape
    mixed = _convolve(xbc, weights, ring, place)
    both = (xbc.shape[1] - heads * head_dim) // 2
    x, b, c = mixed.to(ssm.dtype).split([heads * head_dim, both, both], dim=-1)
    x = x.unflatten(-1, (heads, head_dim))
    ratio = heads * size // both
    b, c = (t.unflatten(-1, (-1, size)).repeat_interleave(ratio, dim=1) for t in (b, c))
    steps = step_sizes(dt.to(ssm.dtype), weights.dt_bias, softplus=True, limit=dt_limit)
    decay = (steps * weights.A.to(ssm.dtype)).exp()
    entering = (x * steps[..., None])[..., None] * b[:, :, None]
    ssm.mul_(decay[..., None, None]).add_(entering)
    y = torch.einsum("shpn,shn->shp", ssm, c) + weights.D.to(ssm.dtype)[:, None] * x
    return y.to(xbc.dtype)


def _convolve(xbc: Tensor, weights: StepWeights, ring: Tensor, place: Tensor) -> Tensor:
    """Write the present input into its slot, then weigh the slots from the oldest on."""
    width = ring.shape[1]
    row = torch.arange(len(xbc), device=xbc.device)
    ring[row, place % width] = xbc.to(ring.dtype)
    order = (place[:, None] + 1 + torch.arange(width, device=xbc.device)) % width
    past = ring[row[:, None], order]
    taps = weights.filters.t()
    # float32 sums, as the convolution of longer calls.
    work = torch.promote_types(xbc.dtype, torch.float32)
    y = (past.to(work) * taps.to(work)).sum(1)
    if weights.bias is not None:
        y = y + weights.bias.to(work)
    return F.silu(y).to(xbc.dtype)


def write_slots(
    buffers: tuple[
        Float[Tensor, "sequence capacity kv_head head_dim"],
        Float[Tensor, "sequence capacity kv_head head_dim"],
    ],
    k: Float[Tensor, "sequence kv_head head_dim"],
    v: Float[Tensor, "sequence kv_head head_dim"],
    *,
    slots: Int[Tensor, "sequence"],
) -> None:
    """Write in plain torch; see `timeviper.ops.step.write_slots`.

    Args:
        buffers: of keys and of values.
        k: new keys.
        v: new values.
        slots: one above the slot of each sequence.
    """
    row = torch.arange(len(k), device=k.device)
    for buffer, new in zip(buffers, (k, v), strict=True):
        buffer[row, slots - 1] = new.to(buffer.dtype)


def best_token(logits: Float[Tensor, "sequence vocab"]) -> Int[Tensor, "sequence"]:
    """Choose in plain torch; see `timeviper.ops.step.best_token`.

    Args:
        logits: scores of each sequence.
    """
    # A sum is finite where all its terms are, and costs one pass.
    sums = logits.sum(-1, dtype=torch.promote_types(logits.dtype, torch.float32))
    return logits.argmax(-1).masked_fill(~sums.isfinite(), -1)
