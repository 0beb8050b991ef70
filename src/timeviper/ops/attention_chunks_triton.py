"""Attention on a GPU by the fastest kernel for each piece of the keys, merged by log-sums."""

from collections.abc import Callable, Sequence
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor
from torch.nn import functional as F

from timeviper.ops import attention_flash, attention_parts, attention_pieces, attention_triton
from timeviper.ops.attention_parts import Part, Shared, SharedKeys, together
from timeviper.ops.attention_pieces import Stretch, stretches
from timeviper.ops.fronts import Fronts

_HALF = (torch.float16, torch.bfloat16)
# The widest head that all of the kernels hold.
_WIDEST_HEAD = 128
# Queries of several questions at once: each split of what lies in front of them leaves an output.
_AT_ONCE = 256


def attention(
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
    """As `ops.attention.attention`, whose checks have passed.

    Args:
        q: packed queries.
        k: keys of each sequence.
        v: values, laid out like the keys.
        q_lengths: queries of each sequence.
        k_lengths: filled slots of each sequence.
        causal: whether a query sees no later position than its own.
        scale: factor of the scores; None means 1 / sqrt(head_dim).
        shared: what lies in front of each sequence's own keys.

    Returns:
        Weighted values, packed like the queries.
    """
    call: dict[str, Any] = {"causal": causal, "scale": scale}
    if not takes(q, k, v):
        lengths: dict[str, Any] = {"q_lengths": q_lengths, "k_lengths": k_lengths}
        return attention_flash.attention(q, k, v, **lengths, **call, shared=shared)
    fronts = [None] * len(k) if shared is None else list(shared)
    if not len(q):
        return torch.zeros_like(q)
    if all(length == 1 for length in q_lengths):
        return _step(q, fronts, k, v, k_lengths, scale)
    rows = q.split(list(q_lengths))
    outs = [torch.zeros_like(some) for some in rows]
    counts = [0] * len(rows)
    for s, (some, keys) in enumerate(zip(rows, k_lengths, strict=True)):
        # A sequence's own numbers alone decide what takes it: the others must not show in it.
        if len(some) == 1:
            here = slice(s, s + 1)
            outs[s] = _step(some, fronts[here], k[here], v[here], [keys], scale)
        elif attention_pieces.is_few(len(some), keys, causal=causal):
            counts[s] = len(some)
        else:
            outs[s] = _alone(some, fronts[s], k[s, :keys], v[s, :keys], **call)
    for first, end in _groups(counts):
        inside = range(first, end)
        asked = torch.cat([rows[s] for s in inside if counts[s]])
        sizes = [count if s in inside else 0 for s, count in enumerate(counts)]
        filled = [keys if size else 0 for keys, size in zip(k_lengths, sizes, strict=True)]
        found = _questions(asked, fronts, k, v, q_lengths=sizes, k_lengths=filled, **call)
        for s, piece in zip(inside, found.split(sizes[first:end]), strict=True):
            outs[s] = piece if counts[s] else outs[s]
    return torch.cat(outs)


def _groups(counts: Sequence[int]) -> list[tuple[int, int]]:
    """Stretches of sequences with some queries each, but not many in all."""
    found: list[tuple[int, int]] = []
    first, held = 0, 0
    for s, count in enumerate(counts):
        if held and held + count > _AT_ONCE:
            found.append((first, s))
            first, held = s, 0
        held += count
    return [*found, (first, len(counts))] if held else found


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether the kernels hold these operands, none of which wants a gradient."""
    if torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)):
        return False
    # cuDNN and FlashAttention load eight numbers at a time.
    fits = q.shape[-1] <= _WIDEST_HEAD and q.shape[-1] % 8 == 0
    return fits and q.dtype in _HALF and q.dtype == k.dtype == v.dtype


def further(
    before: Part | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    scale: float | None,
    last: bool,
) -> Part:
    """As `attention_parts.further`, piece by piece; may write over `before`.

    Args:
        before: attention of the same queries over other keys; None where these are the first.
        q: queries of one sequence, or any queries that see all of these keys.
        k: the further keys.
        v: their values.
        causal: whether the queries belong to the last of these keys.
        scale: factor of the scores; None means 1 / sqrt(head_dim).
        last: whether no keys follow: the output is then rounded to the dtype of `q`.

    Returns:
        The merged part.
    """
    if not takes(q, k, v):
        return attention_parts.further(before, q, k, v, causal=causal, scale=scale, last=last)
    if not len(k):
        return _unchanged(before, q, last)
    cut = stretches(len(q), len(k), causal=causal)
    if len(cut) == 1:
        return _stretch(cut[0], before, q, k, v, scale, last)
    parts: list[Part] = []
    for stretch in cut:
        here = slice(stretch.first, stretch.end)
        seen = None if before is None else Part(before.out[here], before.lse[here])
        parts.append(_stretch(stretch, seen, q[here], k, v, scale, last))
    return Part(torch.cat([p.out for p in parts]), torch.cat([p.lse for p in parts]))


def _stretch(
    stretch: Stretch,
    before: Part | None,
    q: Tensor,
    k: Tensor,
    v: Tensor,
    scale: float | None,
    last: bool,
) -> Part:
    """The queries of one stretch over its pieces of the keys."""
    for piece in stretch.pieces:
        here = slice(piece.first, piece.end)
        found = _KERNELS[piece.kernel](q, k[here], v[here], piece.causal, scale)
        end = last and piece is stretch.pieces[-1]
        if before is None:
            before = found
        else:
            before = attention_triton.merge_two(before, found, q.dtype if end else torch.float32)
    return _unchanged(before, q, last=False)


def _unchanged(before: Part | None, q: Tensor, last: bool) -> Part:
    """What was before, with nothing added."""
    if before is None:
        return Part(torch.zeros_like(q), q.new_full(q.shape[:2], -torch.inf, dtype=torch.float32))
    return Part(before.out.to(q.dtype), before.lse) if last else before


def _step(
    q: Tensor,
    fronts: Shared,
    k: Tensor,
    v: Tensor,
    k_lengths: Sequence[int],
    scale: float | None,
) -> Tensor:
    """One query of each sequence."""
    filled = torch.tensor(list(k_lengths), device=q.device)
    tables = Fronts.of_step(fronts, ratio=q.shape[1] // k.shape[2], device=q.device)
    return attention_triton.attention_step(q, k, v, k_lengths=filled, shared=tables, scale=scale)


def _alone(
    q: Tensor,
    front: SharedKeys | None,
    k: Tensor,
    v: Tensor,
    *,
    causal: bool,
    scale: float | None,
) -> Tensor:
    """Many queries of one sequence, or many own keys, by pieces."""
    seen = None
    if front is not None and front.length:
        before = front.k[: front.length], front.v[: front.length]
        seen = further(None, q, *before, causal=False, scale=scale, last=not len(k))
    return further(seen, q, k, v, causal=causal, scale=scale, last=True).out


def _questions(
    q: Tensor,
    fronts: Shared,
    k: Tensor,
    v: Tensor,
    *,
    q_lengths: Sequence[int],
    k_lengths: Sequence[int],
    causal: bool,
    scale: float | None,
) -> Tensor:
    """Few queries of each sequence: what lies in front is split, own keys go packed."""
    kv_heads = k.shape[2]
    before = None
    if together(fronts):
        at_once = attention_triton.question_tile(q.shape[1] // kv_heads)
        tables = Fronts(fronts, at_once=at_once, device=q.device, counts=q_lengths)
        before = attention_triton.in_front(q, tables, kv_heads=kv_heads, scale=scale)
    if not max(k_lengths):
        return torch.zeros_like(q) if before is None else before.out
    own = attention_flash.packed(
        q, k, v, q_lengths=q_lengths, k_lengths=k_lengths, causal=causal, scale=scale
    )
    return own.out if before is None else attention_triton.merge_two(before, own, q.dtype).out


def _cudnn(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Part:
    """By cuDNN, whose mask begins at the first key: with `causal` as many keys as queries."""
    queries, fewest = len(q), attention_pieces.CUDNN_QUERIES[-1]
    if queries < fewest:
        # A padded call costs what a full one does, a plan for one more shape far more.
        q = F.pad(q, (0, 0, 0, 0, 0, fewest - queries))
    q, k, v = (x.transpose(0, 1)[None] for x in (q, k, v))
    out, lse, *_ = torch.ops.aten._scaled_dot_product_cudnn_attention(
        q, k, v, None, True, 0.0, causal, False, scale=scale
    )
    lse = lse.reshape(q.shape[1], q.shape[2]).t()
    return Part(out[0].transpose(0, 1)[:queries], lse[:queries])


def _flash(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Part:
    """By FlashAttention, whose mask ends at the last key."""
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q[None], k[None], v[None], None, None, len(q), len(k), 0.0, causal, False, scale=scale
    )
    return Part(out[0], lse[0].t())


def _split(q: Tensor, k: Tensor, v: Tensor, causal: bool, scale: float | None) -> Part:
    """By our kernel for few queries."""
    return attention_triton.part(q, k, v, scale=scale)


_KERNELS: MappingProxyType[str, Callable[[Tensor, Tensor, Tensor, bool, float | None], Part]]
_KERNELS = MappingProxyType({"cudnn": _cudnn, "flash": _flash, "split": _split})
