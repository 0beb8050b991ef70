"""Which token is what: ordered spans of one or several packed sequences. Knows no tensors."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum
from functools import cached_property

import numpy as np
from numpy.typing import NDArray

from timeviper.core.errors import LayoutError


class SpanKind(StrEnum):
    """What the tokens of a span are to the model."""

    TEXT = "text"
    VISION = "vision"
    INSTRUCTION = "instruction"
    ANSWER = "answer"
    TIMESTAMP = "timestamp"

    @property
    def code(self) -> int:
        """Small integer that stands for the kind in arrays and tensors."""
        return _ORDER.index(self)


_ORDER = tuple(SpanKind)


@dataclass(frozen=True, slots=True)
class Span:
    """A run of `length` tokens of one kind."""

    kind: SpanKind
    length: int


@dataclass(frozen=True)
class TokenLayout:
    """Ordered spans of one or several sequences whose tokens lie one after another.

    Args:
        sequences: for each sequence its spans in order.

    Law: `pack(split(layout))` has the same tokens in the same order.
    """

    sequences: tuple[tuple[Span, ...], ...]

    def __post_init__(self) -> None:
        """Refuse negative lengths."""
        for number, spans in enumerate(self.sequences):
            for span in spans:
                if span.length < 0:
                    raise LayoutError(
                        want=f"span lengths of sequence {number} to be zero or more",
                        got=span.length,
                        do="rebuild the layout with the processor",
                    )

    @classmethod
    def of(cls, *spans: tuple[SpanKind, int]) -> TokenLayout:
        """Layout of one sequence from (kind, length) pairs."""
        return cls((tuple(Span(kind, length) for kind, length in spans),))

    @classmethod
    def pack(cls, layouts: Iterable[TokenLayout]) -> TokenLayout:
        """Several layouts as one, their sequences in order."""
        return cls(tuple(spans for layout in layouts for spans in layout.sequences))

    @classmethod
    def from_kinds(cls, kinds: NDArray[np.int8], lengths: Sequence[int]) -> TokenLayout:
        """Layout from one kind code a token and the tokens of each sequence."""
        if sum(lengths) != len(kinds):
            raise LayoutError(
                want=f"{sum(lengths)} kinds for lengths {tuple(lengths)}",
                got=len(kinds),
                do="give one kind a token",
            )
        parts = np.split(kinds, np.cumsum(lengths)[:-1]) if lengths else []
        return cls(tuple(_runs(part) for part in parts))

    @cached_property
    def lengths(self) -> tuple[int, ...]:
        """Tokens of each sequence."""
        return tuple(sum(span.length for span in spans) for spans in self.sequences)

    @cached_property
    def total(self) -> int:
        """Tokens of all sequences."""
        return sum(self.lengths)

    @cached_property
    def kinds(self) -> NDArray[np.int8]:
        """One kind code a token, shape (token,); treat as read-only."""
        spans = [span for spans in self.sequences for span in spans]
        codes = np.array([span.kind.code for span in spans], dtype=np.int8)
        return np.repeat(codes, np.array([span.length for span in spans], dtype=np.int64))

    def count(self, kind: SpanKind) -> tuple[int, ...]:
        """Tokens of `kind` in each sequence."""
        return tuple(
            sum(span.length for span in spans if span.kind == kind) for spans in self.sequences
        )

    def positions(self, kind: SpanKind) -> NDArray[np.int64]:
        """Places of the tokens of `kind` in the pack, ascending."""
        return np.flatnonzero(self.kinds == kind.code)

    def split(self, at: int | Sequence[int]) -> tuple[TokenLayout, TokenLayout]:
        """Cut every sequence after `at` of its tokens.

        Args:
            at: one number for all sequences, or one a sequence.

        Returns:
            The layouts of the parts before and after the cut; a part may be empty.

        Raises:
            LayoutError: a cut lies outside its sequence.
        """
        cuts = (at,) * len(self.sequences) if isinstance(at, int) else tuple(at)
        if len(cuts) != len(self.sequences):
            raise LayoutError(
                want=f"{len(self.sequences)} cuts",
                got=len(cuts),
                do="give one cut a sequence",
            )
        pairs = [
            _cut(spans, cut, n)
            for spans, cut, n in zip(self.sequences, cuts, self.lengths, strict=True)
        ]
        return TokenLayout(tuple(p[0] for p in pairs)), TokenLayout(tuple(p[1] for p in pairs))

    def shrink(self, keep: NDArray[np.bool_]) -> TokenLayout:
        """Layout of the tokens where `keep`, shape (token,), is true."""
        if keep.shape != (self.total,):
            raise LayoutError(
                want=f"a mask of shape ({self.total},)",
                got=keep.shape,
                do="mask the tokens of this layout",
            )
        ends = np.cumsum(self.lengths)
        starts = ends - np.array(self.lengths, dtype=np.int64)
        lengths = [int(keep[a:b].sum()) for a, b in zip(starts, ends, strict=True)]
        return TokenLayout.from_kinds(self.kinds[keep], lengths)


def _runs(kinds: NDArray[np.int8]) -> tuple[Span, ...]:
    if len(kinds) == 0:
        return ()
    edges = np.flatnonzero(np.diff(kinds)) + 1
    starts = np.concatenate([[0], edges])
    ends = np.concatenate([edges, [len(kinds)]])
    return tuple(Span(_ORDER[int(kinds[a])], int(b - a)) for a, b in zip(starts, ends, strict=True))


def _cut(spans: tuple[Span, ...], at: int, length: int) -> tuple[tuple[Span, ...], ...]:
    if not 0 <= at <= length:
        raise LayoutError(
            want=f"a cut between 0 and {length}", got=at, do="cut inside the sequence"
        )
    head: list[Span] = []
    tail: list[Span] = []
    left = at
    for span in spans:
        taken = min(span.length, left)
        left -= taken
        if taken:
            head.append(Span(span.kind, taken))
        if span.length > taken:
            tail.append(Span(span.kind, span.length - taken))
    return tuple(head), tuple(tail)
