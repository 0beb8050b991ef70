"""The single step as one Triton kernel: convolution, step size, state and output in one launch.

A program owns some rows of one head's state; it convolves its own x and, for itself alone, its
group's B and C, so that nothing passes through memory but the states.
"""
# The checker does not know how kernels are launched.
# pyright: reportCallIssue=false

import math
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.language.extra.cuda import gdc_launch_dependents, gdc_wait

from timeviper.ops.step_torch import StepWeights
from timeviper.ops.triton_probe import overlaps

# Rows of a state that one program holds, and its warps: 16 x 128 floats, sixteen a thread.
_BLOCK_ROWS, _WARPS = 16, 4


def mamba_step(
    xbc: Tensor,
    dt: Tensor,
    weights: StepWeights,
    *,
    ring: Tensor,
    ssm: Tensor,
    place: Tensor,
    dt_limit: tuple[float, float] = (0.0, math.inf),
) -> Tensor:
    """Step in one launch; see `timeviper.ops.step.mamba_step`.

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
    sequences, heads, head_dim, size = ssm.shape
    groups = (xbc.shape[1] - heads * head_dim) // (2 * size)
    y = xbc.new_empty(sequences, heads, head_dim)
    if not y.numel():
        return y
    xbc = xbc if xbc.stride(1) == 1 else xbc.contiguous()
    dt = dt if dt.stride(1) == 1 else dt.contiguous()
    blocks = -(-head_dim // _BLOCK_ROWS)
    overlap = overlaps(xbc.device)
    with torch.cuda.device_of(xbc):
        _step_kernel[(sequences, heads * blocks)](
            xbc,
            dt,
            weights.filters.contiguous(),
            weights.bias,
            weights.A,
            weights.D,
            weights.dt_bias,
            ring,
            ssm,
            place,
            y,
            xbc.stride(0),
            dt.stride(0),
            HEADS=heads,
            HEAD_DIM=head_dim,
            SIZE=size,
            GROUPS=groups,
            WIDTH=ring.shape[1],
            LOWEST=dt_limit[0],
            HIGHEST=dt_limit[1],
            BLOCK_ROWS=_BLOCK_ROWS,
            BLOCK_SIZE=max(16, triton.next_power_of_2(size)),
            OVERLAP=overlap,
            num_warps=_WARPS,
            launch_pdl=overlap,
        )
    return y


@no_type_check
@triton.jit
def _mixed(
    xbc,
    ring,
    filters,
    bias,
    c,
    inside,
    owner,
    now,
    CHANNELS: tl.constexpr,
    WIDTH: tl.constexpr,
    WORK: tl.constexpr,
):
    """Some channels after the convolution and SiLU, rounded as a longer call rounds them."""
    present = tl.load(xbc + c, mask=inside, other=0.0)
    taps = filters + c * WIDTH
    total = present.to(WORK) * tl.load(taps + (WIDTH - 1), mask=inside, other=0.0).to(WORK)
    for tap in tl.static_range(WIDTH - 1):
        slot = (now + 1 + tap) % WIDTH
        past = tl.load(ring + slot * CHANNELS + c, mask=inside, other=0.0).to(WORK)
        total += past * tl.load(taps + tap, mask=inside, other=0.0).to(WORK)
    # Nobody reads the present slot in this step: its one owner writes it, in any order.
    tl.store(ring + now * CHANNELS + c, present.to(ring.dtype.element_ty), mask=inside & owner)
    if bias is not None:
        total += tl.load(bias + c, mask=inside, other=0.0).to(WORK)
    mixed = total * tl.sigmoid(total)
    return mixed.to(xbc.dtype.element_ty).to(WORK)


@no_type_check
@triton.jit
def _step_size(dt, dt_bias, head, LOWEST: tl.constexpr, HIGHEST: tl.constexpr, WORK: tl.constexpr):
    """Bias, softplus, limits."""
    raw = tl.load(dt + head).to(WORK) + tl.load(dt_bias + head).to(WORK)
    # log(1 + e^x) without overflow, and without loss where e^x is small beside 1.
    small = tl.exp(-tl.abs(raw))
    one = 1.0 + small
    log1p = tl.where(one == 1.0, small, tl.log(one) * (small / tl.where(one == 1.0, 1.0, one - 1)))
    step = tl.maximum(raw, 0.0) + log1p
    # As tensors: a bare number would be rounded to float32 first.
    if LOWEST > 0.0:
        step = tl.maximum(step, tl.full((), LOWEST, WORK))
    if float("inf") > HIGHEST:
        step = tl.minimum(step, tl.full((), HIGHEST, WORK))
    return step


@no_type_check
@triton.jit
def _step_kernel(
    xbc,
    dt,
    filters,
    bias,
    decay_rates,
    direct,
    dt_bias,
    ring,
    ssm,
    place,
    y,
    xbc_step,
    dt_step,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    SIZE: tl.constexpr,
    GROUPS: tl.constexpr,
    WIDTH: tl.constexpr,
    LOWEST: tl.constexpr,
    HIGHEST: tl.constexpr,
    BLOCK_ROWS: tl.constexpr,
    BLOCK_SIZE: tl.constexpr,
    OVERLAP: tl.constexpr,
):
    """Some rows of one head of one sequence."""
    CHANNELS: tl.constexpr = HEADS * HEAD_DIM + 2 * GROUPS * SIZE
    RATIO: tl.constexpr = HEADS // GROUPS
    WORK: tl.constexpr = ssm.dtype.element_ty
    sequence = tl.program_id(0).to(tl.int64)
    head, block = tl.program_id(1) % HEADS, tl.program_id(1) // HEADS
    row = block * BLOCK_ROWS + tl.arange(0, BLOCK_ROWS)
    column = tl.arange(0, BLOCK_SIZE)
    rows, columns = row < HEAD_DIM, column < SIZE
    xbc += sequence * xbc_step
    ring += sequence * (WIDTH * CHANNELS)
    inside = rows[:, None] & columns[None, :]
    places = (sequence * HEADS + head) * (HEAD_DIM * SIZE) + row[:, None] * SIZE + column[None, :]
    if OVERLAP:
        gdc_launch_dependents()
    # Nothing of this token writes to the state: it comes while the projection still runs.
    h = tl.load(ssm + places, mask=inside, other=0.0)
    if OVERLAP:
        gdc_wait()
    now = (tl.load(place + sequence) % WIDTH).to(tl.int32)

    own = head * HEAD_DIM + row
    b_at = HEADS * HEAD_DIM + (head // RATIO) * SIZE + column
    c_at = b_at + GROUPS * SIZE
    owner = (head % RATIO == 0) & (block == 0)
    x = _mixed(xbc, ring, filters, bias, own, rows, True, now, CHANNELS, WIDTH, WORK)
    b = _mixed(xbc, ring, filters, bias, b_at, columns, owner, now, CHANNELS, WIDTH, WORK)
    c = _mixed(xbc, ring, filters, bias, c_at, columns, owner, now, CHANNELS, WIDTH, WORK)

    step = _step_size(dt + sequence * dt_step, dt_bias, head, LOWEST, HIGHEST, WORK)
    decay = tl.exp(step * tl.load(decay_rates + head).to(WORK))
    h = decay * h + (step * x)[:, None] * b[None, :]
    tl.store(ssm + places, h, mask=inside)
    out = tl.sum(h * c[None, :], axis=1) + tl.load(direct + head).to(WORK) * x
    y_at = (sequence * HEADS + head) * HEAD_DIM + row
    tl.store(y + y_at, out.to(y.dtype.element_ty), mask=rows)
