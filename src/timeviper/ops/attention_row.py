"""The softmax row of one query over keys that come in pieces; no key is kept."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import LayoutError
from timeviper.ops.autocast import as_written


def attention_row(
    q: Float[Tensor, "head head_dim"],
    pieces: Iterable[Float[Tensor, "_ kv_head head_dim"]],
    *,
    scale: float | None = None,
) -> Float[Tensor, "head all_keys"]:
    """How much a query attends to each of many keys.

    Args:
        q: one query; head h reads key head h // (heads / kv_heads).
        pieces: all keys that it sees, at least one, in any pieces; each is taken when its turn
            comes, so that what makes them needs room for one.
        scale: factor of the scores; None means 1 / sqrt(head_dim).

    Returns:
        Weights in float32 (float64 for float64 inputs) in the order of the keys.

    Raises:
        LayoutError: heads do not fit, or there are no keys.

    Law: the row times the values is what `attention` returns for that query; it does not depend
        on the pieces.
    """
    work = torch.float64 if q.dtype == torch.float64 else torch.float32
    query = q.to(work) * (q.shape[-1] ** -0.5 if scale is None else scale)
    # Keys may be made under autocast; only their scores are taken out of it.
    scores = [_scores(query, keys) for keys in pieces]
    if not scores:
        raise LayoutError(want="keys to attend to", got="none", do="pass at least one piece")
    return torch.cat(scores, dim=-1).softmax(dim=-1)


def _scores(query: Tensor, keys: Tensor) -> Tensor:
    """Scores of one piece, (head, key)."""
    heads, kv_heads = len(query), keys.shape[1]
    if kv_heads == 0 or heads % kv_heads:
        raise LayoutError(
            want=f"a number of key heads that divides {heads} query heads",
            got=kv_heads,
            do="set num_kv_heads to a divisor of num_heads",
        )
    grouped = query.unflatten(0, (kv_heads, heads // kv_heads))
    with as_written(query):
        return (grouped @ keys.to(query.dtype).permute(1, 2, 0)).flatten(0, 1)
