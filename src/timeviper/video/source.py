"""Open anything that holds frames: a video file, a picture, a folder of pictures, arrays."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from timeviper.core.errors import MediaError
from timeviper.video.base import Pixels, VideoSource
from timeviper.video.file_source import FileSource
from timeviper.video.formats import WANTED
from timeviper.video.still_sources import ArraySource, FolderSource, check_fps

Openable = str | os.PathLike[str] | VideoSource | Sequence[Pixels] | NDArray[np.uint8]


def open_video(video: Openable, *, fps: float | int = 1.0) -> VideoSource:
    """Open a video and measure it; only local files, never a network address.

    Args:
        video: path of a file or of a folder of pictures; or uint8 (frame, row, column, channel) RGB
            frames; or a source, which is returned as it is.
        fps: frames per second of folders and arrays, which have no times of their own.

    Returns:
        The source, with `info`, the time of every frame, and readers for `iterate_clips`.

    Raises:
        MediaError: it is not there, or cannot be read as a video.
        ConfigError: an unusable `fps`.
    """
    if isinstance(video, VideoSource):
        return video
    if isinstance(video, (str, os.PathLike)):
        return _open_path(os.fspath(video), fps)
    check_fps(fps)
    return ArraySource(video, np.arange(len(video), dtype=np.float64) / fps)


def _open_path(name: str, fps: float | int) -> VideoSource:
    if not name or "\0" in name:
        raise MediaError(want=WANTED, got=f"the name {name!r}", do="give the path of a video")
    path = Path(name)
    # os.path, not pathlib: it answers False to names that no file system accepts.
    return FolderSource(path, fps=fps) if os.path.isdir(path) else FileSource(path)
