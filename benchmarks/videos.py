"""Make the long video files that benchmarks share: real H.264, textured, moving, quick to make."""

from __future__ import annotations

from collections.abc import Iterator
from fractions import Fraction
from pathlib import Path

import av
import numpy as np

Size = tuple[int, int]
SIZE, FPS = (180, 320), 24
LOOP_SECONDS = 120
SCENE_SECONDS = 10


def scene_texture(rng: np.random.Generator, size: Size) -> np.ndarray:
    """A smooth random picture, wider and taller than the screen so that a camera can pan over it.

    Args:
        rng: source of the picture.
        size: rows and columns of the screen.

    Returns:
        uint8 (row, column, channel) picture of twice the screen's size.
    """
    height, width = size
    coarse = rng.integers(0, 256, (2 * height // 20, 2 * width // 20, 3)).astype(np.float32)
    smooth = np.kron(coarse, np.ones((20, 20, 1), np.float32))
    for axis in (0, 1):
        smooth = sum(np.roll(smooth, shift, axis=axis) for shift in range(-10, 11)) / 21
    grain = rng.normal(0, 6, smooth.shape)
    return np.clip(smooth + grain, 0, 255).astype(np.uint8)


def scene_frames(index: int, size: Size = SIZE) -> Iterator[np.ndarray]:
    """The frames of one scene: a pan over a texture with five moving blocks.

    Args:
        index: number of the scene; each looks different.
        size: rows and columns of the frames.

    Yields:
        uint8 (row, column, channel) frames, `SCENE_SECONDS` x `FPS` of them.
    """
    rng = np.random.default_rng(index)
    texture = scene_texture(rng, size)
    (height, width), side = size, size[0] // 5
    colours = rng.integers(0, 256, (5, 3), dtype=np.uint8)
    starts, speeds = rng.uniform(0, 1, (5, 2)), rng.uniform(-0.4, 0.4, (5, 2))
    for frame in range(SCENE_SECONDS * FPS):
        second = frame / FPS
        top, left = int(height / 2 + height / 3 * np.sin(second / 3)), int(second * 12)
        image = texture[top : top + height, left : left + width].copy()
        for colour, place in zip(colours, (starts + speeds * second) % 1, strict=True):
            row, column = int(place[0] * (height - side)), int(place[1] * (width - side))
            image[row : row + side, column : column + side] = colour
        yield image


def make_loop(path: Path, *, size: Size = SIZE, seconds: int = LOOP_SECONDS) -> None:
    """Encode what `make_hour` repeats, with x264's defaults (GOP 250, B-frames).

    Args:
        path: the MP4 file to write.
        size: rows and columns.
        seconds: length, rounded down to whole scenes.
    """
    with av.open(str(path), "w") as out:
        stream = out.add_stream("libx264", rate=FPS)
        stream.height, stream.width = size
        stream.pix_fmt = "yuv420p"
        number = 0
        for scene in range(seconds // SCENE_SECONDS):
            for image in scene_frames(scene, size):
                frame = av.VideoFrame.from_ndarray(image, format="rgb24")
                frame.pts, frame.time_base = number, Fraction(1, FPS)
                out.mux(stream.encode(frame))
                number += 1
        out.mux(stream.encode(None))


def make_hour(
    path: Path, *, seconds: int = 3600, size: Size = SIZE, loop_seconds: int = LOOP_SECONDS
) -> None:
    """Write a 24 fps H.264 file of any length: a short loop encoded once, then repeated.

    The packets are copied with shifted timestamps, so that an hour takes seconds to make and every
    repeat costs a decoder the same work as freshly encoded video.

    Args:
        path: the MP4 file to write.
        seconds: length of the video, rounded up to whole repeats.
        size: rows and columns.
        loop_seconds: what is drawn and encoded, whole scenes.
    """
    loop = Path(path).with_suffix(".loop.mp4")
    make_loop(loop, size=size, seconds=loop_seconds)
    with av.open(str(path), "w") as out, av.open(str(loop)) as source:
        stream_in = source.streams.video[0]
        stream_out = out.add_stream_from_template(stream_in)
        packets = [p for p in source.demux(stream_in) if p.size]
        stamps = [(p.pts, p.dts) for p in packets]
        ticks = round(loop_seconds / stream_in.time_base)
        base = stream_in.time_base
        for repeat in range(-(-seconds // loop_seconds)):
            for packet, (pts, dts) in zip(packets, stamps, strict=True):
                packet.stream, packet.time_base = stream_out, base
                packet.pts, packet.dts = pts + repeat * ticks, dts + repeat * ticks
                out.mux(packet)
    loop.unlink()
