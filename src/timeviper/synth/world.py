"""Worlds as data: which object is on screen when, and before which background. Draws nothing."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields
from typing import Self

import numpy as np
from numpy.typing import NDArray

from timeviper.core.errors import RequestError
from timeviper.core.seeding import stream
from timeviper.synth.objects import load_names

# Seconds that separate two appearances at least.
MIN_GAP = 2
MIN_SECONDS, MAX_SECONDS = 3, 24
MAX_OBJECTS, MAX_TIMES, MAX_EVENTS = 5, 5, 12
# Rows and columns of the colour blobs of a background.
BLOBS = (4, 6)


@dataclass(frozen=True, kw_only=True)
class Event:
    """One appearance: object `object_id` is on screen from `start` until before `end`, seconds."""

    object_id: int
    start: int
    end: int

    @property
    def name(self) -> str:
        """Name of the object."""
        return load_names()[self.object_id]


@dataclass(frozen=True, kw_only=True)
class World:
    """What can be asked about: a length in seconds and the appearances in order of time.

    Law: appearances never overlap; at least `MIN_GAP` seconds lie between two.
    """

    num_frames: int
    events: tuple[Event, ...]

    def at(self, second: float) -> Event | None:
        """The appearance on screen at a moment."""
        return next((e for e in self.events if e.start <= second < e.end), None)

    def times_of(self, object_id: int) -> tuple[Event, ...]:
        """All appearances of an object."""
        return tuple(e for e in self.events if e.object_id == object_id)

    @property
    def object_ids(self) -> tuple[int, ...]:
        """Distinct objects in order of their first appearance."""
        return tuple(dict.fromkeys(e.object_id for e in self.events))


@dataclass(frozen=True, kw_only=True, eq=False)
class Worlds:
    """Several worlds of one length as arrays, ready to draw.

    Args:
        num_frames: seconds of each, at one frame a second.
        object_id: shape (world, event), -1 where there is none.
        start: first second, shape (world, event).
        end: second when it is gone, shape (world, event).
        place: centre and drift over the appearance (x, y, dx, dy) in shares of the frame, shape
            (world, event, 4).
        shape: height as a share of the frame's, tilt in radians, mirrored as -1 or 1, shape
            (world, event, 3).
        scene_start: second when a background begins, shape (world, scene); inf where none is.
        colours: the two ends of the gradient, shape (world, scene, 2, 3), 0 to 1.
        blobs: colour blobs, shape (world, scene, 3, *BLOBS), about -0.2 to 0.2.
        texture: gradient angle, stripe amplitude, frequency, angle, pan x, pan y a second, shape
            (world, scene, 6).
    """

    num_frames: int
    object_id: NDArray[np.int64]
    start: NDArray[np.int64]
    end: NDArray[np.int64]
    place: NDArray[np.float32]
    shape: NDArray[np.float32]
    scene_start: NDArray[np.float32]
    colours: NDArray[np.float32]
    blobs: NDArray[np.float32]
    texture: NDArray[np.float32]

    def __len__(self) -> int:
        """Number of worlds."""
        return len(self.object_id)

    def world(self, number: int) -> World:
        """The events of one world."""
        columns = zip(self.object_id[number], self.start[number], self.end[number], strict=True)
        events = [
            Event(object_id=int(o), start=int(s), end=int(e)) for o, s, e in columns if o >= 0
        ]
        return World(num_frames=self.num_frames, events=tuple(events))

    def select(self, numbers: Sequence[int]) -> Self:
        """Some of the worlds, in that order."""
        arrays = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "num_frames"}
        chosen = {name: array[list(numbers)] for name, array in arrays.items()}
        return type(self)(num_frames=self.num_frames, **chosen)


def sample_worlds(rng: np.random.Generator, batch: int, num_frames: int) -> Worlds:
    """Draw worlds from the one distribution that training and evaluation share.

    Args:
        rng: source of chance.
        batch: number of worlds.
        num_frames: seconds of each, at least 8.

    Raises:
        RequestError: a length that holds no appearance.
    """
    if num_frames < 8:
        raise RequestError(
            want="a world of at least 8 seconds", got=num_frames, do="ask for more frames"
        )
    events = np.full((batch, MAX_EVENTS, 3), -1, dtype=np.int64)
    events[:, :, 1:] = num_frames + 1
    for number in range(batch):
        own = _events(rng, num_frames)
        events[number, : len(own)] = own
    return Worlds(
        num_frames=num_frames,
        object_id=events[..., 0],
        start=events[..., 1],
        end=events[..., 2],
        **_looks(rng, batch),
        **_scenes(rng, batch, num_frames),
    )


def sample_world(seed: int, index: int, num_frames: int) -> Worlds:
    """World number `index` of a seed, alone in its batch; a function of its arguments only."""
    return sample_worlds(stream(seed, "world", index, num_frames), 1, num_frames)


def _events(rng: np.random.Generator, num_frames: int) -> NDArray[np.int64]:
    """Rows (object, start, end) in order of time."""
    room = min(MAX_EVENTS, max(1, num_frames // 8))
    if rng.random() < 0.02:
        return np.zeros((0, 3), dtype=np.int64)
    kinds = int(rng.integers(1, min(MAX_OBJECTS, room) + 1))
    objects = list(rng.choice(len(load_names()), size=kinds, replace=False))
    counts = np.ones(kinds, dtype=np.int64)
    if rng.random() < 0.6:
        # One object returns often, so that every count is asked about.
        counts[0] = rng.integers(1, min(MAX_TIMES, room - kinds + 1) + 1)
    for other in range(1, kinds):
        if counts.sum() < room and rng.random() < 0.3:
            counts[other] += rng.integers(1, min(MAX_TIMES - 1, room - int(counts.sum())) + 1)
    order = rng.permutation(np.repeat(objects, counts))
    total = len(order)
    longest = min(MAX_SECONDS, (num_frames - MIN_GAP * (total + 1)) // total)
    lasting = rng.integers(MIN_SECONDS, max(MIN_SECONDS, longest) + 1, size=total)
    free = num_frames - int(lasting.sum()) - MIN_GAP * (total - 1)
    cuts = np.sort(rng.integers(0, free + 1, size=total))
    before = np.concatenate([[0], np.cumsum(lasting[:-1] + MIN_GAP)])
    start = cuts + before
    return np.stack([order, start, start + lasting], axis=1)


def _looks(rng: np.random.Generator, batch: int) -> dict[str, NDArray[np.float32]]:
    size = rng.uniform(0.42, 0.8, (batch, MAX_EVENTS))
    # Half the width of an object, as a share of a 16:9 frame's width and of its height.
    margin = np.stack([size * 9 / 32, size / 2], axis=-1)
    centre = margin + rng.random((batch, MAX_EVENTS, 2)) * (1 - 2 * margin)
    goal = margin + rng.random((batch, MAX_EVENTS, 2)) * (1 - 2 * margin)
    drift = (goal - centre) * rng.uniform(0, 0.6, (batch, MAX_EVENTS, 1))
    tilt = rng.normal(0, 0.12, (batch, MAX_EVENTS))
    side = rng.choice([-1.0, 1.0], (batch, MAX_EVENTS))
    return {
        "place": np.concatenate([centre, drift], axis=-1).astype(np.float32),
        "shape": np.stack([size, tilt, side], axis=-1).astype(np.float32),
    }


def _scenes(
    rng: np.random.Generator, batch: int, num_frames: int
) -> dict[str, NDArray[np.float32]]:
    most = 1 + num_frames // 15
    lasting = rng.uniform(15, 120, (batch, most))
    start = np.cumsum(lasting, axis=1) - lasting
    start[start >= num_frames] = np.inf
    base = rng.random((batch, most, 1, 3))
    colours = np.clip(base + rng.normal(0, 0.25, (batch, most, 2, 3)), 0, 1)
    blobs = rng.normal(0, 1, (batch, most, 3, *BLOBS)) * rng.uniform(
        0.02, 0.2, (batch, most, 1, 1, 1)
    )
    stripes = rng.random((batch, most)) < 0.4
    texture = [
        rng.uniform(0, 2 * np.pi, (batch, most)),
        rng.uniform(0.02, 0.12, (batch, most)) * stripes,
        rng.uniform(4, 16, (batch, most)),
        rng.uniform(0, np.pi, (batch, most)),
        rng.normal(0, 0.02, (batch, most)),
        rng.normal(0, 0.02, (batch, most)),
    ]
    return {
        "scene_start": start.astype(np.float32),
        "colours": colours.astype(np.float32),
        "blobs": blobs.astype(np.float32),
        "texture": np.stack(texture, axis=-1).astype(np.float32),
    }
