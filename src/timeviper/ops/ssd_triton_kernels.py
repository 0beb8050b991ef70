"""Triton kernels of the selective scan: pointers and strides in, no shapes checked, nothing chosen.

Letters: Q tokens a chunk, P head_dim, N state_size; BP and BN are P and N padded to powers of two.
`sums` holds, chunk by chunk, the running sum of dt A; padded places of a chunk have dt 0, so they
neither enter a state nor let it decay. Token numbers are int64: tokens x channels passes 2^31.
"""
# Kernels are Triton's language, of which the type checker knows only the outside.
# pyright: reportGeneralTypeIssues=false, reportReturnType=false, reportAttributeAccessIssue=false
# pyright: reportCallIssue=false, reportArgumentType=false, reportOperatorIssue=false
# pyright: reportIndexIssue=false, reportOptionalMemberAccess=false

from typing import Any, NamedTuple, no_type_check

import triton
import triton.language as tl
from torch import Tensor

# Every batch has another number of chunks: kernels made for some of them would be made often.
_COUNTS = ["num_chunks"]


class View(NamedTuple):
    """A tensor (token, head or group, channel) and its strides, wherever its values lie."""

    base: Any
    token: int
    group: int
    channel: int

    @classmethod
    def of(cls, values: Tensor) -> "View":
        """The tensor with its own strides."""
        return cls(values, *values.stride())


class Steps(NamedTuple):
    """What turns projected steps into step sizes, and where those and sums of dt A lie.

    Args:
        dt: projected steps (token, head).
        token: stride of a token in `dt`.
        head: stride of a head in `dt`.
        A: decay rates.
        bias: added first, or None.
        lowest: lowest step size.
        highest: highest step size.
        steps: step sizes (head, chunk, Q), float32.
        sums: running sums of dt A within each chunk, like `steps`.
    """

    dt: Any
    token: int
    head: int
    A: Any
    bias: Any
    lowest: float
    highest: float
    steps: Any
    sums: Any


class Walked(NamedTuple):
    """What a walk reads and writes at each token.

    Args:
        x: what enters the state.
        B: how it enters.
        C: how outputs read the state.
        D: direct path, or None.
        y: outputs (token, head, P), or None.
        steps: step sizes.
        sums: running sums of dt A.
        kept: where the state before each chunk goes (after it, in reverse), or None.
    """

    x: View
    B: View
    C: View
    D: Any
    y: Any
    steps: Any
    sums: Any
    kept: Any


class Around(NamedTuple):
    """What the gradients of a chunk are taken from, beside its tokens.

    Args:
        D: direct path, or None.
        steps: step sizes.
        sums: running sums of dt A.
        before: states at the start of each chunk.
        after: gradients of the states at its end.
    """

    D: Any
    steps: Any
    sums: Any
    before: Any
    after: Any


class Found(NamedTuple):
    """Gradients of a chunk's inputs; those of D a chunk each, of steps and decays as `steps`."""

    x: Any
    B: Any
    C: Any
    D: Any
    steps: Any
    decays: Any


@no_type_check
@triton.jit
def _softplus(raw: tl.tensor) -> tl.tensor:
    """log(1 + exp(raw)) by 2 atanh(u / (2 + u)): log of a number near 1 would lose the answer."""
    u = tl.exp(-tl.abs(raw))
    s = u / (2.0 + u)
    q = s * s
    series = 1.0 / 13 + q * (1.0 / 15 + q * (1.0 / 17))
    series = 1.0 / 7 + q * (1.0 / 9 + q * (1.0 / 11 + q * series))
    series = 1.0 + q * (1.0 / 3 + q * (1.0 / 5 + q * series))
    return tl.where(raw > 0, raw, 0.0) + 2.0 * s * series


