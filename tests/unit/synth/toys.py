"""Worlds made by hand, so that tests of drawing say what is drawn and need no sampler."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import av
import numpy as np
import torch
from torch import Tensor

from timeviper.core.seeding import stream
from timeviper.synth.catalogue import things
from timeviper.synth.footage import Footage
from timeviper.synth.sample import sample_worlds
from timeviper.synth.world import BLOBS, MAX_EVENTS, SLOTS, Change, Motion, Worlds

# A square drawing in the middle of the frame, and what stands still.
MIDDLE = (0.5, 0.5, 0.3 * 9 / 16, 0.3)
STILL = (0.0, 0.0, 1.0, 0.0)
IDS = {thing.name: number for number, thing in enumerate(things())}


def toy_worlds(batch: int = 1, num_frames: int = 32) -> Worlds:
    """Worlds of plain grey in which nothing appears; add to them by `appear` or in place."""
    events = (batch, MAX_EVENTS)
    scene = np.full((batch, 2), np.inf, dtype=np.float32)
    scene[:, 0] = 0
    change = np.zeros((batch, 2), dtype=np.float32)
    change[:, 1] = np.inf
    footage = np.tile(np.array([-1, 0, 1, 1, 1], dtype=np.float32), (batch, 1))
    look = np.zeros((*events, 2), dtype=np.float32)
    look[..., 1] = 1
    move = np.tile(np.array(STILL, dtype=np.float32), (*events, 1))
    return Worlds(
        num_frames=num_frames,
        thing=np.full((*events, SLOTS), -1, dtype=np.int64),
        start=np.full(events, num_frames + 1, dtype=np.int64),
        end=np.full(events, num_frames + 1, dtype=np.int64),
        motion=np.zeros(events, dtype=np.int64),
        place=np.zeros((*events, SLOTS, 4), dtype=np.float32),
        move=move,
        look=look,
        cover=np.zeros((*events, 6), dtype=np.float32),
        scene_start=scene,
        colours=np.full((batch, 2, 2, 3), 0.5, dtype=np.float32),
        blobs=np.zeros((batch, 2, 3, *BLOBS), dtype=np.float32),
        texture=np.zeros((batch, 2, 6), dtype=np.float32),
        footage=footage,
        change=change,
        grain=np.zeros(batch, dtype=np.float32),
    )


def appear(
    worlds: Worlds,
    drawings: Sequence[int],
    *,
    world: int = 0,
    event: int = 0,
    span: tuple[int, int] = (4, 12),
    places: Sequence[Sequence[float]] = (MIDDLE,),
    move: Sequence[float] = STILL,
    motion: Motion = Motion.STILL,
) -> Worlds:
    """Let drawings appear in a world, and return the worlds."""
    worlds.thing[world, event, : len(drawings)] = drawings
    worlds.start[world, event], worlds.end[world, event] = span
    worlds.motion[world, event] = list(Motion).index(motion)
    worlds.place[world, event, : len(places)] = places
    worlds.move[world, event] = move
    return worlds


def alter(worlds: Worlds, change: Change, second: float, world: int = 0) -> Worlds:
    """Let something happen to the whole picture."""
    worlds.change[world] = list(Change).index(change), second
    return worlds


def busy_worlds(batch: int = 6) -> Worlds:
    """Worlds with everything that can be drawn except footage, each a little different."""
    worlds = toy_worlds(batch)
    rng = np.random.default_rng(0)
    worlds.colours[:] = rng.random(worlds.colours.shape)
    worlds.blobs[:] = rng.normal(0, 0.1, worlds.blobs.shape)
    worlds.texture[:] = (0.7, 0.08, 7, 0.4, 0.02, -0.01)
    worlds.scene_start[:, 1] = 16
    worlds.grain[::2] = 0.05
    card = ((0.5, 0.32, 0.16, 0.28), (0.5, 0.84, 0.3, 0.14))
    link = ((0.24, 0.5, 0.18, 0.32), (0.76, 0.5, 0.18, 0.32), (0.5, 0.5, 0.07, 0.12))
    for n in range(batch):
        name = ("cat", "striped red circle", "word ember", "number 42")[n % 4]
        appear(worlds, [IDS[name]], world=n, move=(-0.2, 0.1, 1.5, 0.6))
        appear(worlds, [40 + n, IDS["number 7"]], world=n, event=1, span=(14, 20), places=card)
        pair = [60 + n, 90 + n, len(things())]
        appear(worlds, pair, world=n, event=2, span=(22, 28), places=link)
        worlds.look[n, 0] = 0.2, (-1) ** n
        worlds.cover[n, 0] = 0.2, 0.9, 0.06 * (n % 2), 0.9, 0.8, 0.1
        alter(worlds, list(Change)[n % 5], 18, world=n)
    return worlds


def toy_footage(lengths: Sequence[int] = (5, 3), size: tuple[int, int] = (24, 40)) -> Footage:
    """Clips whose frame k of clip c is of one brightness, 40 c + 10 k of 255, left half darker."""
    frames = [
        np.full((3, *size), 40 * c + 10 * k, dtype=np.uint8)
        for c, length in enumerate(lengths)
        for k in range(length)
    ]
    packed = torch.from_numpy(np.stack(frames))
    packed[..., : size[1] // 2] //= 2
    edges = tuple(np.cumsum([0, *lengths]).tolist())
    return Footage(frames=packed, edges=edges, names=tuple(f"clip{c}" for c in range(len(lengths))))


def write_clip(path: Path, frames: int, *, size: tuple[int, int] = (48, 64)) -> Path:
    """A real video file whose frame k has the brightness 10 + 7 k of 255."""
    height, width = size
    with av.open(str(path), "w") as container:
        stream = container.add_stream("mpeg4", rate=10)
        stream.width, stream.height, stream.pix_fmt = width, height, "yuv420p"
        for number in range(frames):
            pixels = np.full((height, width, 3), 10 + 7 * number, dtype=np.uint8)
            container.mux(stream.encode(av.VideoFrame.from_ndarray(pixels, format="rgb24")))
        container.mux(stream.encode(None))
    return path


def times(*seconds: float) -> tuple[Tensor, Tensor]:
    """Numbers (all the first world) and moments."""
    return torch.zeros(len(seconds), dtype=torch.long), torch.tensor(seconds)


def sample_world(seed: int, index: int, num_frames: int) -> Worlds:
    """World number `index` of a seed, alone in its batch; a function of its arguments only."""
    return sample_worlds(stream(seed, "world", index, num_frames), 1, num_frames)
