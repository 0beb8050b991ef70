"""Grouped-query attention by torch's SDPA: even rows at once, ragged ones padded or in turn."""

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional as F

from timeviper.ops import attention_cpu
from timeviper.ops.attention_parts import Part, Shared, merge, part, together
from timeviper.ops.fronts import Fronts
from timeviper.ops.packing import from_rows, is_even, to_rows

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
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_lengths: Sequence[int],
    k_lengths: Sequence[int],
    causal: bool = True,
    scale: float | None = None,
    shared: Shared | None = None,
) -> Tensor:
    """As `ops.attention.attention`, whose checks have passed."""
    if shared is not None and together(shared):
        return behind_shared(q, k, v, q_lengths, k_lengths, causal, scale, shared)
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


def attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    k_lengths: Tensor,
    shared: Fronts | None = None,
    scale: float | None = None,
) -> Tensor:
    """As `ops.attention.attention_step`; reads the lengths, which waits for a GPU."""
    lengths: list[int] = k_lengths.tolist()
    ones = [1] * len(lengths)
    fronts = None if shared is None else shared.shared
    return attention(
        q, k, v, q_lengths=ones, k_lengths=lengths, causal=False, scale=scale, shared=fronts
    )


def behind_shared(  # noqa: PLR0913
    q: Tensor,
    k: Tensor,
    v: Tensor,
    q_lengths: Sequence[int],
    k_lengths: Sequence[int],
    causal: bool,
    scale: float | None,
    shared: Shared,
) -> Tensor:
    """Queries over the keys in front, those of one video at once; each sequence over its own."""
    some = attention_cpu.part if attention_cpu.takes(q, k, v) else part
    queries = q.split(list(q_lengths))
    parts = [
        [some(rows, keys[:length], values[:length], causal=causal, scale=scale)]
        for rows, keys, values, length in zip(
            queries, k.unbind(0), v.unbind(0), k_lengths, strict=True
        )
    ]
    for front, members in together(shared):
        rows = torch.cat([queries[s] for s in members])
        keys, values = front.k[: front.length], front.v[: front.length]
        seen = some(rows, keys, values, causal=False, scale=scale)
        sizes = [q_lengths[s] for s in members]
        pieces = zip(members, seen.out.split(sizes), seen.lse.split(sizes), strict=True)
        for s, out, lse in pieces:
            parts[s].insert(0, Part(out, lse))
    return torch.cat([merge(own).out for own in parts])


def _even(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Tensor:
    """Rows of equal length over keys of equal length; all (sequence, place, head, head_dim)."""
    queries, keys = q.shape[1], k.shape[1]
    if not causal or queries == 1:
        return _plain(q, k, v, causal=False, scale=scale)
    if queries == keys:
        return _plain(q, k, v, causal=True, scale=scale)
    if attention_cpu.takes(q, k, v):
        return attention_cpu.after_past(q, k, v, scale)
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
    filled = filled_slots(k_lengths, most, k.device)
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


def filled_slots(k_lengths: Sequence[int], capacity: int, device: torch.device) -> Tensor:
    """(sequence, capacity), True where a slot holds a key."""
    sizes = torch.tensor(list(k_lengths), device=device)
    return torch.arange(capacity, device=device) < sizes[:, None]
