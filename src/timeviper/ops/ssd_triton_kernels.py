"""Triton kernels of the selective scan: pointers and strides in, no shapes checked, nothing chosen.

Letters: Q tokens a chunk, P head_dim, N state_size; BP and BN are P and N padded to powers of two.
`sums` holds, chunk by chunk, the running sum of dt A; padded places of a chunk have dt 0, so they
neither enter a state nor let it decay. Token numbers are int64: tokens x channels passes 2^31.
"""

from typing import no_type_check

import triton
import triton.language as tl


@no_type_check
@triton.jit
def _softplus(raw):
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
def _raw_steps(dt, bias, tokens, seen, dt_token, heads, dt_head, real, HAS_BIAS: tl.constexpr):
    """Projected steps plus bias in float32, (Q, BH)."""
    mask = seen[:, None] & real[None, :]
    places = tokens[:, None] * dt_token + heads[None, :] * dt_head
    raw = tl.load(dt + places, mask=mask, other=0.0).to(tl.float32)
    if HAS_BIAS:
        raw += tl.load(bias + heads, mask=real, other=0.0).to(tl.float32)[None, :]
    return raw


@no_type_check
@triton.jit
def steps_kernel(
    dt,
    A,
    bias,
    steps,
    sums,
    chunks,
    num_chunks,
    num_heads,
    dt_token,
    dt_head,
    lowest,
    highest,
    Q: tl.constexpr,
    BH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    CLAMP: tl.constexpr,
):
    """Step sizes and the running sums of dt A, float32, laid out (head, chunk, Q)."""
    chunk = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1).to(tl.int64) * BH + tl.arange(0, BH)
    i = tl.arange(0, Q)
    real = heads < num_heads
    seen = i < tl.load(chunks + 2 * chunk + 1)
    tokens = tl.load(chunks + 2 * chunk) + i
    value = _raw_steps(dt, bias, tokens, seen, dt_token, heads, dt_head, real, HAS_BIAS)
    if SOFTPLUS:
        value = _softplus(value)
    if CLAMP:
        value = tl.where(value < lowest, lowest, tl.where(value > highest, highest, value))
    value = tl.where(seen[:, None] & real[None, :], value, 0.0)
    rate = tl.load(A + heads, mask=real, other=0.0).to(tl.float32)
    places = (heads * num_chunks + chunk)[None, :] * Q + i[:, None]
    tl.store(steps + places, value, mask=real[None, :])
    tl.store(sums + places, tl.cumsum(value * rate[None, :], axis=0), mask=real[None, :])


@no_type_check
@triton.jit
def steps_backward_kernel(
    dt,
    A,
    bias,
    steps,
    d_steps,
    d_decays,
    d_dt,
    d_A,
    d_bias,
    chunks,
    num_chunks,
    num_heads,
    dt_token,
    dt_head,
    lowest,
    highest,
    Q: tl.constexpr,
    BH: tl.constexpr,
    HAS_BIAS: tl.constexpr,
    SOFTPLUS: tl.constexpr,
    CLAMP: tl.constexpr,
):
    """Gradients of steps and decays become that of dt and, a chunk each, those of A and the bias."""
    chunk = tl.program_id(0).to(tl.int64)
    heads = tl.program_id(1).to(tl.int64) * BH + tl.arange(0, BH)
    i = tl.arange(0, Q)
    real = heads < num_heads
    seen = i < tl.load(chunks + 2 * chunk + 1)
    tokens = tl.load(chunks + 2 * chunk) + i
    raw = _raw_steps(dt, bias, tokens, seen, dt_token, heads, dt_head, real, HAS_BIAS)
    mask = seen[:, None] & real[None, :]
    places = (heads * num_chunks + chunk)[None, :] * Q + i[:, None]
    step = tl.load(steps + places, mask=mask, other=0.0)
    d_decay = tl.load(d_decays + places, mask=mask, other=0.0)
    rate = tl.load(A + heads, mask=real, other=0.0).to(tl.float32)
    grad = tl.load(d_steps + places, mask=mask, other=0.0) + d_decay * rate[None, :]
    if CLAMP:
        free = raw
        if SOFTPLUS:
            free = _softplus(raw)
        grad = tl.where((free < lowest) | (free > highest), 0.0, grad)
    if SOFTPLUS:
        grad = grad / (1.0 + tl.exp(-raw))
    own = chunk * num_heads + heads
    tl.store(d_A + own, tl.sum(step * d_decay, axis=0), mask=real)
    if HAS_BIAS:
        tl.store(d_bias + own, tl.sum(grad, axis=0), mask=real)
    out = d_dt + tokens[:, None] * num_heads + heads[None, :]
    tl.store(out, grad.to(d_dt.dtype.element_ty), mask=mask)


