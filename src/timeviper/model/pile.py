"""Tokens that lie in several parts, to choose some from without joining all."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from jaxtyping import Float, Shaped
from numpy.typing import NDArray
from torch import Tensor

from timeviper.model.tokens import Tokens, join

# Tokens of a sequence that something is made of at once: everything that waited comes together.
AT_ONCE = 4096


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
        """Pile up parts with the same number of sequences.

        Several sequences are joined. A long part of one sequence, as a file holds it, is seen as
        several, so that what is made of a part never grows with the video.
        """
        filled = [part for part in parts if len(part.kinds)] or list(parts[:1])
        if len(filled[0].lengths) > 1:
            filled = [join(filled)]
        elif not torch.is_grad_enabled():
            filled = [piece for part in filled for piece in _cut(part)]
        kinds = np.concatenate([part.kinds for part in filled])
        lengths = tuple(np.sum([part.lengths for part in filled], axis=0, dtype=int).tolist())
        bare = filled[0].hidden.new_empty(len(kinds), 0)
        return cls(tuple(filled), Tokens(bare, kinds, lengths))

    @cached_property
    def edges(self) -> NDArray[np.int64]:
        """Where each part begins, and the end of the last."""
        return np.cumsum([0, *(len(part.kinds) for part in self.parts)], dtype=np.int64)

    def pieces(self, places: NDArray[np.int64]) -> Iterator[Tokens]:
        """The tokens at ascending `places`, part by part."""
        if not len(places):
            return
        begin = int(np.searchsorted(self.edges, places[0], side="right")) - 1
        end = int(np.searchsorted(self.edges, places[-1], side="right"))
        cuts = np.searchsorted(places, self.edges[begin : end + 1])
        for part, start, first, last in zip(
            self.parts[begin:end], self.edges[begin:end], cuts[:-1], cuts[1:], strict=True
        ):
            if last > first:
                yield part.take(places[first:last] - start)

    def take(self, places: NDArray[np.int64]) -> Tokens:
        """The tokens at ascending `places`; beside them there is never more than a part."""
        if not len(places):
            return self.parts[0].take(places)
        (hidden,) = in_one(((piece.hidden,) for piece in self.pieces(places)), len(places))
        return Tokens(hidden, self.outline.kinds[places], self.outline.counts(places))

    def blocks(self, places: NDArray[np.int64]) -> Iterator[Float[Tensor, "token hidden"]]:
        """Hidden states at ascending `places`, so many at once that products of them pay.

        All blocks but the last are of one size, wherever the places lie: a matrix library plans
        anew for every other number of rows, which takes longer than the product.
        """
        for first in range(0, len(places), AT_ONCE):
            yield self.take(places[first : first + AT_ONCE]).hidden

    def sequence(self, number: int, count: int) -> Iterator[Float[Tensor, "token hidden"]]:
        """Hidden states of the first `count` tokens of a sequence, in order, in parts."""
        start = int(self.outline.starts[number])
        for part in self.parts:
            length = len(part.kinds)
            if start < length and count > 0:
                some = part.hidden[start : start + count]
                yield from some.split(AT_ONCE)
                count -= len(some)
            start = max(0, start - length)


def in_one(
    pieces: Iterable[tuple[Shaped[Tensor, "some ..."], ...]], count: int
) -> tuple[Shaped[Tensor, "token ..."], ...]:
    """Pieces one after another; each is let go when it is in its place.

    Args:
        pieces: of one or several tensors, at least one.
        count: tokens of all pieces.

    Returns:
        The tensors; the only piece itself, where there is one.
    """
    whole: tuple[Tensor, ...] = ()
    done = 0
    for piece in pieces:
        here = len(piece[0])
        if here == count:
            return piece
        whole = whole or tuple(part.new_empty(count, *part.shape[1:]) for part in piece)
        for rows, part in zip(whole, piece, strict=True):
            rows[done : done + here] = part
        done += here
    return whole


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


def _cut(part: Tokens) -> Iterator[Tokens]:
    """A part of one sequence as views of at most `AT_ONCE` tokens."""
    if len(part.kinds) <= AT_ONCE:
        yield part
        return
    for first in range(0, len(part.kinds), AT_ONCE):
        kinds = part.kinds[first : first + AT_ONCE]
        yield Tokens(part.hidden[first : first + len(kinds)], kinds, (len(kinds),))
