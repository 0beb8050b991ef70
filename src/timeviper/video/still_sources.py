"""Sources whose frames stand alone: folders of pictures and frames in memory."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import final

import numpy as np
from av.video.frame import VideoFrame
from numpy.typing import ArrayLike, NDArray

from timeviper.core.errors import ConfigError, MediaError
from timeviper.video.base import FrameReader, Pixels, Size, VideoInfo, VideoSource
from timeviper.video.file_source import FileSource, first_frame, orientation_of
from timeviper.video.formats import WANTED, check_pixels, recognise, regular_file
from timeviper.video.orientation import Orientation
from timeviper.video.scaling import FrameScaler

PICTURE_SUFFIXES = frozenset({".png", ".jpg", ".jpeg", ".webp", ".bmp"})


@final
class FolderSource(VideoSource):
    """A folder of pictures, one a frame, in natural order of their names (frame2 before frame10).

    Args:
        path: the folder; files that are not pictures are left alone.
        fps: pictures per second.

    Raises:
        MediaError: no picture in it, or one that cannot be read.
        ConfigError: an unusable `fps`.
    """

    def __init__(self, path: Path, *, fps: float | int = 1.0) -> None:
        check_fps(fps)
        self._files = tuple(
            sorted(
                (
                    file
                    for file in path.iterdir()
                    if file.suffix.lower() in PICTURE_SUFFIXES and file.is_file()
                ),
                key=lambda file: natural_key(file.name),
            )
        )
        if not self._files:
            raise MediaError(
                want=WANTED,
                got=f"the folder {path} without a picture",
                do=f"put frames there, named {', '.join(sorted(PICTURE_SUFFIXES))}",
            )
        first = FileSource(self._files[0]).info
        self._times = np.arange(len(self._files), dtype=np.float64) / fps
        self._info = VideoInfo(
            path=path,
            width=first.width,
            height=first.height,
            duration_seconds=len(self._files) / fps,
            average_fps=float(fps),
            num_frames=len(self._files),
            codec=first.codec,
            container="folder",
        )

    @property
    def files(self) -> tuple[Path, ...]:
        """The pictures, in the order in which they are shown."""
        return self._files

    @property
    def info(self) -> VideoInfo:
        """Facts about the video; the size is that of the first picture."""
        return self._info

    @property
    def frame_times(self) -> NDArray[np.float64]:
        """Picture k is shown at k / fps."""
        return self._times

    @property
    def entry_frames(self) -> NDArray[np.int64]:
        """Every picture stands alone."""
        return np.arange(len(self._files), dtype=np.int64)

    def open_reader(self, size: Size, *, threads: int = 1) -> FrameReader:
        """Make a reader; see `VideoSource.open_reader`."""
        return _PictureReader(self._files, size)


@final
class ArraySource(VideoSource):
    """Frames in memory with their times.

    Args:
        frames: uint8 (frame, row, column, channel) RGB array, or a sequence of such frames of one
            size; kept, not copied.
        times: (frame,) ascending seconds at which the frames are shown; rebased to start at 0.

    Raises:
        MediaError: no frames, another shape or type, or times that do not fit them.
    """

    def __init__(self, frames: Sequence[Pixels] | NDArray[np.uint8], times: ArrayLike) -> None:
        self._frames = frames
        stamps = np.array(times, np.float64)
        _check_frames(frames)
        _check_times(stamps, len(frames))
        self._times = stamps - stamps[0]
        height, width, _ = frames[0].shape
        gap = self._times[-1] / (len(stamps) - 1) if len(stamps) > 1 else 1.0
        duration = float(self._times[-1] + gap)
        self._info = VideoInfo(
            path=None,
            width=width,
            height=height,
            duration_seconds=duration,
            average_fps=len(stamps) / duration,
            num_frames=len(stamps),
            codec="rawvideo",
            container="array",
            time_origin=float(stamps[0]),
        )

    @property
    def info(self) -> VideoInfo:
        """Facts about the video; the last frame lasts as long as the others do on average."""
        return self._info

    @property
    def frame_times(self) -> NDArray[np.float64]:
        """Times as given, from the first frame."""
        return self._times

    @property
    def entry_frames(self) -> NDArray[np.int64]:
        """Every frame stands alone."""
        return np.arange(len(self._frames), dtype=np.int64)

    def open_reader(self, size: Size, *, threads: int = 1) -> FrameReader:
        """Make a reader; see `VideoSource.open_reader`."""
        return _ArrayReader(self._frames, size)


@final
class _PictureReader(FrameReader):
    def __init__(self, files: Sequence[Path], size: Size) -> None:
        self._files, self._size = files, size
        self._scalers: dict[Orientation, FrameScaler] = {}

    def read(
        self, indices: NDArray[np.int64], cancelled: Callable[[], bool]
    ) -> Iterator[tuple[int, Pixels]]:
        """Deliver pictures; see `FrameReader.read`."""
        for index in indices.tolist():
            if cancelled():
                return
            path = regular_file(self._files[index])
            frame = first_frame(path, recognise(path))
            orientation = orientation_of(frame)
            if orientation not in self._scalers:
                self._scalers[orientation] = FrameScaler(self._size, orientation)
            yield index, self._scalers[orientation].convert(frame)

    def close(self) -> None:
        """Nothing stays open between pictures."""


@final
class _ArrayReader(FrameReader):
    def __init__(self, frames: Sequence[Pixels] | NDArray[np.uint8], size: Size) -> None:
        self._frames, self._scaler = frames, FrameScaler(size)
        self._size = size

    def read(
        self, indices: NDArray[np.int64], cancelled: Callable[[], bool]
    ) -> Iterator[tuple[int, Pixels]]:
        """Deliver frames; see `FrameReader.read`."""
        for index in indices.tolist():
            if cancelled():
                return
            pixels = self._frames[index]
            if pixels.shape[:2] == self._size:
                yield index, pixels
            else:
                frame = VideoFrame.from_ndarray(np.ascontiguousarray(pixels), format="rgb24")
                yield index, self._scaler.convert(frame)

    def close(self) -> None:
        """Nothing to release."""


def natural_key(name: str) -> tuple[tuple[bool, int, str], ...]:
    """Sort key that reads runs of digits as numbers.

    Args:
        name: a file name.

    Returns:
        Parts that compare numbers by value, before text, and text without regard to case.
    """
    parts = re.split(r"(\d+)", name.lower())
    return tuple(
        (False, int(part), "") if part.isdecimal() else (True, 0, part) for part in parts if part
    )


def check_fps(fps: float | int) -> None:
    """Refuse a rate that gives no times.

    Args:
        fps: pictures per second.

    Raises:
        ConfigError: it is not a number above 0.
    """
    if not (math.isfinite(fps) and fps > 0):
        raise ConfigError(
            want="frames per second above 0", got=f"fps={fps}", do="give a rate such as 1"
        )


def _check_frames(frames: Sequence[Pixels] | NDArray[np.uint8]) -> None:
    shapes = {frame.shape for frame in frames}
    types = {frame.dtype for frame in frames}
    if types != {np.dtype(np.uint8)} or len(shapes) != 1 or not _is_picture(next(iter(shapes))):
        raise MediaError(
            want="uint8 frames of one shape (row, column, 3)",
            got=f"{len(frames)} frames of {sorted(map(str, types))} and {sorted(shapes)}",
            do="convert them to RGB uint8 of one size",
        )
    height, width, _ = next(iter(shapes))
    check_pixels(width, height, "an array")


def _is_picture(shape: tuple[int, ...]) -> bool:
    return len(shape) == 3 and shape[2] == 3 and shape[0] > 0 and shape[1] > 0


def _check_times(times: NDArray[np.float64], count: int) -> None:
    ascending = bool(np.isfinite(times).all() and (np.diff(times) > 0).all())
    if times.shape != (count,) or not ascending:
        raise MediaError(
            want=f"{count} ascending times in seconds, one a frame",
            got=f"times of shape {times.shape}{'' if ascending else ' that do not ascend'}",
            do="give one time for each frame",
        )
