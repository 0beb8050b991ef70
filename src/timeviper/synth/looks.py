"""How the appearances and backgrounds of worlds look: places, sizes, movements, colours."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from timeviper.synth.catalogue import ThingKind, ids_of
from timeviper.synth.world import BLOBS, Motion

# Height over width of the frame that worlds are imagined in.
_NARROW = 9 / 16
_PLACE = {motion: number for number, motion in enumerate(Motion)}


def looks(
    rng: np.random.Generator, thing: NDArray[np.int64], motion: NDArray[np.int64]
) -> dict[str, NDArray[np.float32]]:
    """Places, movements and coverings of appearances.

    Args:
        rng: source of chance.
        thing: drawings, shape (world, event, slot), -1 for none.
        motion: numbers of `Motion`, shape (world, event).

    Returns:
        `place`, `move`, `look` and `cover` of `Worlds`.
    """
    shape = motion.shape
    half = _alone(rng, thing[..., 0], motion)
    margin = np.minimum(half, 0.5)
    centre = margin + rng.random((*shape, 2)) * (1 - 2 * margin)
    centre, drift = _slide(rng, centre, margin, motion)
    place = np.zeros((*shape, 3, 4))
    place[..., 0, :2], place[..., 0, 2:] = centre, half
    _captions(rng, place, thing)
    _pointers(rng, place, thing)
    growth = np.ones(shape)
    times = rng.uniform(1.7, 2.3, shape)
    growth[motion == _PLACE[Motion.CLOSER]] = times[motion == _PLACE[Motion.CLOSER]]
    growth[motion == _PLACE[Motion.AWAY]] = 1 / times[motion == _PLACE[Motion.AWAY]]
    turn = rng.choice([-1.0, 1.0], shape) * np.radians(rng.uniform(70, 130, shape))
    turn[motion != _PLACE[Motion.TURNING]] = 0
    # Half the turn before upright, half after it: nothing is ever upside down.
    tilt, side = rng.normal(0, 0.1, shape) - turn / 2, rng.choice([-1.0, 1.0], shape)
    signs = thing[..., 0] >= ids_of(ThingKind.WORD).start
    tilt[signs], side[signs] = 0, 1
    made = {
        "place": place,
        "move": np.concatenate([drift, growth[..., None], turn[..., None]], axis=-1),
        "look": np.stack([tilt, side], axis=-1),
        "cover": _cover(rng, shape),
    }
    return {name: array.astype(np.float32) for name, array in made.items()}


def scenes(rng: np.random.Generator, batch: int, num_frames: int) -> dict[str, NDArray[np.float32]]:
    """Backgrounds that follow each other: `scene_start`, `colours`, `blobs`, `texture`."""
    most = 1 + num_frames // 15
    lasting = rng.uniform(15, 120, (batch, most))
    start = np.cumsum(lasting, axis=1) - lasting
    start[start >= num_frames] = np.inf
    # No scene beyond the last that begins within any of these worlds is ever drawn.
    most = int(np.isfinite(start).sum(axis=1).max())
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
        "scene_start": start[:, :most].astype(np.float32),
        "colours": colours.astype(np.float32),
        "blobs": blobs.astype(np.float32),
        "texture": np.stack(texture, axis=-1).astype(np.float32),
    }


def _alone(
    rng: np.random.Generator, thing: NDArray[np.int64], motion: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Half width and half height of things alone, shape (world, event, 2)."""
    high = rng.uniform(0.21, 0.4, thing.shape)
    # What travels or grows needs room for it.
    still = motion == _PLACE[Motion.STILL]
    high = np.where(still, high, 0.21 + (high - 0.21) * 0.5)
    high = np.where(motion == _PLACE[Motion.CLOSER], rng.uniform(0.16, 0.2, thing.shape), high)
    high = np.where(motion == _PLACE[Motion.AWAY], rng.uniform(0.33, 0.42, thing.shape), high)
    wide = high * _NARROW
    words = thing >= ids_of(ThingKind.WORD).start
    numbers = thing >= ids_of(ThingKind.NUMBER).start
    wide = np.where(words, rng.uniform(0.26, 0.4, thing.shape), wide)
    high = np.where(words, rng.uniform(0.12, 0.2, thing.shape), high)
    wide = np.where(numbers, rng.uniform(0.14, 0.26, thing.shape), wide)
    high = np.where(numbers, rng.uniform(0.16, 0.28, thing.shape), high)
    return np.stack([wide, high], axis=-1)


def _slide(
    rng: np.random.Generator,
    centre: NDArray[np.float64],
    margin: NDArray[np.float64],
    motion: NDArray[np.int64],
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Where things that travel begin, and how far they go."""
    drift = np.zeros_like(centre)
    centre = centre.copy()
    for axis, back, forth in ((0, Motion.LEFT, Motion.RIGHT), (1, Motion.UP, Motion.DOWN)):
        low, high = margin[..., axis], 1 - margin[..., axis]
        # Most of the way across, the same for text, which is too wide to go far.
        share = rng.uniform(0.75, 1, low.shape)
        way = np.maximum((high - low) * share, 0.2)
        for kind, sign in ((back, -1), (forth, 1)):
            at = motion == _PLACE[kind]
            middle = np.where(way > high - low, 0.5, (low + high) / 2)
            centre[..., axis] = np.where(at, middle - sign * way / 2, centre[..., axis])
            drift[..., axis] = np.where(at, sign * way, drift[..., axis])
    return centre, drift


def _captions(
    rng: np.random.Generator, place: NDArray[np.float64], thing: NDArray[np.int64]
) -> None:
    """Cards with a word or a number below."""
    shape = thing.shape[:2]
    text = thing[..., 1] >= ids_of(ThingKind.WORD).start
    number = thing[..., 1] >= ids_of(ThingKind.NUMBER).start
    high = rng.uniform(0.24, 0.3, shape)
    x = rng.uniform(0.36, 0.64, shape)
    wide = np.where(number, rng.uniform(0.13, 0.2, shape), rng.uniform(0.27, 0.35, shape))
    figure = np.stack([x, high + rng.uniform(0.02, 0.06, shape), high * _NARROW, high], axis=-1)
    low = rng.uniform(0.12, 0.16, shape)
    label = np.stack([x, 0.95 - low, wide, low], axis=-1)
    place[..., 0, :] = np.where(text[..., None], figure, place[..., 0, :])
    place[..., 1, :] = np.where(text[..., None], label, place[..., 1, :])


def _pointers(
    rng: np.random.Generator, place: NDArray[np.float64], thing: NDArray[np.int64]
) -> None:
    """Cards with an arrow between two things."""
    shape = thing.shape[:2]
    points = (thing[..., 2] >= 0)[..., None]
    y = rng.uniform(0.4, 0.6, shape)
    for slot, x, low, high in ((0, 0.24, 0.28, 0.36), (1, 0.76, 0.28, 0.36), (2, 0.5, 0.1, 0.14)):
        size = rng.uniform(low, high, shape)
        where = np.stack([np.full(shape, x), y, size * _NARROW, size], axis=-1)
        place[..., slot, :] = np.where(points, where, place[..., slot, :])


def _cover(rng: np.random.Generator, shape: tuple[int, ...]) -> NDArray[np.float64]:
    """Bars that pass before one appearance in seven."""
    there = rng.random(shape) < 0.15
    rows = [
        rng.uniform(0, 1, shape),
        rng.uniform(0, 1, shape),
        rng.uniform(0.03, 0.09, shape) * there,
        *(rng.random(shape) for _ in range(3)),
    ]
    return np.stack(rows, axis=-1)
