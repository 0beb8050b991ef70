"""Grouped-query attention over packed queries and cached keys; never an L x L matrix."""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from timeviper.core.errors import LayoutError
from timeviper.ops.packing import check_lengths, from_rows, is_even, to_rows

# Entries of one mask over many padded sequences: few kernels, bounded memory.
_PADDED_ENTRIES = 2**26
# Entries a sequence up to which padding beats one call a sequence.
_SHORT_ENTRIES = 2**21
# Queries and mask entries a block of a long sequence: the products stay busy, memory small.
_QUERY_BLOCK = 256
_BLOCK_ENTRIES = 2**23
# Up to here a loop over sequences beats padding and copying their keys.
_LOOP_SEQUENCES = 8


def attention(  # noqa: PLR0913
    q: Float[Tensor, "token head head_dim"],
    k: Float[Tensor, "sequence capacity kv_head head_dim"],
    v: Float[Tensor, "sequence capacity kv_head head_dim"],
    *,
    q_lengths: Sequence[int],
    k_lengths: Sequence[int],
    causal: bool = True,
    scale: float | None = None,
) -> Float[Tensor, "token head head_dim"]:
    """Attend from the last tokens of each sequence to its keys.

    Query i of sequence s sits at position `k_lengths[s] - q_lengths[s] + i`.

    Args:
        q: packed queries; head h reads key head h // (heads / kv_heads).
        k: keys of each sequence, the new tokens' own included; slots from `k_lengths[s]` on
            are ignored whatever they hold.
        v: values, laid out like the keys.
        q_lengths: queries of each sequence; zero is allowed.
        k_lengths: filled slots of each sequence.
        causal: whether a query sees no later position than its own.
        scale: factor of the scores; None means 1 / sqrt(head_dim).

    Returns:
        Weighted values, packed like the queries; 0 where a sequence has no keys.

    Raises:
        LayoutError: lengths, heads or capacity do not fit.

    Source: Ainslie et al. 2023 (grouped queries); blocks over queries ours.
    Law: cut the queries anywhere, and the outputs are those of one call.
    """
    _check(q, k, v, q_lengths, k_lengths)
    if causal:
        _check_places(q_lengths, k_lengths)
    if not q.shape[0] or not max(k_lengths):
        return torch.zeros_like(q)
    if is_even(q_lengths) and is_even(k_lengths):
        rows = to_rows(q, q_lengths)
        filled = k_lengths[0]
        return _even(rows, k[:, :filled], v[:, :filled], causal, scale).flatten(0, 1)
    active = [s for s, length in enumerate(q_lengths) if length]
    entries = max(q_lengths) * (q.shape[1] // k.shape[2]) * max(k_lengths)
    if len(active) > _LOOP_SEQUENCES and entries <= _SHORT_ENTRIES:
        return _padded(q, k, v, q_lengths, k_lengths, causal, scale)
    # unbind and split, not slices: their gradients are gathered once.
    keys, values = k.unbind(0), v.unbind(0)
    outputs: list[Tensor] = []
    for s, rows in enumerate(q.split(list(q_lengths))):
        if not k_lengths[s]:
            outputs.append(torch.zeros_like(rows))
        elif q_lengths[s]:
            one = (keys[s][None, : k_lengths[s]], values[s][None, : k_lengths[s]])
            outputs.append(_even(rows[None], *one, causal, scale)[0])
    return torch.cat(outputs)


def attention_weights(
    q: Float[Tensor, "sequence row head head_dim"],
    k: Float[Tensor, "sequence capacity kv_head head_dim"],
    *,
    positions: Int[Tensor, "sequence row"],
    k_lengths: Sequence[int],
    scale: float | None = None,
) -> Float[Tensor, "sequence row head capacity"]:
    """Softmax rows of a few chosen queries over all keys they may see.

    Args:
        q: the chosen queries of each sequence.
        k: keys of each sequence; slots from `k_lengths[s]` on are ignored.
        positions: position of each query; it sees the keys up to and including its own.
        k_lengths: filled slots of each sequence.
        scale: factor of the scores; None means 1 / sqrt(head_dim).

    Returns:
        Weights in float32 (float64 for float64 inputs), 0 where a query may not look. A row
        that may look nowhere is all 0.

    Raises:
        LayoutError: lengths, heads or capacity do not fit.

    Law: a row times the values is what `attention` returns for that query.
    """
    sequences, rows, heads, head_dim = q.shape
    _check_keys(k, k_lengths, sequences)
    ratio = _ratio(heads, k.shape[2])
    work = torch.float64 if q.dtype == torch.float64 else torch.float32
    filled = _filled(k_lengths, k.shape[1], k.device)
    slots = torch.arange(k.shape[1], device=k.device)
    seen = filled[:, None] & (slots <= positions[..., None])
    keys = k.masked_fill(~filled[..., None, None], 0.0).to(work).permute(0, 2, 3, 1)
    factor = head_dim**-0.5 if scale is None else scale
    grouped = q.to(work).mul(factor).unflatten(2, (k.shape[2], ratio)).permute(0, 2, 1, 3, 4)
    with torch.autocast(q.device.type, enabled=False):
        scores = grouped.flatten(2, 3) @ keys
    scores = scores.unflatten(2, (rows, ratio)).permute(0, 2, 1, 3, 4).flatten(2, 3)
    # A finite floor: a row that sees nothing would become NaN with -inf.
    hidden = ~seen[:, :, None]
    floor = torch.finfo(work).min
    return scores.masked_fill(hidden, floor).softmax(dim=-1).masked_fill(hidden, 0.0)


def _even(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Tensor:
    """Rows of equal length over keys of equal length; all (sequence, place, head, head_dim)."""
    queries, keys = q.shape[1], k.shape[1]
    if not causal or queries == 1:
        return _plain(q, k, v, causal=False, scale=scale)
    if queries == keys:
        return _plain(q, k, v, causal=True, scale=scale)
    ratio = q.shape[2] // k.shape[2]
    size = max(1, min(_QUERY_BLOCK, _BLOCK_ENTRIES // (keys * ratio)))
    outputs: list[Tensor] = []
    for block in q.split(size, dim=1):
        first = keys - queries + size * len(outputs)
        last = first + block.shape[1]
        place = torch.arange(first, last, device=q.device)
        mask = torch.arange(last, device=q.device) <= place[:, None]
        outputs.append(_masked(block, k[:, :last], v[:, :last], mask[None], scale))
    return torch.cat(outputs, dim=1)


def _padded(  # noqa: PLR0913
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_lengths: Sequence[int],
    k_lengths: Sequence[int],
    causal: bool,
    scale: float | None,
) -> Tensor:
    """Many short ragged sequences: padded rows and one mask, a bounded number at a time."""
    longest, most = max(q_lengths), max(k_lengths)
    ratio = q.shape[1] // k.shape[2]
    at_once = max(1, _PADDED_ENTRIES // (longest * ratio * most))
    filled = _filled(k_lengths, most, k.device)
    # Zeroed, not only masked: NaN in an unused slot would survive the softmax's 0.
    unused = ~filled[..., None, None]
    keys, values = k[:, :most], v[:, :most]
    if not is_even(k_lengths):
        keys, values = keys.masked_fill(unused, 0.0), values.masked_fill(unused, 0.0)
    sizes = torch.tensor([k_lengths, q_lengths], device=q.device)
    place = (sizes[0] - sizes[1])[:, None] + torch.arange(longest, device=q.device)
    if causal:
        # Padding rows look where the sequence's last token looks: never at nothing.
        limit = torch.minimum(place, sizes[0][:, None] - 1)
    else:
        limit = (sizes[0] - 1)[:, None].expand(-1, longest)
    # A sequence without keys reads slot 0, which holds zeros there.
    limit = limit.clamp(min=0)
    rows = to_rows(q, q_lengths)
    slots = torch.arange(most, device=q.device)
    outputs: list[Tensor] = []
    for start in range(0, len(q_lengths), at_once):
        part = slice(start, start + at_once)
        mask = slots <= limit[part, :, None]
        outputs.append(_masked(rows[part], keys[part], values[part], mask, scale))
    return from_rows(torch.cat(outputs), q_lengths)


def _plain(q: Tensor, k: Tensor, v: Tensor, *, causal: bool, scale: float | None) -> Tensor:
    """SDPA without a mask, key heads shared by view where the kernel can."""
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    ratio = q.shape[1] // k.shape[1]
    if q.is_cuda and ratio > 1:
        # Not every fused CUDA kernel shares key heads; the fallback would build L x L.
        k, v = k.repeat_interleave(ratio, dim=1), v.repeat_interleave(ratio, dim=1)
        ratio = 1
    y = F.scaled_dot_product_attention(q, k, v, is_causal=causal, scale=scale, enable_gqa=ratio > 1)
    return y.transpose(1, 2)


def _masked(q: Tensor, k: Tensor, v: Tensor, mask: Tensor, scale: float | None) -> Tensor:
    """SDPA with a mask (sequence or 1, query, key).

    The heads that share a key head become further queries of it: no copy of the keys.
    """
    ratio = q.shape[2] // k.shape[2]
    folded = q.unflatten(2, (k.shape[2], ratio)).permute(0, 2, 1, 3, 4).flatten(2, 3)
    wide = mask.repeat_interleave(ratio, dim=1)[:, None]
    y = F.scaled_dot_product_attention(
        folded, k.transpose(1, 2), v.transpose(1, 2), attn_mask=wide, scale=scale
    )
    return y.unflatten(2, (q.shape[1], ratio)).permute(0, 2, 1, 3, 4).flatten(2, 3)


def _filled(k_lengths: Sequence[int], capacity: int, device: torch.device) -> Tensor:
    """(sequence, capacity), True where a slot holds a key."""
    sizes = torch.tensor(list(k_lengths), device=device)
    return torch.arange(capacity, device=device) < sizes[:, None]


def _ratio(heads: int, kv_heads: int) -> int:
    """Query heads a key head."""
    if kv_heads == 0 or heads % kv_heads:
        raise LayoutError(
            want=f"a number of key heads that divides {heads} query heads",
            got=kv_heads,
            do="set num_kv_heads to a divisor of num_heads",
        )
    return heads // kv_heads


def _check_keys(k: Tensor, k_lengths: Sequence[int], sequences: int) -> None:
    """Refuse keys whose filled lengths do not fit their buffer."""
    if len(k_lengths) != sequences or k.shape[0] != sequences:
        raise LayoutError(
            want=f"keys and lengths of {sequences} sequences",
            got=f"keys of {k.shape[0]}, {len(k_lengths)} lengths",
            do="pass one row of keys and one length a sequence",
        )
    if max(k_lengths, default=0) > k.shape[1] or min(k_lengths, default=0) < 0:
        raise LayoutError(
            want=f"filled lengths within the capacity of {k.shape[1]}",
            got=list(k_lengths),
            do="extend the key buffer before attending",
        )


def _check(
    q: Tensor, k: Tensor, v: Tensor, q_lengths: Sequence[int], k_lengths: Sequence[int]
) -> None:
    """Refuse queries, keys and values that do not fit together."""
    check_lengths(q_lengths, q.shape[0], name="q_lengths")
    _check_keys(k, k_lengths, len(q_lengths))
    _ratio(q.shape[1], k.shape[2])
    if k.shape != v.shape:
        raise LayoutError(
            want=f"values shaped like the keys {tuple(k.shape)}",
            got=tuple(v.shape),
            do="write keys and values together",
        )


def _check_places(q_lengths: Sequence[int], k_lengths: Sequence[int]) -> None:
    """Refuse causal queries whose own keys are missing; a cross-attention may have fewer keys."""
    short = [s for s, (a, b) in enumerate(zip(q_lengths, k_lengths, strict=True)) if a > b]
    if short:
        s = short[0]
        raise LayoutError(
            want=f"at least {q_lengths[s]} keys for the {q_lengths[s]} queries of sequence {s}",
            got=k_lengths[s],
            do="append the new tokens' keys before attending",
        )