@no_type_check
@triton.jit
def _tile(base, tokens, seen, channels, width, token_stride, channel_stride):
    """Values of some tokens and channels, zeros where there are none; (token, channel)."""
    places = tokens[:, None] * token_stride + channels[None, :] * channel_stride
    return tl.load(base + places, mask=seen[:, None] & (channels < width)[None, :], other=0.0)


@no_type_check
@triton.jit
def _reach(sums, i):
    """exp(sum_i - sum_j) for sources j no later than i, zero elsewhere; (i, j)."""
    # Masked before exp: a future span would overflow it.
    spans = tl.where(i[:, None] >= i[None, :], sums[:, None] - sums[None, :], float("-inf"))
    return tl.exp(spans)


@no_type_check
@triton.jit
def walk_kernel(
    x,
    B,
    C,
    D,
    y,
    steps,
    sums,
    starts,
    ends,
    decays,
    kept,
    segments,
    num_chunks,
    num_heads,
    x_token,
    x_head,
    x_channel,
    b_token,
    b_group,
    b_channel,
    c_token,
    c_group,
    c_channel,
    RATIO: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    Q: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
    HAS_START: tl.constexpr,
    HAS_D: tl.constexpr,
    REVERSE: tl.constexpr,
    EMIT: tl.constexpr,
    KEEP: tl.constexpr,
    END: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """Carry one head's state through the chunks of a segment, in registers.

    Forward: h <- exp(sum) h + sum of exp(what is left) dt x B; REVERSE carries the gradient of
    the state backwards, with the outputs' gradient as `x` and C as `B`. EMIT writes outputs, KEEP
    the state met before each chunk, END the last state and the segment's summed decay.
    """
    segment = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    p = tl.program_id(2) * BP + tl.arange(0, BP)
    n = tl.arange(0, BN)
    i = tl.arange(0, Q)
    first_chunk = tl.load(segments + 4 * segment)
    many = tl.load(segments + 4 * segment + 1).to(tl.int32)
    first_token = tl.load(segments + 4 * segment + 2)
    end_token = tl.load(segments + 4 * segment + 3)
    places = p[:, None] * N + n[None, :]
    inside = (p < P)[:, None] & (n < N)[None, :]
    own = (segment * num_heads + head) * (P * N)
    state = tl.zeros((BP, BN), dtype=tl.float32)
    if HAS_START:
        state += tl.load(starts + own + places, mask=inside, other=0.0).to(tl.float32)
    x += head * x_head
    B += (head // RATIO) * b_group
    C += (head // RATIO) * c_group
    total = 0.0
    for turn in range(many):
        chunk = first_chunk + (many - 1 - turn if REVERSE else turn)
        tokens = first_token + (chunk - first_chunk) * Q + i
        seen = tokens < end_token
        at = (head * num_chunks + chunk) * Q
        sum_i = tl.load(sums + at + i)
        last = tl.load(sums + at + Q - 1)
        x_i = _tile(x, tokens, seen, p, P, x_token, x_channel).to(OPERAND)
        b_i = _tile(B, tokens, seen, n, N, b_token, b_channel).to(OPERAND)
        if KEEP:
            to = kept + (chunk * num_heads + head) * (P * N) + places
            tl.store(to, state.to(kept.dtype.element_ty), mask=inside)
        if REVERSE:
            weight = tl.exp(sum_i)
        else:
            step_i = tl.load(steps + at + i)
            weight = step_i * tl.exp(last - sum_i)
        if EMIT:
            c_i = _tile(C, tokens, seen, n, N, c_token, c_channel).to(OPERAND)
            weights = tl.dot(c_i, tl.trans(b_i), input_precision=PRECISION)
            weights *= _reach(sum_i, i) * step_i[None, :]
            if HAS_D:
                # D x is a diagonal of the same product.
                direct = tl.load(D + head).to(tl.float32)
                weights += tl.where(i[:, None] == i[None, :], direct, 0.0)
            out = tl.dot(c_i, tl.trans(state.to(OPERAND)), input_precision=PRECISION)
            out *= tl.exp(sum_i)[:, None]
            out = tl.dot(weights.to(OPERAND), x_i, acc=out, input_precision=PRECISION)
            to = y + (tokens[:, None] * num_heads + head) * P + p[None, :]
            tl.store(to, out.to(y.dtype.element_ty), mask=seen[:, None] & (p < P)[None, :])
        entering = (b_i * weight[:, None]).to(OPERAND)
        state *= tl.exp(last)
        state = tl.dot(tl.trans(x_i), entering, acc=state, input_precision=PRECISION)
        total += last
    if END:
        tl.store(ends + own + places, state, mask=inside)
        tl.store(decays + segment * num_heads + head, total)


@no_type_check
@triton.jit
def join_kernel(
    state,
    ends,
    decays,
    starts,
    finals,
    sequences,
    num_heads,
    SIZE: tl.constexpr,
    BLOCK: tl.constexpr,
    HAS_STATE: tl.constexpr,
    REVERSE: tl.constexpr,
):
    """States before each segment of a sequence and after the last, from what each adds alone."""
    sequence = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1).to(tl.int64)
    places = tl.program_id(2) * BLOCK + tl.arange(0, BLOCK)
    inside = places < SIZE
    first = tl.load(sequences + 2 * sequence)
    many = tl.load(sequences + 2 * sequence + 1).to(tl.int32)
    own = (sequence * num_heads + head) * SIZE + places
    carried = tl.zeros((BLOCK,), dtype=tl.float32)
    if HAS_STATE:
        carried += tl.load(state + own, mask=inside, other=0.0).to(tl.float32)
    for turn in range(many):
        k = many - 1 - turn if REVERSE else turn
        segment = (first + k) * num_heads + head
        tl.store(starts + segment * SIZE + places, carried, mask=inside)
        added = tl.load(ends + segment * SIZE + places, mask=inside, other=0.0)
        carried = carried * tl.exp(tl.load(decays + segment)) + added
    tl.store(finals + own, carried, mask=inside)


@no_type_check
@triton.jit
def gradients_kernel(
    x,
    B,
    C,
    D,
    d_y,
    steps,
    sums,
    before,
    after,
    d_x,
    d_B,
    d_C,
    d_D,
    d_steps,
    d_decays,
    chunks,
    num_chunks,
    num_heads,
    x_token,
    x_head,
    x_channel,
    b_token,
    b_group,
    b_channel,
    c_token,
    c_group,
    c_channel,
    y_token,
    y_head,
    y_channel,
    RATIO: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    Q: tl.constexpr,
    BP: tl.constexpr,
    BN: tl.constexpr,
    HAS_D: tl.constexpr,
    OPERAND: tl.constexpr,
    PRECISION: tl.constexpr,
):
    """All gradients of one chunk and one group from the states around the chunk.

    A program sums over the heads of its group itself, in their order: no partial sums in memory,
    no atomics. `before` holds states at the start of each chunk, `after` the gradients of the
    states at its end.
    """
    chunk = tl.program_id(0).to(tl.int64)
    group = tl.program_id(1).to(tl.int64)
    i = tl.arange(0, Q)
    p = tl.arange(0, BP)
    n = tl.arange(0, BN)
    seen = i < tl.load(chunks + 2 * chunk + 1)
    tokens = tl.load(chunks + 2 * chunk) + i
    b_i = _tile(B + group * b_group, tokens, seen, n, N, b_token, b_channel).to(OPERAND)
    c_i = _tile(C + group * c_group, tokens, seen, n, N, c_token, c_channel).to(OPERAND)
    scores = tl.dot(c_i, tl.trans(b_i), input_precision=PRECISION)
    grad_b = tl.zeros((Q, BN), dtype=tl.float32)
    grad_c = tl.zeros((Q, BN), dtype=tl.float32)
    places = p[:, None] * N + n[None, :]
    inside = (p < P)[:, None] & (n < N)[None, :]
    same = i[:, None] == i[None, :]
    for r in range(RATIO):
        head = group * RATIO + r
        at = (head * num_chunks + chunk) * Q
        own = (chunk * num_heads + head) * (P * N)
        x_i = _tile(x + head * x_head, tokens, seen, p, P, x_token, x_channel).to(OPERAND)
        g_i = _tile(d_y + head * y_head, tokens, seen, p, P, y_token, y_channel).to(OPERAND)
        state = tl.load(before + own + places, mask=inside, other=0.0)
        d_state = tl.load(after + own + places, mask=inside, other=0.0)
        step = tl.load(steps + at + i)
        sum_i = tl.load(sums + at + i)
        last = tl.load(sums + at + Q - 1)
        to_end = tl.exp(last - sum_i)
        from_start = tl.exp(sum_i)

        weights = tl.dot(g_i, tl.trans(x_i), input_precision=PRECISION)
        direct = 0.0
        if HAS_D:
            direct = tl.load(D + head).to(tl.float32)
            tl.store(d_D + chunk * num_heads + head, tl.sum(tl.where(same, weights, 0.0)))
        reach = _reach(sum_i, i)
        mixed = scores * reach * step[None, :] + tl.where(same, direct, 0.0)
        weights *= reach
        pairs = weights * scores
        weights *= step[None, :]

        grad_x = tl.dot(b_i, tl.trans(d_state), input_precision=PRECISION)
        grad_x *= (step * to_end)[:, None]
        grad_x = tl.dot(tl.trans(mixed.to(OPERAND)), g_i, acc=grad_x, input_precision=PRECISION)
        to = d_x + (tokens[:, None] * num_heads + head) * P + p[None, :]
        tl.store(to, grad_x.to(d_x.dtype.element_ty), mask=seen[:, None] & (p < P)[None, :])

        reads = tl.dot(g_i, state, input_precision=PRECISION) * from_start[:, None]
        enters = tl.dot(x_i, d_state, input_precision=PRECISION) * to_end[:, None]
        left = tl.sum(reads * c_i, axis=1)
        entered = tl.sum(enters * b_i, axis=1)
        low = weights.to(OPERAND)
        grad_c = tl.dot(low, b_i, acc=grad_c + reads, input_precision=PRECISION)
        grad_b += enters * step[:, None]
        grad_b = tl.dot(tl.trans(low), c_i, acc=grad_b, input_precision=PRECISION)

        across = tl.exp(last) * tl.sum(state.to(tl.float32) * d_state.to(tl.float32))
        _store_decays(d_steps, d_decays, at + i, pairs, step, left, entered, across)
    to = (tokens[:, None] * (num_heads // RATIO) + group) * N + n[None, :]
    mask = seen[:, None] & (n < N)[None, :]
    tl.store(d_B + to, grad_b.to(d_B.dtype.element_ty), mask=mask)
    tl.store(d_C + to, grad_c.to(d_C.dtype.element_ty), mask=mask)


@no_type_check
@triton.jit
def _store_decays(d_steps, d_decays, places, pairs, step, left, entered, across):
    """Gradients of steps (their direct part) and of decays dt A, a token each.

    A decay at k scales every path from a source before k to a reader at k or later: pairs within
    the chunk, states that are read (`left`), inputs that stay (`entered`), and what crosses.
    """
    to_readers = tl.sum(pairs * step[None, :], axis=1)
    from_sources = tl.sum(pairs, axis=0)
    stays = step * entered
    crossing = tl.cumsum(to_readers - step * from_sources + left, axis=0, reverse=True)
    before = tl.cumsum(stays, axis=0) - stays
    tl.store(d_steps + places, from_sources + entered)
    tl.store(d_decays + places, crossing + before + across)
