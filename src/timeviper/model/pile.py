"""Tokens that lie in several parts, to choose some from without joining all."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timeviper.model.tokens import Tokens, join


@dataclass(frozen=True)
class Pile:
    """Parts of one sequence in order; several sequences lie in a single part.

    Args:
        parts: at least one.
        outline: what all tokens are, without their hidden states.

    Law: choosing from a pile is choosing from its parts joined.
    """

    parts: tuple[Tokens, ...]
    outline: Tokens

    @classmethod
    def of(cls, parts: Sequence[Tokens]) -> Pile:
        """Pile up parts with the same number of sequences; only more than one are joined."""
        filled = [part for part in parts if len(part.kinds)] or list(parts[:1])
        if len(filled[0].lengths) > 1:
            filled = [join(filled)]
        kinds = np.concatenate([part.kinds for part in filled])
        lengths = tuple(np.sum([part.lengths for part in filled], axis=0, dtype=int).tolist())
        bare = filled[0].hidden.new_empty(len(kinds), 0)
        return cls(tuple(filled), Tokens(bare, kinds, lengths))

    def pieces(self, places: NDArray[np.int64]) -> Iterator[Tokens]:
        """The tokens at ascending `places`, part by part."""
        start = 0
        for part in self.parts:
            first, last = np.searchsorted(places, (start, start + len(part.kinds)))
            if last > first:
                yield part.take(places[first:last] - start)
            start += len(part.kinds)

    def take(self, places: NDArray[np.int64]) -> Tokens:
        """The tokens at ascending `places`."""
        return join(list(self.pieces(places)) or [self.parts[0].take(places)])

    def only(self, sequences: NDArray[np.int64]) -> Pile:
        """The sequences of those numbers, in that order."""
        if np.array_equal(sequences, np.arange(len(self.outline.lengths))):
            return self
        return Pile.of([self.parts[0].only(sequences)])


def put_by(parts: tuple[Tokens, ...], tokens: Tokens, *, most: int) -> tuple[Tokens, ...]:
    """One more part at the end of a queue; small ones become one.

    Args:
        parts: the queue, which stays as it is.
        tokens: what is added, of as many sequences.
        most: tokens of a part up to which neighbours are joined.

    Returns:
        The longer queue: of n tokens that come one by one, few more than n / `most` parts.
    """
    if not len(tokens.kinds):
        return parts
    if parts and len(parts[-1].kinds) + len(tokens.kinds) <= most:
        return (*parts[:-1], join([parts[-1], tokens]))
    return (*parts, tokens)
