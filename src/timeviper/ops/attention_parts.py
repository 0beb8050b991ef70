"""Attention over some of the keys, and the merging of such parts: exact, by their log-sums."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from timeviper.ops.autocast import as_written

# Scores at once of plain torch: few large products, bounded memory.
_SCORES = 2**23


@dataclass(frozen=True, kw_only=True)
class SharedKeys:
    """Keys and values that one or several sequences have in front of their own: one video.

    Args:
        k: keys; slots from `length` on are ignored whatever they hold.
        v: values, laid out like the keys.
        length: filled slots.
    """

    k: Float[Tensor, "capacity kv_head head_dim"]
    v: Float[Tensor, "capacity kv_head head_dim"]
    length: int


# What each sequence has in front of its own keys, None for nothing; one video may stand for many.
Shared = Sequence[SharedKeys | None]


def together(shared: Shared) -> list[tuple[SharedKeys, list[int]]]:
    """Keys that are there, each once, and the numbers of the sequences that have them in front.

    The same are those that lie at one place, not those that are only equal.
    """
    found: dict[tuple[int, int, int], tuple[SharedKeys, list[int]]] = {}
    for number, front in enumerate(shared):
        if front is not None and front.length:
            place = front.length, front.k.data_ptr(), front.v.data_ptr()
            found.setdefault(place, (front, []))[1].append(number)
    return list(found.values())


@dataclass(frozen=True)
class Part:
    """What attention over some of the keys gives, ready to be merged with the rest.

    Args:
        out: weighted values, as if there were no other keys; 0 for a query that saw none.
        lse: log of the sum of the exponentials of its scores; -inf for a query that saw none.
    """

    out: Float[Tensor, "token head head_dim"]
    lse: Float[Tensor, "token head"]


def part(
    q: Float[Tensor, "token head head_dim"],
    k: Float[Tensor, "key kv_head head_dim"],
    v: Float[Tensor, "key kv_head head_dim"],
    *,
    causal: bool,
    scale: float | None,
) -> Part:
    """Attend from the queries of one sequence to some of its keys, in plain torch.

    Args:
        q: queries; head h reads key head h // (heads / kv_heads).
        k: the keys, all of them filled.
        v: their values.
        causal: whether query i sees keys up to number `keys - queries + i` only.
        scale: factor of the scores; None means 1 / sqrt(head_dim).

    Returns:
        Output in the dtype of `q`, log-sum in float32 (float64 for float64 queries).

    Source: Milakov and Gimelshein 2018 (online softmax); Rabe and Staats 2021.
    """
    work = torch.float64 if q.dtype == torch.float64 else torch.float32
    if not len(k) or not len(q):
        return Part(torch.zeros_like(q), q.new_full(q.shape[:2], -torch.inf, dtype=work))
    factor = q.shape[-1] ** -0.5 if scale is None else scale
    rows = q.to(work).mul(factor).unflatten(1, (k.shape[1], -1)).permute(1, 0, 2, 3)
    keys, values = k.to(work).permute(1, 2, 0), v.to(work).transpose(0, 1)
    size = max(1, _SCORES // (len(k) * q.shape[1]))
    outs: list[Tensor] = []
    sums: list[Tensor] = []
    with as_written(q):
        for start in range(0, len(q), size):
            block = rows[:, start : start + size]
            scores = (block.flatten(1, 2) @ keys).unflatten(1, block.shape[1:3])
            if causal:
                scores = scores.masked_fill(_later(scores, len(k) - len(q) + start), -torch.inf)
            lse = scores.logsumexp(-1, keepdim=True)
            weights = (scores - lse.clamp(min=torch.finfo(work).min)).exp()
            outs.append((weights.flatten(1, 2) @ values).unflatten(1, block.shape[1:3]))
            sums.append(lse.squeeze(-1))
    out, lse = torch.cat(outs, dim=1), torch.cat(sums, dim=1)
    return Part(out.permute(1, 0, 2, 3).flatten(1, 2).to(q.dtype), lse.transpose(0, 1).flatten(1))


def further(  # noqa: PLR0913
    before: Part | None,
    q: Float[Tensor, "token head head_dim"],
    k: Float[Tensor, "key kv_head head_dim"],
    v: Float[Tensor, "key kv_head head_dim"],
    *,
    causal: bool,
    scale: float | None,
    last: bool,
) -> Part:
    """Attention over more keys than before, in plain torch.

    Args:
        before: attention of the same queries over other keys; None where these are the first.
        q: queries of one sequence, or any queries that see all of these keys.
        k: the further keys.
        v: their values.
        causal: as for `part`.
        scale: as for `part`.
        last: whether no keys follow: the output is then rounded to the dtype of `q`.

    Returns:
        The merged part; its output in the precision of sums while keys follow. An
        implementation may write over `before`.
    """
    found = part(q, k, v, causal=causal, scale=scale)
    merged = found if before is None else merge([before, found])
    return Part(merged.out.to(q.dtype if last else merged.lse.dtype), merged.lse)


def merge(parts: Sequence[Part]) -> Part:
    """Attention over all keys from attention over disjoint sets of them, in plain torch.

    Args:
        parts: one or more, of the same queries.

    Returns:
        The merged part, in the dtypes of the first.

    Law: cut the keys anywhere and in any order, and the merged output is that of one call.
    """
    if len(parts) == 1:
        return parts[0]
    sums = torch.stack([p.lse for p in parts])
    # A query that saw nothing anywhere has no largest log-sum: -inf - -inf would be NaN.
    top = sums.detach().amax(0).clamp(min=torch.finfo(sums.dtype).min)
    weights = (sums - top).exp()
    total = weights.sum(0)
    out = torch.zeros_like(parts[0].out, dtype=sums.dtype)
    for weight, p in zip(weights, parts, strict=True):
        out = out + weight[..., None] * p.out
    safe = total.clamp(min=torch.finfo(total.dtype).tiny)
    return Part((out / safe[..., None]).to(parts[0].out.dtype), total.log() + top)


def _later(scores: Tensor, first: int) -> Tensor:
    """(token, 1, key), True where a key comes after the query; token 0 stands at key `first`."""
    tokens, keys = scores.shape[1], scores.shape[3]
    place = torch.arange(first, first + tokens, device=scores.device)
    return (torch.arange(keys, device=scores.device) > place[:, None])[:, None]
