"""Small pictures of a video, for people who look into a state file."""

from __future__ import annotations

import io

import numpy as np
from PIL import Image

from timeviper.inference.state_info import Thumbnail
from timeviper.video.base import VideoSource
from timeviper.video.clips import iterate_clips

COUNT, HEIGHT, QUALITY = 12, 72, 80
_MOST_WIDTH = 512


def thumbnails(
    source: VideoSource, *, start: float, end: float, count: int = COUNT
) -> tuple[Thumbnail, ...]:
    """Pictures evenly spread over a part of a video, 72 rows high.

    Args:
        source: an open video.
        start: first second.
        end: last second.
        count: how many.

    Returns:
        In order of time.

    Raises:
        MediaError: nothing can be decoded.
    """
    info = source.info
    width = min(_MOST_WIDTH, max(1, round(HEIGHT * info.width / info.height)))
    times = start + (np.arange(count) + 0.5) * (end - start) / count
    return tuple(
        Thumbnail(seconds=round(float(seconds), 3), jpeg=_jpeg(frame))
        for clip in iterate_clips(source, times, size=(HEIGHT, width))
        for frame, seconds in zip(clip.frames, clip.asked, strict=True)
    )


def _jpeg(frame: np.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(frame).save(out, "JPEG", quality=QUALITY)
    return out.getvalue()
