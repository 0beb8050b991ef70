"""Who appears in a world: groups of appearances that carry a task, mixed and shuffled."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from types import MappingProxyType

import numpy as np

from timeviper.synth.catalogue import ThingKind, arrow_id, ids_of, kind_of
from timeviper.synth.world import Motion

# Most appearances of one thing.
MAX_TIMES = 8
MAX_HOPS = 4
# How often a thing alone is of each kind.
_KINDS = (ThingKind.OBJECT, ThingKind.SHAPE, ThingKind.WORD, ThingKind.NUMBER)
_SHARES = (0.6, 0.15, 0.17, 0.08)
MOVES = tuple(m for m in Motion if m is not Motion.STILL)
# Text slides; it neither grows nor turns.
SLIDES = (Motion.LEFT, Motion.RIGHT, Motion.UP, Motion.DOWN)


@dataclass(frozen=True, kw_only=True)
class Role:
    """One appearance before it has a time.

    Args:
        thing: catalogue id.
        partner: the second thing of a card.
        motion: how it moves.
    """

    thing: int
    partner: int | None = None
    motion: Motion = Motion.STILL

    @property
    def drawings(self) -> tuple[int, int, int]:
        """Ids of its drawings, as `Worlds.thing` wants them."""
        if self.partner is None:
            return self.thing, -1, -1
        points = kind_of(self.partner) in (ThingKind.OBJECT, ThingKind.SHAPE)
        return self.thing, self.partner, arrow_id() if points else -1


Cast = tuple[Role, ...]


class Pool:
    """Hands out things that this world has not shown yet."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.used: set[int] = set()

    def take(self, *kinds: ThingKind) -> int:
        """A thing of one of these kinds; of any kind, by their shares, where none is named."""
        if not kinds:
            kind = _KINDS[int(self.rng.choice(len(_KINDS), p=_SHARES))]
        else:
            # Objects are what most cards show.
            kind = kinds[0] if len(kinds) == 1 or self.rng.random() < 0.8 else kinds[1]
        ids = ids_of(kind)
        while True:
            thing = int(self.rng.integers(ids.start, ids.stop))
            if thing not in self.used:
                self.used.add(thing)
                return thing

    def figure(self) -> int:
        """An object or a shape."""
        return self.take(ThingKind.OBJECT, ThingKind.SHAPE)

    def alone(self, thing: int) -> Role:
        """A thing alone, which mostly moves."""
        text = kind_of(thing) in (ThingKind.WORD, ThingKind.NUMBER)
        moves = SLIDES if text else MOVES
        if self.rng.random() < 0.3:
            return Role(thing=thing)
        return Role(thing=thing, motion=moves[int(self.rng.integers(len(moves)))])

    def number(self, low: int, high: int) -> int:
        """A whole number from `low` to `high`, both possible; `low` where `high` is below it."""
        return int(self.rng.integers(low, max(low, high) + 1))


def singles(pool: Pool, room: int) -> list[Role]:
    """Different things alone."""
    return [pool.alone(pool.take()) for _ in range(pool.number(1, min(5, room)))]


def repeats(pool: Pool, room: int) -> list[Role]:
    """One thing that comes back, so that every count is asked about."""
    thing = pool.take()
    return [pool.alone(thing) for _ in range(pool.number(1, min(MAX_TIMES, room)))]


def tagged(pool: Pool, room: int) -> list[Role]:
    """Things with different numbers."""
    count = pool.number(1, min(6, room))
    return [Role(thing=pool.figure(), partner=pool.take(ThingKind.NUMBER)) for _ in range(count)]


def one_tagged(pool: Pool, room: int) -> list[Role]:
    """One thing with a number."""
    del room
    return [Role(thing=pool.figure(), partner=pool.take(ThingKind.NUMBER))]


def shared_tag(pool: Pool, room: int) -> list[Role]:
    """Two to four things with the same number, and one or two with others."""
    number = pool.take(ThingKind.NUMBER)
    count = pool.number(2, min(4, room))
    own = [Role(thing=pool.figure(), partner=number) for _ in range(count)]
    others = pool.number(0, min(2, room - count))
    return own + [
        Role(thing=pool.figure(), partner=pool.take(ThingKind.NUMBER)) for _ in range(others)
    ]


def captioned(pool: Pool, room: int) -> list[Role]:
    """Things with words below."""
    count = pool.number(1, min(4, room))
    return [Role(thing=pool.figure(), partner=pool.take(ThingKind.WORD)) for _ in range(count)]


def chain(pool: Pool, room: int) -> list[Role]:
    """Things that point to the next one, and one or two that point elsewhere."""
    hops = pool.number(2, min(MAX_HOPS, room))
    path = [pool.figure() for _ in range(hops + 1)]
    links = [Role(thing=a, partner=b) for a, b in pairwise(path)]
    astray = pool.number(0, min(2, room - hops))
    return links + [Role(thing=pool.figure(), partner=pool.figure()) for _ in range(astray)]


Group = Callable[[Pool, int], list[Role]]

# Groups that a world of the training distribution may hold, how often, and the room that each
# needs at least.
_GROUPS = MappingProxyType(
    {
        repeats: (0.5, 1),
        tagged: (0.35, 1),
        one_tagged: (0.25, 1),
        shared_tag: (0.2, 2),
        captioned: (0.3, 1),
        chain: (0.4, 2),
        singles: (0.6, 1),
    }
)


def any_cast(rng: np.random.Generator, room: int) -> Cast:
    """A cast of the training distribution; two in a hundred are empty.

    Args:
        rng: source of chance.
        room: appearances at most.
    """
    if rng.random() < 0.02:
        return ()
    pool = Pool(rng)
    roles: list[Role] = []
    groups = list(_GROUPS)
    for place in rng.permutation(len(groups)):
        share, needs = _GROUPS[groups[place]]
        left = room - len(roles)
        if left >= needs and rng.random() < share:
            roles += groups[place](pool, left)
    if not roles:
        roles = singles(pool, room)
    return shuffled(rng, roles)


def cast_for(rng: np.random.Generator, group: Group, room: int) -> tuple[Cast, int]:
    """A cast that carries a task, with things alone around it.

    Args:
        rng: source of chance.
        group: what the task needs.
        room: appearances at most.

    Returns:
        The cast, and the thing that the group showed first.
    """
    pool = Pool(rng)
    own = group(pool, room)
    left = room - len(own)
    others = [pool.alone(pool.take()) for _ in range(pool.number(0, min(4, left)))] if left else []
    return shuffled(rng, own + others), own[0].thing


def shuffled(rng: np.random.Generator, roles: list[Role]) -> Cast:
    """In any order."""
    return tuple(roles[int(i)] for i in rng.permutation(len(roles)))
