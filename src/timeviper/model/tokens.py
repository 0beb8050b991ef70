"""Hidden states on their way through the layers, with what each token is."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from timeviper.core.errors import LayoutError
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.ops.packing import token_places


@dataclass(frozen=True)
class Tokens:
    """Packed hidden states of one or several sequences.

    Args:
        hidden: shape (token, hidden).
        kinds: kind code of each token on the host, shape (token,).
        lengths: tokens of each sequence, in order; zero is allowed.
    """

    hidden: Float[Tensor, "token hidden"]
    kinds: NDArray[np.int8]
    lengths: tuple[int, ...]

    @classmethod
    def of(cls, hidden: Float[Tensor, "token hidden"], layout: TokenLayout) -> Tokens:
        """Pair hidden states with their layout.

        Raises:
            LayoutError: numbers of tokens differ.
        """
        if len(hidden) != layout.total:
            raise LayoutError(
                want=f"{layout.total} tokens for the layout",
                got=len(hidden),
                do="build tokens and layout with the processor",
            )
        return cls(hidden, layout.kinds, layout.lengths)

    @property
    def starts(self) -> NDArray[np.int64]:
        """Place of each sequence's first token, shape (sequence,)."""
        ends = np.cumsum(self.lengths, dtype=np.int64)
        return ends - np.asarray(self.lengths, dtype=np.int64)

    def with_hidden(self, hidden: Float[Tensor, "token hidden"]) -> Tokens:
        """The same tokens with new hidden states."""
        return Tokens(hidden, self.kinds, self.lengths)

    def plus(self, addition: Float[Tensor, "token hidden"] | None) -> Tokens:
        """The same tokens with something added to their hidden states."""
        return self if addition is None else self.with_hidden(self.hidden + addition)

    def of_kind(self, kind: SpanKind) -> NDArray[np.int64]:
        """Places of the tokens of a kind, ascending, shape (token of the kind,)."""
        return np.flatnonzero(self.kinds == kind.code)

    def counts(self, places: NDArray[np.int64]) -> tuple[int, ...]:
        """How many of the ascending `places` lie in each sequence."""
        edges = np.append(self.starts, sum(self.lengths))
        return tuple(np.diff(np.searchsorted(places, edges)).tolist())

    def only(self, sequences: NDArray[np.int64]) -> Tokens:
        """The sequences of those numbers, in that order; they may repeat."""
        if np.array_equal(sequences, np.arange(len(self.lengths))):
            return self
        chosen = sequences.tolist()
        places = token_places(self.lengths, chosen)
        hidden = self.hidden.index_select(0, on_device(places, self.hidden))
        return Tokens(hidden, self.kinds[places], tuple(self.lengths[s] for s in chosen))

    def take(self, places: NDArray[np.int64]) -> Tokens:
        """The tokens at ascending `places`."""
        if len(places) == len(self.kinds):
            return self
        hidden = self.hidden.index_select(0, on_device(places, self.hidden))
        return Tokens(hidden, self.kinds[places], self.counts(places))


def join(parts: Sequence[Tokens]) -> Tokens:
    """Append parts sequence by sequence; each part has the same number of sequences."""
    filled = [part for part in parts if len(part.kinds)] or list(parts[:1])
    if len(filled) == 1:
        return filled[0]
    offsets = np.cumsum([0] + [len(part.kinds) for part in filled[:-1]])
    starts = np.stack([part.starts + o for part, o in zip(filled, offsets, strict=True)], 1)
    sizes = np.stack([np.asarray(part.lengths, dtype=np.int64) for part in filled], 1)
    order = _ranges(starts.ravel(), sizes.ravel())
    hidden = torch.cat([part.hidden for part in filled])
    if starts.shape[0] > 1:
        hidden = hidden.index_select(0, on_device(order, hidden))
    kinds = np.concatenate([part.kinds for part in filled])[order]
    return Tokens(hidden, kinds, tuple(sizes.sum(1).tolist()))


def on_device(places: NDArray[np.int64], like: Tensor) -> Tensor:
    """Host indices as a tensor beside `like`."""
    return torch.from_numpy(np.ascontiguousarray(places)).to(like.device, non_blocking=True)


def _ranges(starts: NDArray[np.int64], sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    ends = np.cumsum(sizes)
    shifts = np.repeat(starts - (ends - sizes), sizes)
    return np.arange(len(shifts), dtype=np.int64) + shifts
