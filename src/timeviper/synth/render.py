"""Write a world as a real H.264 file, a few frames at a time."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
import torch
from av.container import OutputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from timeviper.core.errors import RequestError
from timeviper.synth.draw import Painter, atlas_tensor
from timeviper.synth.footage import Footage
from timeviper.synth.world import Worlds

# Frames drawn at once: 16 of 320x180 are 11 MB of floats, which a cache can hold; 64 were measured
# to be drawn at half the speed.
_AT_ONCE = 16
# The same frames were measured to give other bytes from run to run with two threads, and with one
# thread too while x264's macroblock tree was on.
_SAME_BYTES = {"threads": "1", "mbtree": "0"}


@dataclass(frozen=True, kw_only=True)
class Film:
    """How a world is filmed.

    Args:
        fps: frames a second.
        height: pixels, even.
        width: pixels, even.
        crf: x264's constant rate factor; larger is smaller and worse.

    Raises:
        RequestError: a size that yuv420p cannot hold, or no frames.
    """

    fps: int = 4
    height: int = 180
    width: int = 320
    crf: int = 26

    def __post_init__(self) -> None:
        """Refuse what the encoder would fail at half-way."""
        if self.fps < 1:
            raise RequestError(want="at least 1 frame a second", got=self.fps, do="raise fps")
        if min(self.height, self.width) < 16 or self.height % 2 or self.width % 2:
            raise RequestError(
                want="an even height and width of at least 16 pixels",
                got=f"{self.width}x{self.height}",
                do="use the next even size",
            )


def render_video(
    worlds: Worlds,
    path: Path,
    *,
    number: int = 0,
    film: Film | None = None,
    footage: Footage | None = None,
    tell: Callable[[int, int], None] | None = None,
) -> None:
    """Write one world to an mp4 file; memory does not grow with its length.

    An appearance [start, end) is visible in the frames of times start <= t < end.

    Args:
        worlds: several worlds, of which one is filmed.
        path: file to write; it appears only when it is complete.
        number: which world.
        film: frame rate, size and quality.
        footage: clips, for a world that is shown before one.
        tell: called now and then with the frames written so far and those of the whole film.

    Raises:
        RequestError: a place that cannot be written, or a world whose clip is not in `footage`.
    """
    film = film or Film()
    part = path.with_name(f".{path.name}.part")
    try:
        with av.open(str(part), "w", format="mp4") as container:
            stream = _stream(container, film)
            painter = Painter.of(worlds.select([number]), atlas_tensor(96), footage)
            total = worlds.num_frames * film.fps
            for index, pixels in enumerate(_frames(painter, total, film)):
                if tell is not None and index % _AT_ONCE == 0:
                    tell(index, total)
                frame = av.VideoFrame.from_ndarray(pixels, format="rgb24")
                frame.pts, frame.time_base = index, Fraction(1, film.fps)
                container.mux(stream.encode(frame))
            container.mux(stream.encode(None))
            if tell is not None:
                tell(total, total)
        os.replace(part, path)
    except OSError as error:
        raise RequestError(
            want=f"a place to write {path}", got=error, do="choose a folder with room that is yours"
        ) from error
    finally:
        part.unlink(missing_ok=True)


def _stream(container: OutputContainer, film: Film) -> VideoStream:
    options = {"crf": str(film.crf), "preset": "veryfast", **_SAME_BYTES}
    stream = container.add_stream("libx264", rate=film.fps, options=options)
    stream.width, stream.height, stream.pix_fmt = film.width, film.height, "yuv420p"
    return stream


def _frames(painter: Painter, total: int, film: Film) -> Iterator[NDArray[np.uint8]]:
    """Frames in order, shape (height, width, 3)."""
    for first in range(0, total, _AT_ONCE):
        # In float64 first: a frame at a whole second must not fall before its appearance.
        times = np.arange(first, min(total, first + _AT_ONCE)) / film.fps
        seconds = torch.from_numpy(times).float()
        which = torch.zeros(len(times), dtype=torch.long)
        drawn = painter.draw(which, seconds, height=film.height, width=film.width)
        yield from drawn.mul_(255).round_().byte().permute(0, 2, 3, 1).contiguous().numpy()
