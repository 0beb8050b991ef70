"""How stored frames are turned and mirrored to be shown: what a file's display matrix means."""

from __future__ import annotations

import struct
from dataclasses import dataclass

import numpy as np

from timeviper.video.base import Pixels, Size

_MATRIX_BYTES = 36


@dataclass(frozen=True)
class Orientation:
    """One of the eight ways to lay a rectangle down.

    Args:
        quarter_turns: counter-clockwise quarter turns, 0 to 3, after mirroring.
        mirrored: left and right are exchanged first.
    """

    quarter_turns: int = 0
    mirrored: bool = False

    @property
    def degrees(self) -> int:
        """Counter-clockwise rotation in degrees, 0 to 270."""
        return 90 * self.quarter_turns

    def stored_size(self, shown: Size) -> Size:
        """Rows and columns to decode to, so that turning gives the size shown."""
        return (shown[1], shown[0]) if self.quarter_turns % 2 else shown

    def apply(self, stored: Pixels) -> Pixels:
        """Turn a stored frame (row, column, channel) as it is to be shown; a view, not a copy."""
        upright = stored[:, ::-1] if self.mirrored else stored
        return np.rot90(upright, self.quarter_turns)


UPRIGHT = Orientation()


def parse_display_matrix(raw: bytes | None) -> Orientation:
    """Read a display matrix.

    Args:
        raw: nine 32-bit integers in the machine's order, as FFmpeg attaches them to a frame: a
            column of the picture moves by (a, b), a row by (c, d), in 16.16 fixed point.

    Returns:
        The nearest of the eight upright orientations; upright when the matrix is absent or empty.
    """
    if raw is None or len(raw) < _MATRIX_BYTES:
        return UPRIGHT
    a, b, _, c, d, *_ = struct.unpack("=9i", raw[:_MATRIX_BYTES])
    if a * d == b * c:
        return UPRIGHT
    # A mirrored picture turns the other way round: its determinant is negative.
    mirrored = a * d - b * c < 0
    right = (-a, -b) if mirrored else (a, b)
    # Where the picture's "right" points on screen (y grows downwards) is the turn.
    angle = np.degrees(np.arctan2(-right[1], right[0]))
    return Orientation(round(float(angle) / 90) % 4, mirrored)