@no_type_check
@triton.jit
def _raw_steps(
    given: Steps, tokens: tl.tensor, heads: tl.tensor, seen: tl.tensor, real: tl.tensor
) -> tl.tensor:
    """Projected steps plus bias in float32, (Q, BH)."""
    places = tokens[:, None] * given.token + heads[None, :] * given.head
    raw = tl.load(given.dt + places, mask=seen[:, None] & real[None, :], other=0.0)
    raw = raw.to(tl.float32)
    if given.bias is not None:
        raw += tl.load(given.bias + heads, mask=real, other=0.0).to(tl.float32)[None, :]
    return raw


@no_type_check
@triton.jit(do_not_specialize=_COUNTS)
def steps_kernel(
    given: Steps,
    chunks: tl.tensor,
    num_chunks: tl.tensor,
    num_heads: tl.tensor,
    Q: tl.constexpr,
    BH: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    CLAMP: tl.constexpr,
) -> None:
    """Step sizes and the running sums of dt A, float32, laid out (head, chunk, Q)."""
    chunk = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1).to(tl.int64) * BH + tl.arange(0, BH)
    i = tl.arange(0, Q)
    real = heads < num_heads
    seen = i < tl.load(chunks + 2 * chunk + 1)
    tokens = tl.load(chunks + 2 * chunk) + i
    value = _raw_steps(given, tokens, heads, seen, real)
    if SOFTPLUS:
        value = _softplus(value)
    if CLAMP:
        value = tl.where(value < given.lowest, given.lowest, value)
        value = tl.where(value > given.highest, given.highest, value)
    value = tl.where(seen[:, None] & real[None, :], value, 0.0)
    rate = tl.load(given.A + heads, mask=real, other=0.0).to(tl.float32)
    places = (heads * num_chunks + chunk)[None, :] * Q + i[:, None]
    tl.store(given.steps + places, value, mask=real[None, :])
    tl.store(given.sums + places, tl.cumsum(value * rate[None, :], axis=0), mask=real[None, :])


@no_type_check
@triton.jit(do_not_specialize=_COUNTS)
def steps_backward_kernel(
    given: Steps,
    found: Found,
    d_dt: tl.tensor,
    d_A: tl.tensor,
    d_bias: tl.tensor | None,
    chunks: tl.tensor,
    num_chunks: tl.tensor,
    num_heads: tl.tensor,
    Q: tl.constexpr,
    BH: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    CLAMP: tl.constexpr,
) -> None:
    """Gradients of steps and decays become that of dt and, by chunks, of A and the bias."""
    chunk = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1).to(tl.int64) * BH + tl.arange(0, BH)
    i = tl.arange(0, Q)
    real = heads < num_heads
    seen = i < tl.load(chunks + 2 * chunk + 1)
    tokens = tl.load(chunks + 2 * chunk) + i
    raw = _raw_steps(given, tokens, heads, seen, real)
    mask = seen[:, None] & real[None, :]
    places = (heads * num_chunks + chunk)[None, :] * Q + i[:, None]
    step = tl.load(given.steps + places, mask=mask, other=0.0)
    d_decay = tl.load(found.decays + places, mask=mask, other=0.0)
    rate = tl.load(given.A + heads, mask=real, other=0.0).to(tl.float32)
    grad = tl.load(found.steps + places, mask=mask, other=0.0) + d_decay * rate[None, :]
    if CLAMP:
        free = _softplus(raw) if SOFTPLUS else raw
        grad = tl.where((free < given.lowest) | (free > given.highest), 0.0, grad)
    if SOFTPLUS:
        grad = grad / (1.0 + tl.exp(-raw))
    own = chunk * num_heads + heads
    tl.store(d_A + own, tl.sum(step * d_decay, axis=0), mask=real)
    if d_bias is not None:
        tl.store(d_bias + own, tl.sum(grad, axis=0), mask=real)
    to = d_dt + tokens[:, None] * num_heads + heads[None, :]
    tl.store(to, grad.to(d_dt.dtype.element_ty), mask=mask)


