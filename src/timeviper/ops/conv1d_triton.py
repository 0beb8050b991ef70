"""The short convolution as Triton kernels that walk along each sequence, forward and backward.

A program owns some channels of a run of tokens of one sequence and steps through them with the
filter's window in registers: each input is read once and each output written once. The backward
walk computes the pre-activation again instead of storing it.
"""
# The checker does not know how kernels are launched, nor that a backward names its gradients.
# pyright: reportIncompatibleMethodOverride=false, reportCallIssue=false

from collections.abc import Sequence
from typing import Any, Literal, NamedTuple, no_type_check

import numpy as np
import torch
import triton
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from timeviper.ops.packing import is_even

# Rows that are loaded before the first is used: enough bytes in flight to hide the latency.
_UNROLL = 4
# Two channels a thread: half the registers of four, and so twice the warps.
_BLOCK_CHANNELS, _WARPS = 128, 2
# Tokens of one program; the backward walk has a longer prologue and leaves partial sums behind.
_FORWARD_ROWS, _BACKWARD_ROWS = 64, 128


def causal_conv1d(
    x: Float[Tensor, "token channel"],
    weight: Float[Tensor, "channel width"],
    bias: Float[Tensor, "channel"] | None = None,
    tail: Float[Tensor, "sequence past channel"] | None = None,
    *,
    lengths: Sequence[int],
    activation: Literal["silu"] | None = "silu",
) -> tuple[Float[Tensor, "token channel"], Float[Tensor, "sequence past channel"]]:
    """Convolve in one pass; see `timeviper.ops.conv1d.causal_conv1d`, which has checked it all.

    Args:
        x: packed tokens; a slice of a wider projection is read where it lies.
        weight: one filter a channel.
        bias: added before the activation.
        tail: inputs before each sequence's first token; None means zeros.
        lengths: tokens of each sequence.
        activation: "silu" or None.

    Returns:
        Outputs and the new tails, both in the dtype of `x`.
    """
    if x.stride(1) != 1:
        x = x.contiguous()
    y, new_tail = _Convolution.apply(x, weight, bias, tail, tuple(lengths), activation == "silu")
    return y, new_tail


