"""Packed tokens to padded rows and back: the one place that knows how sequences lie in memory."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Shaped
from torch import Tensor

from timeviper.core.errors import LayoutError


def check_lengths(lengths: Sequence[int], tokens: int, *, name: str = "lengths") -> None:
    """Refuse lengths that do not describe the tokens at hand.

    Args:
        lengths: tokens of each sequence; zero is allowed.
        tokens: tokens that lie on the packed axis.
        name: what the caller calls its lengths, for the message.

    Raises:
        LayoutError: a length is negative or the sum is not `tokens`.
    """
    if any(length < 0 for length in lengths):
        raise LayoutError(
            want=f"{name} of zero or more tokens",
            got=list(lengths),
            do="pass one length a sequence, 0 for a sequence without tokens",
        )
    if sum(lengths) != tokens:
        raise LayoutError(
            want=f"{name} that sum to the {tokens} packed tokens",
            got=f"{sum(lengths)} from {_short(lengths)}",
            do="pass the lengths of the layout that packed these tokens",
        )


def is_even(lengths: Sequence[int]) -> bool:
    """Whether all sequences have the same length, so that rows are a plain view.

    Args:
        lengths: tokens of each sequence.

    Returns:
        True when there is at least one sequence and all lengths agree.
    """
    return len(lengths) > 0 and all(length == lengths[0] for length in lengths)


def to_rows(
    x: Shaped[Tensor, "token ..."], lengths: Sequence[int]
) -> Shaped[Tensor, "sequence longest ..."]:
    """Lay packed tokens out as one zero-padded row a sequence.

    Args:
        x: tokens of all sequences one after another, any trailing axes.
        lengths: tokens of each sequence, summing to the first axis of `x`.

    Returns:
        Rows as long as the longest sequence; a view of `x` when all lengths are equal.

    Raises:
        LayoutError: the lengths do not sum to the tokens.

    Law: `from_rows(to_rows(x, lengths), lengths)` is `x`.
    """
    check_lengths(lengths, x.shape[0])
    rest = x.shape[1:]
    if is_even(lengths):
        return x.reshape(len(lengths), lengths[0], *rest)
    longest = max(lengths, default=0)
    places = _places(lengths, longest, x.device)
    # index_copy, not index_put: its gradient is a plain gather, without atomics.
    flat = x.new_zeros(len(lengths) * longest, *rest).index_copy(0, places, x)
    return flat.reshape(len(lengths), longest, *rest)


def from_rows(
    rows: Shaped[Tensor, "sequence longest ..."], lengths: Sequence[int]
) -> Shaped[Tensor, "token ..."]:
    """Take the tokens out of padded rows again.

    Args:
        rows: one row a sequence; places beyond a sequence's length are ignored.
        lengths: tokens of each sequence, none longer than a row.

    Returns:
        Tokens one after another; a view of `rows` when every row is full.

    Raises:
        LayoutError: the number of rows or a length does not fit `rows`.
    """
    count, longest = rows.shape[:2]
    if len(lengths) != count or max(lengths, default=0) > longest:
        raise LayoutError(
            want=f"{count} lengths of at most {longest} tokens",
            got=_short(lengths),
            do="pass the lengths that the rows were made with",
        )
    if is_even(lengths):
        return rows[:, : lengths[0]].reshape(count * lengths[0], *rows.shape[2:])
    return rows.flatten(0, 1).index_select(0, _places(lengths, longest, rows.device))


def token_places(lengths: Sequence[int], chosen: Sequence[int]) -> np.ndarray:
    """Where the tokens of some sequences lie on the packed axis.

    Args:
        lengths: tokens of each sequence.
        chosen: numbers of the sequences wanted, in the order wanted.

    Returns:
        int64 array of token numbers, the chosen sequences one after another.
    """
    starts = np.concatenate([[0], np.cumsum(np.asarray(lengths, dtype=np.int64))])
    pieces = [np.arange(starts[s], starts[s] + lengths[s], dtype=np.int64) for s in chosen]
    return np.concatenate(pieces) if pieces else np.zeros(0, dtype=np.int64)


def _places(lengths: Sequence[int], longest: int, device: torch.device) -> Tensor:
    """Place of each packed token in the flattened rows."""
    sizes = np.asarray(lengths, dtype=np.int64)
    tokens = int(sizes.sum())
    starts = np.cumsum(sizes) - sizes
    row_starts = np.arange(len(lengths), dtype=np.int64) * longest
    places = np.arange(tokens, dtype=np.int64) + np.repeat(row_starts - starts, sizes)
    return torch.from_numpy(places).to(device, non_blocking=True)


def _short(lengths: Sequence[int]) -> str:
    """The lengths for a message, cut when there are many."""
    shown = ", ".join(str(length) for length in lengths[:8])
    return f"[{shown}{', …' if len(lengths) > 8 else ''}]"
