"""The oracle of this room: decode a whole file from start to end, plainly, to compare with."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from timeviper.video.base import Pixels, Size
from timeviper.video.file_source import orientation_of
from timeviper.video.formats import open_container, recognise, regular_file, video_stream
from timeviper.video.scaling import FrameScaler


def decode_all(path: Path, size: Size) -> tuple[Pixels, NDArray[np.float64]]:
    """Decode every frame of a short video, one after another.

    Args:
        path: a video file with a stamp for every frame. Frames come out in the order in which they
            are shown; where a container (AVI) stores stamps in another order, they are sorted.
        size: rows and columns of the frames.

    Returns:
        uint8 (frame, row, column, channel) pixels; float64 (frame,) seconds from the first.
    """
    path = regular_file(path)
    frames: list[Pixels] = []
    stamps: list[int] = []
    scaler: FrameScaler | None = None
    with open_container(path, recognise(path)) as container:
        stream = video_stream(container, path.name)
        for frame in container.decode(stream):
            scaler = scaler or FrameScaler(size, orientation_of(frame))
            frames.append(np.array(scaler.convert(frame)))
            stamps.append(frame.pts or 0)
        base = stream.time_base or Fraction(1)
    ticks = np.sort(np.array(stamps)) - min(stamps)
    return np.stack(frames), ticks * base.numerator / base.denominator