class _Convolution(torch.autograd.Function):
    """Both walks as one differentiable call."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        weight: Tensor,
        bias: Tensor | None,
        tail: Tensor | None,
        lengths: tuple[int, ...],
        silu: bool,
    ) -> tuple[Tensor, Tensor]:
        ctx.set_materialize_grads(False)
        weight = weight.contiguous()
        tail = None if tail is None else tail.contiguous()
        ctx.save_for_backward(x, weight, bias, tail)
        ctx.lengths, ctx.silu = lengths, silu
        return _walk_forward(x, weight, bias, tail, lengths, silu)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, dnew: Tensor | None) -> tuple[Tensor | None, ...]:
        x, weight, bias, tail = ctx.saved_tensors
        given = _Given(x, weight, bias, tail, ctx.lengths, ctx.silu)
        found = _walk_backward(given, dy, dnew)
        wanted = ctx.needs_input_grad
        return (
            found.x if wanted[0] else None,
            found.taps.to(weight.dtype) if wanted[1] else None,
            None if bias is None or not wanted[2] else found.bias.to(bias.dtype),
            found.tail if wanted[3] else None,
            None,
            None,
        )


class _Given(NamedTuple):
    """What one call was given."""

    x: Tensor
    weight: Tensor
    bias: Tensor | None
    tail: Tensor | None
    lengths: tuple[int, ...]
    silu: bool


class _Found(NamedTuple):
    """Gradients of one call; those of the parameters in the precision of the sums."""

    x: Tensor
    taps: Tensor
    bias: Tensor
    tail: Tensor | None


def _walk_forward(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    tail: Tensor | None,
    lengths: tuple[int, ...],
    silu: bool,
) -> tuple[Tensor, Tensor]:
    """Outputs and new tails."""
    (tokens, channels), width = x.shape, weight.shape[1]
    y = x.new_empty(tokens, channels)
    new_tail = x.new_empty(len(lengths), width - 1, channels)
    rows = _rows(lengths, _FORWARD_ROWS)
    plan = _plan(lengths, rows, 0, x.device)
    grid = (plan.count * triton.cdiv(channels, _BLOCK_CHANNELS),)
    if grid[0]:
        with torch.cuda.device_of(x):
            _forward_kernel[grid](
                x,
                tail,
                weight,
                bias,
                y,
                new_tail,
                plan.lines,
                plan.length,
                plan.per_sequence,
                channels,
                x.stride(0),
                ALIGN=_alignment(x),
                WIDTH=width,
                SILU=silu,
                WORK=_work(x),
                ROWS=rows,
                UNROLL=min(_UNROLL, rows),
                BLOCK_C=_BLOCK_CHANNELS,
                num_warps=_WARPS,
            )
    return y, new_tail


def _walk_backward(given: _Given, dy: Tensor | None, dnew: Tensor | None) -> _Found:
    """Gradients of all operands from those of the outputs and of the new tails."""
    x, weight, bias, tail, lengths, silu = given
    (tokens, channels), width = x.shape, weight.shape[1]
    dy = x.new_zeros(1, 1).expand(tokens, channels) if dy is None else dy
    dy = dy if dy.stride(1) == 1 else dy.contiguous()
    dx = x.new_empty(tokens, channels)
    dtail = None if tail is None else torch.empty_like(tail)
    rows = _rows([length + width - 1 for length in lengths], _BACKWARD_ROWS)
    plan = _plan(lengths, rows, width - 1, x.device)
    sums = torch.float64 if x.dtype == torch.float64 else torch.float32
    # One partial sum a program, then torch's sum: no atomics, so the same bits every time.
    partial = torch.empty(plan.count, width + 1, channels, dtype=sums, device=x.device)
    grid = (plan.count * triton.cdiv(channels, _BLOCK_CHANNELS),)
    if grid[0]:
        with torch.cuda.device_of(x):
            _backward_kernel[grid](
                x,
                tail,
                weight,
                bias,
                dy,
                None if dnew is None else dnew.contiguous(),
                dx,
                dtail,
                partial,
                plan.lines,
                plan.length,
                plan.per_sequence,
                channels,
                x.stride(0),
                dy.stride(0),
                ALIGN=_alignment(x),
                ALIGN_DY=_alignment(dy),
                WIDTH=width,
                SILU=silu,
                WORK=_work(x),
                ROWS=rows,
                UNROLL=min(_UNROLL, rows),
                BLOCK_C=_BLOCK_CHANNELS,
                num_warps=_WARPS,
            )
    total = partial.sum(0)
    return _Found(dx, total[:width].t(), total[width], dtail)


class _Plan(NamedTuple):
    """Which tokens each program walks: one line a program, or arithmetic for equal lengths."""

    lines: Tensor | None
    count: int
    length: int
    per_sequence: int


def _plan(lengths: Sequence[int], rows: int, extra: int, device: torch.device) -> _Plan:
    """Runs of `rows` steps; each sequence is walked for its length and `extra` steps.

    A line holds: sequence, its first token, steps before this program, its length. A sequence
    without tokens gets a program too, which carries its tail on.
    """
    if is_even(lengths):
        # Nothing is copied to the device: one-token steps stay a plain launch.
        per_sequence = max(1, -(-(lengths[0] + extra) // rows))
        return _Plan(None, len(lengths) * per_sequence, lengths[0], per_sequence)
    sizes = np.asarray(lengths, dtype=np.int64)
    counts = np.maximum(1, -(-(sizes + extra) // rows))
    sequence = np.repeat(np.arange(len(sizes)), counts)
    number = np.arange(len(sequence)) - np.repeat(np.cumsum(counts) - counts, counts)
    starts = np.cumsum(sizes) - sizes
    lines = torch.from_numpy(
        np.stack([sequence, starts[sequence], number * rows, sizes[sequence]], axis=1)
    )
    if device.type == "cuda":
        # From pinned memory the copy does not wait for the kernels that are queued.
        lines = lines.pin_memory().to(device, non_blocking=True)
    return _Plan(lines, len(lines), 0, 0)


def _rows(lengths: Sequence[int], most: int) -> int:
    """Tokens a program: a power of two, no more than the longest sequence has use for."""
    return min(most, int(triton.next_power_of_2(max(1, max(lengths, default=1)))))


def _alignment(x: Tensor) -> int:
    """Elements that every row's address is a multiple of, so that loads can be wide."""
    bits = x.stride(0) | (x.data_ptr() // x.element_size()) | 16
    return bits & -bits


def _work(x: Tensor) -> tl.dtype:
    """Precision of sums: float64 for gradient checks, else float32."""
    return tl.float64 if x.dtype == torch.float64 else tl.float32


@no_type_check
@triton.jit
def _line(plan, number, even, per_sequence, ROWS: tl.constexpr):
    """What one program walks: sequence, its first token, steps before this program, its length."""
    if plan is None:
        sequence = number // per_sequence
        return sequence, sequence * even, (number % per_sequence) * ROWS, even
    else:
        line = plan + number * 4
        return tl.load(line), tl.load(line + 1), tl.load(line + 2), tl.load(line + 3)


@no_type_check
@triton.jit
def _token_row(base, row, first, length, step, c, inside, ALIGN: tl.constexpr):
    """Row number `row` of a sequence, zeros outside it."""
    place = tl.multiple_of((first + row) * step, ALIGN)
    return tl.load(base + place + c, mask=inside & (row >= 0) & (row < length), other=0.0)


@no_type_check
@triton.jit
def _past_row(
    x,
    tail,
    row,
    sequence,
    first,
    length,
    step,
    c,
    channels,
    inside,
    PAST: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """Row number `row` of a sequence; before its first token lies its tail."""
    value = _token_row(x, row, first, length, step, c, inside, ALIGN)
    if tail is not None:
        place = (sequence * PAST + PAST + row) * channels
        mask = inside & (row < 0) & (row >= -PAST)
        value += tl.load(tail + place + c, mask=mask, other=0.0).to(value.dtype)
    return value


@no_type_check
@triton.jit
def _taps(weight, c, inside, WIDTH: tl.constexpr, WORK: tl.constexpr):
    """The filters of some channels, one tensor a tap."""
    taps = ()
    for k in tl.static_range(WIDTH):
        taps = taps + (tl.load(weight + c * WIDTH + k, mask=inside, other=0.0).to(WORK),)
    return taps


@no_type_check
@triton.jit
def _offset(bias, c, inside, WORK: tl.constexpr, BLOCK_C: tl.constexpr):
    """The bias of some channels, or zeros."""
    if bias is None:
        return tl.zeros([BLOCK_C], WORK)
    else:
        return tl.load(bias + c, mask=inside, other=0.0).to(WORK)


@no_type_check
@triton.jit
def _dot(window, taps, start, WIDTH: tl.constexpr):
    """The filter over a full window."""
    total = start
    for k in tl.static_range(WIDTH):
        total += window[k] * taps[k]
    return total


@no_type_check
@triton.jit
def _window(
    x,
    tail,
    end,
    sequence,
    first,
    length,
    step,
    c,
    channels,
    inside,
    COUNT: tl.constexpr,
    PAST: tl.constexpr,
    ALIGN: tl.constexpr,
):
    """The COUNT rows before row `end` of a sequence, one tensor a row."""
    rows = ()
    for k in tl.static_range(COUNT):
        row = end + k - COUNT
        value = _past_row(
            x, tail, row, sequence, first, length, step, c, channels, inside, PAST, ALIGN
        )
        rows = rows + (value,)
    return rows


@no_type_check
@triton.jit
def _forward_kernel(
    x,
    tail,
    weight,
    bias,
    y,
    new_tail,
    plan,
    even,
    per_sequence,
    channels,
    x_step,
    ALIGN: tl.constexpr,
    WIDTH: tl.constexpr,
    SILU: tl.constexpr,
    WORK: tl.constexpr,
    ROWS: tl.constexpr,
    UNROLL: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Outputs of a run of tokens; the last program of a sequence writes its new tail."""
    PAST: tl.constexpr = WIDTH - 1
    parts = tl.cdiv(channels, BLOCK_C)
    block = (tl.program_id(0) // parts).to(tl.int64)
    sequence, first, begin, length = _line(plan, block, even, per_sequence, ROWS)
    c = (tl.program_id(0) % parts) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = c < channels
    taps = _taps(weight, c, inside, WIDTH, WORK)
    start = _offset(bias, c, inside, WORK, BLOCK_C)
    window = _window(
        x, tail, begin, sequence, first, length, x_step, c, channels, inside, PAST, PAST, ALIGN
    )
    for group in range(ROWS // UNROLL):
        at = begin + group * UNROLL
        news = ()
        for u in tl.static_range(UNROLL):
            news = news + (_token_row(x, at + u, first, length, x_step, c, inside, ALIGN),)
        for u in tl.static_range(UNROLL):
            full = window + (news[u],)
            out = _dot(full, taps, start, WIDTH)
            if SILU:
                out = out * tl.sigmoid(out)
            place = (first + at + u) * channels + c
            tl.store(y + place, out.to(y.dtype.element_ty), mask=inside & (at + u < length))
            window = full[1:]
    if begin + ROWS >= length:
        carried = _window(
            x, tail, length, sequence, first, length, x_step, c, channels, inside, PAST, PAST, ALIGN
        )
        for k in tl.static_range(PAST):
            tl.store(new_tail + (sequence * PAST + k) * channels + c, carried[k], mask=inside)


@no_type_check
@triton.jit
def _slope(dy, window, taps, start, known, SILU: tl.constexpr, WIDTH: tl.constexpr):
    """Gradient of the pre-activation, which is computed again from its window."""
    slope = dy.to(start.dtype)
    if SILU:
        before = _dot(window, taps, start, WIDTH)
        s = tl.sigmoid(before)
        slope = slope * s * (1 + before * (1 - s))
    # Where, not times zero: rows outside may meet values that are not finite.
    return tl.where(known, slope, tl.zeros_like(slope))


@no_type_check
@triton.jit
def _first_slopes(
    dy,
    begin,
    first,
    length,
    dy_step,
    old,
    taps,
    start,
    c,
    inside,
    ALIGN: tl.constexpr,
    SILU: tl.constexpr,
    WIDTH: tl.constexpr,
):
    """The slopes of the rows before a run, from the rows `old` that they saw."""
    slopes = ()
    for k in tl.static_range(WIDTH - 1):
        row = begin + k - (WIDTH - 1)
        top = _token_row(dy, row, first, length, dy_step, c, inside, ALIGN)
        exists = (row >= 0) & (row < length)
        slopes = slopes + (_slope(top, old[k:], taps, start, exists, SILU, WIDTH),)
    return slopes


@no_type_check
@triton.jit
def _turned_dot(slopes, taps, WIDTH: tl.constexpr):
    """The filter, last tap first, over the slopes of a row and of those after it."""
    total = slopes[0] * taps[WIDTH - 1]
    for k in tl.static_range(1, WIDTH):
        total += slopes[k] * taps[WIDTH - 1 - k]
    return total


@no_type_check
@triton.jit
def _zeros(COUNT: tl.constexpr, WORK: tl.constexpr, BLOCK_C: tl.constexpr):
    """So many sums that start at zero."""
    sums = ()
    for _ in tl.static_range(COUNT):
        sums = sums + (tl.zeros([BLOCK_C], WORK),)
    return sums


@no_type_check
@triton.jit
def _added(sums, slope, window, WIDTH: tl.constexpr):
    """What one row adds to the gradients of the taps and, last, of the bias."""
    added = ()
    for k in tl.static_range(WIDTH):
        added = added + (sums[k] + slope * window[k],)
    return added + (sums[WIDTH] + slope,)


@no_type_check
@triton.jit
def _store_down(
    down, dnew, dx, dtail, step, sequence, first, length, c, channels, inside, PAST: tl.constexpr
):
    """Write the gradient of row `step - PAST`: of a token, or before the first one of the tail."""
    row = step - PAST
    if dnew is not None:
        carried = inside & (step >= length) & (step < length + PAST)
        place = (sequence * PAST + step - length) * channels + c
        down += tl.load(dnew + place, mask=carried, other=0.0).to(down.dtype)
    place = (first + row) * channels + c
    token = inside & (row >= 0) & (row < length)
    tl.store(dx + place, down.to(dx.dtype.element_ty), mask=token)
    if dtail is not None:
        place = (sequence * PAST + step) * channels + c
        before = inside & (row < 0) & (row < length)
        tl.store(dtail + place, down.to(dtail.dtype.element_ty), mask=before)


@no_type_check
@triton.jit
def _backward_kernel(
    x,
    tail,
    weight,
    bias,
    dy,
    dnew,
    dx,
    dtail,
    partial,
    plan,
    even,
    per_sequence,
    channels,
    x_step,
    dy_step,
    ALIGN: tl.constexpr,
    ALIGN_DY: tl.constexpr,
    WIDTH: tl.constexpr,
    SILU: tl.constexpr,
    WORK: tl.constexpr,
    ROWS: tl.constexpr,
    UNROLL: tl.constexpr,
    BLOCK_C: tl.constexpr,
):
    """Gradients of the inputs that end in a run of steps, and partial sums for the parameters.

    Step r knows the slopes of rows r - PAST to r, which are all that the input of row r - PAST
    went into. A sequence is walked PAST steps beyond its end; rows before its start are its tail.
    """
    PAST: tl.constexpr = WIDTH - 1
    parts = tl.cdiv(channels, BLOCK_C)
    block = (tl.program_id(0) // parts).to(tl.int64)
    sequence, first, begin, length = _line(plan, block, even, per_sequence, ROWS)
    c = (tl.program_id(0) % parts) * BLOCK_C + tl.arange(0, BLOCK_C)
    inside = c < channels
    taps = _taps(weight, c, inside, WIDTH, WORK)
    start = _offset(bias, c, inside, WORK, BLOCK_C)
    old = _window(
        x, tail, begin, sequence, first, length, x_step, c, channels, inside, 2 * PAST, PAST, ALIGN
    )
    slopes = _first_slopes(
        dy, begin, first, length, dy_step, old, taps, start, c, inside, ALIGN_DY, SILU, WIDTH
    )
    sums = _zeros(WIDTH + 1, WORK, BLOCK_C)
    window = old[PAST:]
    for group in range(ROWS // UNROLL):
        at = begin + group * UNROLL
        news, ups = (), ()
        for u in tl.static_range(UNROLL):
            news = news + (_token_row(x, at + u, first, length, x_step, c, inside, ALIGN),)
            ups = ups + (_token_row(dy, at + u, first, length, dy_step, c, inside, ALIGN_DY),)
        for u in tl.static_range(UNROLL):
            step = at + u
            full = window + (news[u],)
            recent = slopes + (_slope(ups[u], full, taps, start, step < length, SILU, WIDTH),)
            sums = _added(sums, recent[PAST], full, WIDTH)
            down = _turned_dot(recent, taps, WIDTH)
            _store_down(
                down, dnew, dx, dtail, step, sequence, first, length, c, channels, inside, PAST
            )
            window, slopes = full[1:], recent[1:]
    for k in tl.static_range(WIDTH + 1):
        tl.store(partial + (block * (WIDTH + 1) + k) * channels + c, sums[k], mask=inside)
