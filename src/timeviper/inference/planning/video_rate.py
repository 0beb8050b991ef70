"""How fast this machine decodes: a short video is made, and read as the engine reads one."""

from __future__ import annotations

import tempfile
import time
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

from timeviper.video.clips import iterate_clips
from timeviper.video.source import open_video

_SECONDS, _FPS, _ROWS, _COLUMNS = 6, 30, 720, 1280
# What towers read at.
_SIDE = 384


def video_rate() -> float:
    """Seconds that decoding a second of 720p H.264 at 30 frames a second takes, by all cores.

    One frame a second is looked at, the usual rate of a model.
    """
    with tempfile.TemporaryDirectory() as folder:
        path = _written(Path(folder) / "moving.mp4")
        source = open_video(path)
        began = time.perf_counter()
        for _ in iterate_clips(source, np.arange(_SECONDS, dtype=np.float64), size=(_SIDE, _SIDE)):
            pass
        return (time.perf_counter() - began) / _SECONDS


def _written(path: Path) -> Path:
    """A moving picture with some detail, as a camera's."""
    rng = np.random.default_rng(0)
    grain = rng.integers(0, 256, (_ROWS // 8, _COLUMNS // 8, 3), dtype=np.uint8)
    still = np.repeat(np.repeat(grain, 8, axis=0), 8, axis=1)
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=_FPS, options={"preset": "ultrafast"})
        stream.height, stream.width, stream.pix_fmt = _ROWS, _COLUMNS, "yuv420p"
        stream.gop_size = 2 * _FPS
        for number in range(_SECONDS * _FPS):
            shifted = np.roll(still, 4 * number, axis=1)
            frame = av.VideoFrame.from_ndarray(shifted, format="rgb24")
            frame.pts, frame.time_base = number, Fraction(1, _FPS)
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path