@no_type_check
@triton.jit
def _tile(
    view: View,
    group: tl.tensor,
    tokens: tl.tensor,
    seen: tl.tensor,
    channels: tl.tensor,
    WIDTH: tl.constexpr,
) -> tl.tensor:
    """Values of some tokens and channels of a head or group, zeros where there are none."""
    places = tokens[:, None] * view.token + channels[None, :] * view.channel
    mask = seen[:, None] & (channels < WIDTH)[None, :]
    return tl.load(view.base + group * view.group + places, mask=mask, other=0.0)


@no_type_check
@triton.jit
def _store_tile(
    to: tl.tensor,
    row: tl.tensor,
    seen: tl.tensor,
    channels: tl.tensor,
    values: tl.tensor,
    WIDTH: tl.constexpr,
) -> None:
    """Write tokens whose rows of WIDTH channels have these numbers."""
    mask = seen[:, None] & (channels < WIDTH)[None, :]
    places = row[:, None] * WIDTH + channels[None, :]
    tl.store(to + places, values.to(to.dtype.element_ty), mask=mask)


@no_type_check
@triton.jit
def _load_state(
    values: tl.tensor,
    number: tl.tensor,
    p: tl.tensor,
    n: tl.tensor,
    P: tl.constexpr,
    N: tl.constexpr,
) -> tl.tensor:
    """State number `number` of a list, padded with zeros; (BP, BN)."""
    places = number * (P * N) + p[:, None] * N + n[None, :]
    return tl.load(values + places, mask=(p < P)[:, None] & (n < N)[None, :], other=0.0)


@no_type_check
@triton.jit
def _reach(sums: tl.tensor, i: tl.tensor) -> tl.tensor:
    """exp(sum_i - sum_j) for sources j no later than i, zero elsewhere; (i, j)."""
    # Masked before exp: a future span would overflow it.
    spans = tl.where(i[:, None] >= i[None, :], sums[:, None] - sums[None, :], float("-inf"))
    return tl.exp(spans)


@no_type_check
@triton.jit
def _diagonal(D: tl.tensor | None, head: tl.tensor, i: tl.tensor) -> tl.tensor:
    """The direct path as part of a product over tokens, (i, j): D x costs no pass of its own."""
    direct = 0.0
    if D is not None:
        direct = tl.load(D + head).to(tl.float32)
    return tl.where(i[:, None] == i[None, :], direct, 0.0)


@no_type_check
@triton.jit
def part(
    view: View,
    group: tl.tensor,
    token: tl.tensor,
    seen: tl.tensor,
    channels: tl.tensor,
    WIDTH: tl.constexpr,
    WHOLE: tl.constexpr,
) -> tl.tensor:
    """Values of the tokens from `token` on at some channels; WHOLE says that all of those exist."""
    i = tl.arange(0, seen.shape[0])
    # One 64-bit address a tile: offsets inside it fit 32 bits.
    base = view.base + token * view.token + group * view.group
    mask = seen[:, None]
    if not WHOLE:
        mask = mask & (channels < WIDTH)[None, :]
    places = i[:, None] * view.token + channels[None, :] * view.channel
    return tl.load(base + places, mask=mask, other=0.0)


@no_type_check
@triton.jit
def _store_part(
    y: tl.tensor,
    step: tl.tensor,
    seen: tl.tensor,
    channels: tl.tensor,
    values: tl.tensor,
    WIDTH: tl.constexpr,
    WHOLE: tl.constexpr,
) -> None:
    """Write outputs from `y` on, `step` values further a token; WHOLE as in `_part`."""
    i = tl.arange(0, seen.shape[0])
    mask = seen[:, None]
    if not WHOLE:
        mask = mask & (channels < WIDTH)[None, :]
    to = y + (i[:, None] * step + channels[None, :])
    tl.store(to, values.to(y.dtype.element_ty), mask=mask)


