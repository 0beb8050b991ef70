"""The oracle of this room: decode a whole file from start to end, plainly, for tests to compare with."""

from __future__ import annotations

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
        path: a video file whose frames carry presentation times.
        size: rows and columns of the frames.

    Returns:
        uint8 (frame, row, column, channel) pixels and float64 (frame,) seconds from the first frame.
    """
    path = regular_file(path)
    frames: list[Pixels] = []
    times: list[float] = []
    scaler: FrameScaler | None = None
    with open_container(path, recognise(path)) as container:
        stream = video_stream(container, path)
        for frame in container.decode(stream):
            scaler = scaler or FrameScaler(size, orientation_of(frame))
            frames.append(np.array(scaler.convert(frame)))
            times.append(float((frame.pts or 0) * (stream.time_base or 0)))
    return np.stack(frames), np.array(times) - times[0]
