"""Small real video files for tests: every frame tells its own number."""

from __future__ import annotations

import struct
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

FPS = 24
SMALL = (12, 16)  # rows and columns that tests decode to
# Without scene cuts every keyframe is where the recipe says.
X264 = {"g": "12", "bf": "3", "sc_threshold": "0"}


@dataclass(frozen=True, kw_only=True)
class Recipe:
    """How to encode a test video."""

    codec: str = "libx264"
    count: int = 48
    size: tuple[int, int] = (48, 64)
    pixels: str = "yuv420p"
    rate: int = FPS
    options: dict[str, str] = field(default_factory=lambda: dict(X264))
    pts: tuple[int, ...] | None = None
    base: Fraction | None = None
    muxer: dict[str, str] = field(default_factory=dict)


RECIPES = {
    "h264.mp4": Recipe(),
    "h264.mkv": Recipe(),
    "h264.avi": Recipe(),
    "open_gop.mp4": Recipe(options={**X264, "x264-params": "open-gop=1"}),
    "one_gop.mp4": Recipe(options={**X264, "g": "999"}),
    "refresh.mp4": Recipe(options={**X264, "bf": "0", "x264-params": "intra-refresh=1"}),
    "refresh.mkv": Recipe(options={**X264, "bf": "0", "x264-params": "intra-refresh=1"}),
    "hevc.mp4": Recipe(
        codec="libx265", options={"preset": "ultrafast", "x265-params": "keyint=12:log-level=none"}
    ),
    "mpeg4.mp4": Recipe(codec="mpeg4", options={"g": "12", "bf": "2"}),
    "mpeg4.avi": Recipe(codec="mpeg4", options={"g": "12", "bf": "2"}),
    "mjpeg.avi": Recipe(codec="mjpeg", pixels="yuvj420p", options={}),
    "vp8.webm": Recipe(
        codec="libvpx",
        options={"deadline": "good", "cpu-used": "2", "auto-alt-ref": "1", "lag-in-frames": "16"},
    ),
    "vp9.webm": Recipe(
        codec="libvpx-vp9", options={"deadline": "realtime", "cpu-used": "8", "g": "12"}
    ),
    "frames.gif": Recipe(codec="gif", pixels="rgb8", rate=10, options={}),
    "uneven.mp4": Recipe(
        pts=tuple(np.cumsum([7, 40, 12, 133] * 12).tolist()), base=Fraction(1, 1000)
    ),
    "late.mkv": Recipe(pts=tuple(range(100, 148))),
    "odd.mp4": Recipe(size=(17, 33), pixels="yuv444p"),
    "dot.mp4": Recipe(size=(1, 1), pixels="yuv444p"),
    "ten_bit.mkv": Recipe(pixels="yuv420p10le"),
}


def picture(number: int, size: tuple[int, int]) -> np.ndarray:
    """A frame whose content depends on its number: moving stripes over a slow change of colour.

    Args:
        number: of the frame.
        size: rows and columns.

    Returns:
        uint8 (row, column, channel).
    """
    rows, columns = np.mgrid[: size[0], : size[1]]
    stripes = 127 + 100 * np.sin((columns + rows / 2 + 3 * number) / 5)
    channels = [stripes, np.full(size, number * 5 % 256), np.roll(stripes, number, axis=0)]
    return np.stack(channels, axis=-1).astype(np.uint8)


def encode(path: Path, recipe: Recipe) -> Path:
    """Write a video file.

    Args:
        path: where; its suffix chooses the container.
        recipe: how.

    Returns:
        The path.
    """
    base = recipe.base or Fraction(1, recipe.rate)
    with av.open(str(path), "w", options=recipe.muxer) as out:
        stream = out.add_stream(recipe.codec, rate=recipe.rate, options=dict(recipe.options))
        stream.height, stream.width = recipe.size
        stream.pix_fmt = recipe.pixels
        stream.codec_context.time_base = base
        for number in range(recipe.count):
            frame = av.VideoFrame.from_ndarray(picture(number, recipe.size), format="rgb24")
            frame.pts = number if recipe.pts is None else recipe.pts[number]
            frame.time_base = base
            out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def with_matrix(source: Path, path: Path, matrix: tuple[int, int, int, int]) -> Path:
    """Copy an MP4 and write (a, b, c, d) into the display matrix of its track."""
    data = bytearray(source.read_bytes())
    at = data.index(b"tkhd") + 44
    a, b, c, d = (value << 16 for value in matrix)
    data[at : at + 36] = struct.pack(">9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)
    path.write_bytes(data)
    return path


def sound_only(path: Path) -> Path:
    """Write a file with an audio stream and no pictures."""
    with av.open(str(path), "w") as out:
        stream = out.add_stream("aac", rate=8000)
        silence = np.zeros((1, 1024), np.float32)
        frame = av.AudioFrame.from_ndarray(silence, format="fltp", layout="mono")
        frame.sample_rate = 8000
        frame.pts = 0
        out.mux(stream.encode(frame))
        out.mux(stream.encode(None))
    return path


def png_of(path: Path, size: tuple[int, int]) -> Path:
    """Write a PNG through FFmpeg."""
    return encode(path, Recipe(codec="png", pixels="rgb24", count=1, size=size, options={}))