@no_type_check
@triton.jit
def load_turned(
    values: tl.tensor,
    number: tl.tensor,
    p: tl.tensor,
    n: tl.tensor,
    P: tl.constexpr,
    N: tl.constexpr,
) -> tl.tensor:
    """State number `number` of a list, turned and padded with zeros; (BN, BP)."""
    places = p[None, :] * N + n[:, None]
    mask = (p < P)[None, :] & (n < N)[:, None]
    return tl.load(values + number * (P * N) + places, mask=mask, other=0.0)


@no_type_check
@triton.jit
def store_turned(
    to: tl.tensor,
    number: tl.tensor,
    p: tl.tensor,
    n: tl.tensor,
    state: tl.tensor,
    P: tl.constexpr,
    N: tl.constexpr,
) -> None:
    """Write a turned state as state number `number` of a list."""
    places = p[None, :] * N + n[:, None]
    mask = (p < P)[None, :] & (n < N)[:, None]
    tl.store(to + number * (P * N) + places, state.to(to.dtype.element_ty), mask=mask)


@no_type_check
@triton.jit
def _mixing(
    b: tl.tensor,
    c: tl.tensor,
    step: tl.tensor,
    sums: tl.tensor,
    D: tl.tensor | None,
    head: tl.tensor,
    PRECISION: tl.constexpr,
) -> tl.tensor:
    """What each token of a chunk reads from each: decayed products, the direct path included."""
    i = tl.arange(0, sums.shape[0])
    # A power of two is one instruction; sums of decays are scaled for it once a token.
    log2 = sums * 1.4426950408889634
    # Masked before the power: a future span would overflow it.
    spans = tl.where(i[:, None] >= i[None, :], log2[:, None] - log2[None, :], float("-inf"))
    mixed = tl.dot(c, tl.trans(b), input_precision=PRECISION) * (tl.exp2(spans) * step[None, :])
    if D is not None:
        direct = tl.load(D + head).to(tl.float32)
        mixed = tl.where(i[:, None] == i[None, :], mixed + direct, mixed)
    return mixed


