"""What every source of frames offers: its facts, the time of each frame, readers for workers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

Pixels = NDArray[np.uint8]
Size = tuple[int, int]


@dataclass(frozen=True, kw_only=True)
class VideoInfo:
    """Facts about a video, all measured on its packets; nothing is taken from a header on trust.

    Args:
        path: the file or folder; None for frames in memory.
        width: columns as shown, after rotation.
        height: rows as shown, after rotation.
        duration_seconds: from the first frame's appearance to the end of the last one.
        average_fps: frames divided by duration.
        num_frames: frames in all.
        codec: FFmpeg's name of the codec.
        container: name of the file format.
        rotation: degrees counter-clockwise by which stored frames are turned to be shown.
        time_origin: presentation time of the first frame in the file, which counts as 0 here.
        notes: sentences for the user, such as where a damaged file ends.
    """

    path: Path | None
    width: int
    height: int
    duration_seconds: float
    average_fps: float
    num_frames: int
    codec: str
    container: str
    rotation: int = 0
    time_origin: float = 0.0
    notes: tuple[str, ...] = ()


class FrameReader(ABC):
    """Reads frames for one worker; never shared between threads."""

    @abstractmethod
    def read(
        self, indices: NDArray[np.int64], cancelled: Callable[[], bool]
    ) -> Iterator[tuple[int, Pixels]]:
        """Deliver frames.

        Args:
            indices: (frame,) ascending numbers of the frames wanted, each once.
            cancelled: asked often; reading ends early when it says True.

        Yields:
            Number and uint8 (row, column, channel) pixels, in order. A frame that cannot be
            decoded is left out.
        """

    @abstractmethod
    def close(self) -> None:
        """Release the file and the decoder."""


class VideoSource(ABC):
    """A video that can be read from many threads at once, each with its own reader."""

    @property
    @abstractmethod
    def info(self) -> VideoInfo:
        """Facts about the video."""

    @property
    @abstractmethod
    def frame_times(self) -> NDArray[np.float64]:
        """Exact presentation time of every frame, (frame,) ascending seconds, the first one 0."""

    @property
    @abstractmethod
    def entry_frames(self) -> NDArray[np.int64]:
        """Frames at which decoding can start without its predecessors, ascending, the first 0."""

    @abstractmethod
    def open_reader(self, size: Size, *, threads: int = 1) -> FrameReader:
        """Make a reader.

        Args:
            size: rows and columns to deliver, whatever the shape of the stored frames.
            threads: threads the decoder may use inside.

        Returns:
            A reader that the caller closes.
        """
