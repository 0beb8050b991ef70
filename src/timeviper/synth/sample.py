"""Draw worlds: the one distribution that training and evaluation share, and casts for a task."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timeviper.core.errors import RequestError
from timeviper.synth.casting import Cast, Role, any_cast
from timeviper.synth.catalogue import ThingKind, ids_of
from timeviper.synth.looks import looks, scenes
from timeviper.synth.world import MAX_EVENTS, SLOTS, Change, Motion, Worlds

# Seconds that separate two appearances at least.
MIN_GAP = 2
MIN_SECONDS, MAX_SECONDS = 3, 24
# A world of fewer seconds holds no appearance.
SHORTEST = 8
_MOTIONS = {motion: number for number, motion in enumerate(Motion)}
_CHANGES = {change: number for number, change in enumerate(Change)}


@dataclass(frozen=True, kw_only=True)
class Setting:
    """What a world's appearances are shown before.

    Args:
        clip: footage clip as the haystack, -1 for a drawn background, None to draw lots.
        clips: footage clips to draw from where `clip` is None.
    """

    clip: int | None = None
    clips: int = 0


def room(num_frames: int) -> int:
    """Appearances that a world of that length can hold."""
    return min(MAX_EVENTS, max(1, num_frames // SHORTEST))


def sample_worlds(
    rng: np.random.Generator, batch: int, num_frames: int, setting: Setting | None = None
) -> Worlds:
    """Draw worlds from the training distribution.

    Args:
        rng: source of chance.
        batch: number of worlds.
        num_frames: seconds of each, at least `SHORTEST`.
        setting: haystacks; drawn backgrounds where None.

    Raises:
        RequestError: a length that holds no appearance.
    """
    _check(num_frames)
    casts = [any_cast(rng, room(num_frames)) for _ in range(batch)]
    times = [spread(rng, len(cast), num_frames) for cast in casts]
    return stage(rng, casts, times, num_frames=num_frames, setting=setting or Setting())


def spread(rng: np.random.Generator, count: int, num_frames: int) -> NDArray[np.int64]:
    """Times of appearances anywhere in a world, in order, shape (count, 2) as start and end."""
    if count == 0:
        return np.zeros((0, 2), dtype=np.int64)
    lasting = lengths(rng, count, num_frames)
    return _within(rng, lasting, 0, num_frames)


def spread_around(
    rng: np.random.Generator, count: int, num_frames: int, depth: float
) -> tuple[NDArray[np.int64], int]:
    """Times of which one begins at a depth.

    Args:
        rng: source of chance.
        count: appearances, at least 1.
        num_frames: seconds of the world.
        depth: 0 for the very start, 1 for the very end.

    Returns:
        Times in order, shape (count, 2), and which of them stands at the depth.
    """
    lasting = lengths(rng, count, num_frames)
    own = int(lasting[0])
    start = round(depth * (num_frames - own))
    after = num_frames - start - own
    others = lasting[1:]
    fits = _splits(others, start, after)
    if not fits:
        # Shorter ones always fit: `lengths` leaves room for two gaps an appearance.
        others = np.full(count - 1, MIN_SECONDS)
        fits = _splits(others, start, after)
    # As many before as the share of room there, as far as they fit.
    wanted = int(rng.binomial(count - 1, start / max(1, num_frames - own)))
    before = min(fits, key=lambda k: abs(k - wanted))
    early = _within(rng, others[:before], 0, start - MIN_GAP)
    late = _within(rng, others[before:], start + own + MIN_GAP, num_frames)
    middle = np.array([[start, start + own]], dtype=np.int64)
    return np.concatenate([early, middle, late]), before


def lengths(rng: np.random.Generator, count: int, num_frames: int) -> NDArray[np.int64]:
    """How long each of `count` appearances lasts, seconds, so that all fit with their gaps."""
    longest = min(MAX_SECONDS, (num_frames - MIN_GAP * (count + 1)) // count)
    return rng.integers(MIN_SECONDS, max(MIN_SECONDS, longest) + 1, size=count)


def change_seconds(num_frames: int) -> range:
    """Seconds at which the whole picture may change."""
    return range(num_frames // 10 + 2, num_frames * 9 // 10)


def stage(
    rng: np.random.Generator,
    casts: Sequence[Cast],
    times: Sequence[NDArray[np.int64]],
    *,
    num_frames: int,
    setting: Setting,
) -> Worlds:
    """Give casts their times, looks and haystacks.

    Args:
        rng: source of chance.
        casts: appearances of each world in order of time.
        times: start and end of each, shape (event, 2) a world.
        num_frames: seconds of each world.
        setting: haystacks.
    """
    batch = len(casts)
    thing = np.full((batch, MAX_EVENTS, SLOTS), -1, dtype=np.int64)
    span = np.full((batch, MAX_EVENTS, 2), num_frames + 1, dtype=np.int64)
    motion = np.zeros((batch, MAX_EVENTS), dtype=np.int64)
    for number, (cast, when) in enumerate(zip(casts, times, strict=True)):
        for event, role in enumerate(cast):
            thing[number, event] = role.drawings
            motion[number, event] = _MOTIONS[role.motion]
        span[number, : len(cast)] = when
    return Worlds(
        num_frames=num_frames,
        thing=thing,
        start=span[..., 0],
        end=span[..., 1],
        motion=motion,
        **looks(rng, thing, motion),
        **scenes(rng, batch, num_frames),
        footage=_footage(rng, batch, setting),
        change=_changes(rng, casts, num_frames),
        grain=(rng.uniform(0, 0.06, batch) * (rng.random(batch) < 0.5)).astype(np.float32),
    )


def _check(num_frames: int) -> None:
    if num_frames < SHORTEST:
        raise RequestError(
            want=f"a world of at least {SHORTEST} seconds",
            got=num_frames,
            do="ask for more frames",
        )


def _splits(lasting: NDArray[np.int64], before: int, after: int) -> list[int]:
    """How many of the appearances may stand in the seconds before, so that the others fit after."""
    return [
        k
        for k in range(len(lasting) + 1)
        if _needs(lasting[:k]) <= before and _needs(lasting[k:]) <= after
    ]


def _needs(lasting: NDArray[np.int64]) -> int:
    """Seconds that appearances take with a gap after each."""
    return int(lasting.sum()) + MIN_GAP * len(lasting)


def _within(
    rng: np.random.Generator, lasting: NDArray[np.int64], first: int, last: int
) -> NDArray[np.int64]:
    """Place appearances between two seconds, in order, with gaps."""
    count = len(lasting)
    if count == 0:
        return np.zeros((0, 2), dtype=np.int64)
    free = last - first - int(lasting.sum()) - MIN_GAP * (count - 1)
    cuts = np.sort(rng.integers(0, max(0, free) + 1, size=count))
    before = np.concatenate([[0], np.cumsum(lasting[:-1] + MIN_GAP)])
    start = first + cuts + before
    return np.stack([start, start + lasting], axis=1)


def _footage(rng: np.random.Generator, batch: int, setting: Setting) -> NDArray[np.float32]:
    if setting.clip is not None:
        clip = np.full(batch, setting.clip)
    elif setting.clips:
        drawn = rng.random(batch) < 0.6
        clip = np.where(drawn, -1, rng.integers(0, setting.clips, batch))
    else:
        clip = np.full(batch, -1)
    rows = [
        clip,
        rng.integers(0, 1000, batch),
        rng.uniform(0.5, 4, batch),
        rng.choice([-1.0, 1.0], batch),
        rng.uniform(1, 2, batch),
    ]
    return np.stack(rows, axis=-1).astype(np.float32)


def _changes(
    rng: np.random.Generator, casts: Sequence[Cast], num_frames: int
) -> NDArray[np.float32]:
    out = np.zeros((len(casts), 2), dtype=np.float32)
    out[:, 1] = np.inf
    for number, cast in enumerate(casts):
        if num_frames < 2 * SHORTEST or rng.random() < 0.6:
            continue
        # Colours name shapes: a picture without colour or light would leave doubt about them.
        kinds = [Change.FRAME, Change.BARS]
        if not any(_is_shape(role) for role in cast):
            kinds += [Change.GREY, Change.DARK]
        kind = kinds[int(rng.integers(len(kinds)))]
        when = change_seconds(num_frames)
        out[number] = _CHANGES[kind], rng.integers(when.start, when.stop)
    return out


def _is_shape(role: Role) -> bool:
    shapes = ids_of(ThingKind.SHAPE)
    return role.thing in shapes or (role.partner is not None and role.partner in shapes)