@no_type_check
@triton.jit(do_not_specialize=_COUNTS)
def walk_kernel(
    io: Walked,
    starts: tl.tensor | None,
    ends: tl.tensor | None,
    decays: tl.tensor | None,
    segments: tl.tensor,
    num_chunks: tl.tensor,
    num_heads: tl.tensor,
    RATIO: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    Q: tl.constexpr,
    FROM: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
    REVERSE: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """Carry BP channels of one head's state through the chunks of a segment, in registers.

    Forward: h <- exp(sum) h + sum of exp(what is left) dt x B; REVERSE carries the gradient of
    the state backwards, with the outputs' gradient as `x` and C as `B`. What is not None is
    written: outputs and the state met before each chunk, the last state `ends` and the segment's
    summed decay `decays`. The state lies turned, (BN, BP): then all products share one layout.
    """
    head = tl.program_id(0).to(tl.int64)
    segment = tl.program_id(1).to(tl.int64)
    i, n, p = tl.arange(0, Q), tl.arange(0, BN), FROM + tl.arange(0, BP)
    row = segments + 4 * segment
    first, many = tl.load(row), tl.load(row + 1).to(tl.int32)
    begin, end = tl.load(row + 2), tl.load(row + 3)
    own, group = segment * num_heads + head, head // RATIO
    state = tl.zeros((BN, BP), dtype=tl.float32)
    if starts is not None:
        state += load_turned(starts, own, p, n, P, N).to(tl.float32)
    total = 0.0
    for turn in range(many):
        past = many - 1 - turn if REVERSE else turn
        chunk, token = first + past, begin + past.to(tl.int64) * Q
        seen = i < (end - token).to(tl.int32)
        at = (head * num_chunks + chunk) * Q
        step_i, sum_i = tl.load(io.steps + at + i), tl.load(io.sums + at + i)
        last = tl.load(io.sums + at + Q - 1)
        b_i = part(io.B, group, token, seen, n, N, BN == N).to(OPERAND)
        x_i = part(io.x, head, token, seen, p, P, FROM + BP <= P).to(OPERAND)
        if io.kept is not None:
            store_turned(io.kept, chunk * num_heads + head, p, n, state, P, N)
        if io.y is not None:
            c_i = part(io.C, group, token, seen, n, N, BN == N).to(OPERAND)
            mixed = _mixing(b_i, c_i, step_i, sum_i, io.D, head, PRECISION).to(OPERAND)
            read = tl.dot(c_i, state.to(OPERAND), input_precision=PRECISION)
            out = tl.dot(mixed, x_i, acc=read * tl.exp(sum_i)[:, None], input_precision=PRECISION)
            to, step = io.y + (token * num_heads + head) * P, num_heads * P
            _store_part(to, step, seen, p, out, P, FROM + BP <= P)
        weight = tl.exp(sum_i) if REVERSE else step_i * tl.exp(last - sum_i)
        enters, stays = (x_i * weight[:, None]).to(OPERAND), state * tl.exp(last)
        state = tl.dot(tl.trans(b_i), enters, acc=stays, input_precision=PRECISION)
        total += last
    if ends is not None:
        store_turned(ends, own, p, n, state, P, N)
        tl.store(decays + own, total)


@no_type_check
@triton.jit
def join_kernel(
    state: tl.tensor | None,
    ends: tl.tensor,
    decays: tl.tensor,
    starts: tl.tensor,
    finals: tl.tensor,
    sequences: tl.tensor,
    num_heads: tl.tensor,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    REVERSE: tl.constexpr,
) -> None:
    """States before each segment of a sequence and after the last, from what each adds alone."""
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    places = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = places < SIZE
    first = tl.load(sequences + 2 * sequence)
    many = tl.load(sequences + 2 * sequence + 1).to(tl.int32)
    own = (sequence * num_heads + head) * SIZE + places
    carried = tl.zeros((BLOCK,), dtype=tl.float32)
    if state is not None:
        carried += tl.load(state + own, mask=inside, other=0.0).to(tl.float32)
    for turn in range(many):
        k = many - 1 - turn if REVERSE else turn
        segment = (first + k) * num_heads + head
        tl.store(starts + segment * SIZE + places, carried, mask=inside)
        added = tl.load(ends + segment * SIZE + places, mask=inside, other=0.0)
        carried = carried * tl.exp(tl.load(decays + segment)) + added
    tl.store(finals + own, carried, mask=inside)


@no_type_check
@triton.jit(do_not_specialize=_COUNTS)
def gradients_kernel(
    x: View,
    B: View,
    C: View,
    d_y: View,
    a: Around,
    found: Found,
    chunks: tl.tensor,
    num_chunks: tl.tensor,
    num_heads: tl.tensor,
    RATIO: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    Q: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
) -> None:
    """All gradients of one chunk and one group from the states around the chunk.

    A program sums over the heads of its group itself, in their order: no partial sums in memory,
    no atomics.
    """
    chunk = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1).to(tl.int64)
    i, p, n = tl.arange(0, Q), tl.arange(0, BP), tl.arange(0, BN)
    seen = i < tl.load(chunks + 2 * chunk + 1)
    tokens = tl.load(chunks + 2 * chunk) + i
    b_i = _tile(B, group, tokens, seen, n, N).to(OPERAND)
    c_i = _tile(C, group, tokens, seen, n, N).to(OPERAND)
    scores = tl.dot(c_i, tl.trans(b_i), input_precision=PRECISION)
    grad_b = tl.zeros((Q, BN), dtype=tl.float32)
    grad_c = tl.zeros((Q, BN), dtype=tl.float32)
    for r in range(RATIO):
        head = group * RATIO + r
        own = chunk * num_heads + head
        at = (head * num_chunks + chunk) * Q
        x_i = _tile(x, head, tokens, seen, p, P).to(OPERAND)
        g_i = _tile(d_y, head, tokens, seen, p, P).to(OPERAND)
        state = _load_state(a.before, own, p, n, P, N)
        d_state = _load_state(a.after, own, p, n, P, N)
        step, sum_i = tl.load(a.steps + at + i), tl.load(a.sums + at + i)
        last = tl.load(a.sums + at + Q - 1)
        to_end = tl.exp(last - sum_i)
        reach = _reach(sum_i, i)
        pairs = tl.dot(g_i, tl.trans(x_i), input_precision=PRECISION)
        mixed = scores * reach * step[None, :] + _diagonal(a.D, head, i)
        grad_x = _input_gradient(mixed, g_i, b_i, d_state, step * to_end, PRECISION)
        if a.D is not None:
            tl.store(found.D + own, _trace(pairs, i))
        _store_tile(found.x, tokens * num_heads + head, seen, p, grad_x, P)
        pairs *= reach
        reads = tl.dot(g_i, state, input_precision=PRECISION) * tl.exp(sum_i)[:, None]
        enters = tl.dot(x_i, d_state, input_precision=PRECISION) * to_end[:, None]
        across = tl.exp(last) * tl.sum(state.to(tl.float32) * d_state.to(tl.float32))
        left, entered = tl.sum(reads * c_i, axis=1), tl.sum(enters * b_i, axis=1)
        _store_decays(found, at + i, pairs * scores, step, left, entered, across)
        low = (pairs * step[None, :]).to(OPERAND)
        grad_c = tl.dot(low, b_i, acc=grad_c + reads, input_precision=PRECISION)
        grad_b += enters * step[:, None]
        grad_b = tl.dot(tl.trans(low), c_i, acc=grad_b, input_precision=PRECISION)
    row = tokens * (num_heads // RATIO) + group
    _store_tile(found.B, row, seen, n, grad_b, N)
    _store_tile(found.C, row, seen, n, grad_c, N)


@no_type_check
@triton.jit
def _input_gradient(
    mixed: tl.tensor,
    g: tl.tensor,
    b: tl.tensor,
    d_state: tl.tensor,
    stays: tl.tensor,
    PRECISION: tl.constexpr,
) -> tl.tensor:
    """Gradient of x from the outputs of the chunk and from the state that leaves it; (Q, BP)."""
    grad = tl.dot(b, tl.trans(d_state), input_precision=PRECISION) * stays[:, None]
    return tl.dot(tl.trans(mixed.to(g.dtype)), g, acc=grad, input_precision=PRECISION)


@no_type_check
@triton.jit
def _trace(values: tl.tensor, i: tl.tensor) -> tl.tensor:
    """Sum of the diagonal."""
    return tl.sum(tl.where(i[:, None] == i[None, :], values, 0.0))


@no_type_check
@triton.jit
def _store_decays(
    found: Found,
    places: tl.tensor,
    pairs: tl.tensor,
    step: tl.tensor,
    left: tl.tensor,
    entered: tl.tensor,
    across: tl.tensor,
) -> None:
    """Gradients of steps (their direct part) and of decays dt A, a token each.

    A decay at k scales every path from a source before k to a reader at k or later: pairs within
    the chunk, states that are read (`left`), inputs that stay (`entered`), and what crosses.
    """
    to_readers = tl.sum(pairs * step[None, :], axis=1)
    from_sources = tl.sum(pairs, axis=0)
    stays = step * entered
    crossing = tl.cumsum(to_readers - step * from_sources + left, axis=0, reverse=True)
    before = tl.cumsum(stays, axis=0) - stays
    tl.store(found.steps + places, from_sources + entered)
    tl.store(found.decays + places, crossing + before + across)
