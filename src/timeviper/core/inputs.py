"""What one call of the whole model needs, as one value."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from timeviper.core.errors import LayoutError
from timeviper.core.layout import SpanKind, TokenLayout


@dataclass(frozen=True)
class ModelInputs:
    """Token ids, frames with their times, and the layout that lines them up.

    Args:
        token_ids: id of every token, shape (token,); vision places hold the placeholder id.
        layout: kinds of the same tokens.
        pixels: frames of all sequences in order, shape (frame, 3, height, width), or None.
        times: presentation time of each frame in seconds, shape (frame,), or None.
        labels: next-token targets, shape (token,), -100 where no loss is taken, or None.

    Raises:
        LayoutError: counts that do not agree, with the numbers.
    """

    token_ids: Int[Tensor, " token"]
    layout: TokenLayout
    pixels: Float[Tensor, "frame 3 height width"] | None = None
    times: NDArray[np.float64] | None = None
    labels: Int[Tensor, " token"] | None = None

    def __post_init__(self) -> None:
        """Check that ids, layout, frames, times and labels agree."""
        _agree("token ids for the layout", len(self.token_ids), self.layout.total)
        if self.labels is not None:
            _agree("labels for the token ids", len(self.labels), len(self.token_ids))
        frames = 0 if self.pixels is None else len(self.pixels)
        if self.times is not None or frames:
            _agree("times for the frames", 0 if self.times is None else len(self.times), frames)
        vision = sum(self.layout.count(SpanKind.VISION))
        if (frames == 0) != (vision == 0) or (frames and vision % frames):
            raise LayoutError(
                want=f"the same number of vision places for each of {frames} frames",
                got=f"{vision} places",
                do="build token ids and layout with the processor",
            )


def _agree(what: str, got: int, want: int) -> None:
    if got != want:
        raise LayoutError(want=f"{want} {what}", got=got, do="build both with the processor")
