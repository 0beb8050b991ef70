"""Tokens of frames and words with the kind of each; frames are written clip after clip."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float, Int, Int8
from numpy.typing import NDArray

from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.processing.timestamps import format_time
from timeviper.processing.tokenizer import Tokenizer


@dataclass(frozen=True, eq=False)
class PromptTokens:
    """Token ids with the kind of each.

    Args:
        ids: shape (token,); vision places hold the placeholder's id.
        kinds: codes of `SpanKind`, shape (token,).
    """

    ids: Int[np.ndarray, " token"]
    kinds: Int8[np.ndarray, " token"]

    @classmethod
    def of(cls, kind: SpanKind, ids: Sequence[int]) -> PromptTokens:
        """Tokens that are all of one kind."""
        return cls(np.asarray(ids, dtype=np.int64), np.full(len(ids), kind.code, dtype=np.int8))

    @classmethod
    def join(cls, parts: Iterable[PromptTokens]) -> PromptTokens:
        """Parts one after another."""
        rows = [cls.of(SpanKind.TEXT, []), *parts]
        return cls(
            np.concatenate([row.ids for row in rows]), np.concatenate([row.kinds for row in rows])
        )

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.ids)

    @property
    def layout(self) -> TokenLayout:
        """Layout of these tokens as one sequence."""
        return TokenLayout.from_kinds(self.kinds, [len(self.kinds)])


@final
class ClipWriter:
    """Writes the tokens of frames, clip after clip: placeholders, and time marks before some.

    Args:
        tokenizer: for the marks.
        image_id: id that holds the place of a vision token.
        tokens_per_frame: vision tokens of a frame.
        mark_every: a mark stands before each frame whose number it divides; 0 for no marks.

    Law: clips written one after another are the whole video written at once.
    """

    def __init__(
        self, tokenizer: Tokenizer, *, image_id: int, tokens_per_frame: int, mark_every: int
    ) -> None:
        self._tokenizer = tokenizer
        self._image_id = image_id
        self._tokens_per_frame = tokens_per_frame
        self._mark_every = mark_every
        self._marks: dict[str, NDArray[np.int64]] = {}

    def write(
        self, times: Float[np.ndarray, " frame"], *, first_frame_index: int = 0
    ) -> PromptTokens:
        """Tokens of one clip.

        Args:
            times: seconds of its frames.
            first_frame_index: number of its first frame in the whole video.

        Returns:
            For each frame its mark (TIMESTAMP), where one is due, and its places (VISION).
        """
        marks = self._due(times, first_frame_index)
        mark_lengths = np.array([len(mark) for mark in marks], dtype=np.int64)
        lengths = mark_lengths + self._tokens_per_frame
        starts = np.cumsum(lengths) - lengths
        total = int(lengths.sum())
        ids = np.full(total, self._image_id, dtype=np.int64)
        kinds = np.full(total, SpanKind.VISION.code, dtype=np.int8)
        # Place of each mark token: start of its frame plus its number within the mark.
        within = np.arange(mark_lengths.sum()) - np.repeat(
            np.cumsum(mark_lengths) - mark_lengths, mark_lengths
        )
        places = np.repeat(starts, mark_lengths) + within
        if len(places):
            ids[places] = np.concatenate(marks)
            kinds[places] = SpanKind.TIMESTAMP.code
        return PromptTokens(ids, kinds)

    def _due(self, times: NDArray[np.floating], first_frame_index: int) -> list[NDArray[np.int64]]:
        """Ids of the mark before each frame; none where no mark is due."""
        every = self._mark_every
        texts = [
            format_time(float(seconds)) if every and (first_frame_index + i) % every == 0 else ""
            for i, seconds in enumerate(times)
        ]
        new = sorted(set(texts) - self._marks.keys())
        for text, row in zip(new, self._tokenizer.encode_batch(new), strict=True):
            self._marks[text] = np.asarray(row, dtype=np.int64)
        return [self._marks[text] for text in texts]
