"""Next-token loss from hidden states, a few rows at a time: the whole score matrix never exists."""

from collections.abc import Iterator
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from timeviper.core.errors import LayoutError

# Scores that exist at once, in float32 numbers: 256 MiB.
_AT_ONCE = 2**26


def linear_cross_entropy(
    hidden: Float[Tensor, "row width"],
    weight: Float[Tensor, "word width"],
    target: Int[Tensor, "target"],
    *,
    at_once: int = _AT_ONCE,
) -> tuple[Float[Tensor, "row"], Int[Tensor, "row"]]:
    """Cross-entropy of `hidden @ weight.T` with the targets, row by row.

    Products are taken in autocast's format where it is on, else in that of `hidden`; everything
    after them in float32 or better. The backward pass computes the scores again.

    Args:
        hidden: states that predict.
        weight: output embedding of every word.
        target: the word that each row should predict.
        at_once: most numbers of the scores in memory.

    Returns:
        Loss of each row, and the word that each row holds most likely.

    Raises:
        LayoutError: rows and targets differ in number.
    """
    if len(hidden) != len(target):
        raise LayoutError(
            want=f"{len(hidden)} targets, one a row", got=len(target), do="choose both alike"
        )
    kind = hidden.device.type
    dtype = torch.get_autocast_dtype(kind) if torch.is_autocast_enabled(kind) else hidden.dtype
    rows = max(1, at_once // len(weight))
    with torch.autocast(kind, enabled=False):
        return _LinearCrossEntropy.apply(hidden, weight, target, dtype, rows)


def linear_cross_entropy_reference(
    hidden: Float[Tensor, "row width"],
    weight: Float[Tensor, "word width"],
    target: Int[Tensor, "row"],
) -> tuple[Float[Tensor, "row"], Int[Tensor, "row"]]:
    """As `linear_cross_entropy`, with all scores at once: the oracle."""
    scores = F.linear(hidden, weight.to(hidden.dtype))
    scores = scores.to(torch.promote_types(scores.dtype, torch.float32))
    return F.cross_entropy(scores, target, reduction="none"), scores.argmax(-1)


class _LinearCrossEntropy(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, weight: Tensor, target: Tensor, dtype: torch.dtype, rows: int
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(dtype, torch.float32)
        total = hidden.new_empty(len(hidden), dtype=wide)
        right = hidden.new_empty(len(hidden), dtype=wide)
        best = torch.empty_like(target)
        words = weight.to(dtype)
        for part in _parts(len(hidden), rows):
            scores = (hidden[part].to(dtype) @ words.mT).to(wide)
            total[part] = scores.logsumexp(-1)
            right[part] = scores.gather(1, target[part, None])[:, 0]
            best[part] = scores.argmax(-1)
        ctx.save_for_backward(hidden, weight, target, total)
        ctx.mark_non_differentiable(best)
        ctx.dtype, ctx.rows = dtype, rows
        return total - right, best

    @staticmethod
    def backward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, slope: Tensor, _: Tensor
    ) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        hidden, weight, target, total = ctx.saved_tensors
        words = weight.to(ctx.dtype)
        d_hidden = torch.empty_like(hidden) if ctx.needs_input_grad[0] else None
        # Summed over all parts, so in float32 or better whatever the weights are stored in.
        d_weight = torch.zeros_like(weight, dtype=total.dtype) if ctx.needs_input_grad[1] else None
        for part in _parts(len(hidden), ctx.rows):
            own = hidden[part].to(ctx.dtype)
            d_scores = ((own @ words.mT).to(total.dtype) - total[part, None]).exp_()
            there = target[part, None]
            d_scores.scatter_add_(1, there, torch.full_like(there, -1, dtype=total.dtype))
            d_scores = d_scores.mul_(slope[part, None]).to(ctx.dtype)
            if d_hidden is not None:
                d_hidden[part] = (d_scores @ words).to(hidden.dtype)
            if d_weight is not None:
                d_weight += d_scores.mT @ own
        cast = None if d_weight is None else d_weight.to(weight.dtype)
        return d_hidden, cast, None, None, None


def _parts(count: int, size: int) -> Iterator[slice]:
    return (slice(start, start + size) for start in range(0, count, size))
