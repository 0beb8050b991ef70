"""One question of a benchmark with its world: a task, a length, a depth, a seed."""

from __future__ import annotations

from dataclasses import dataclass
from types import MappingProxyType

import numpy as np

from timeviper.core.errors import RequestError
from timeviper.core.seeding import stream
from timeviper.synth.asking import Asking, Question
from timeviper.synth.casting import (
    Cast,
    Group,
    any_cast,
    captioned,
    cast_for,
    chain,
    one_tagged,
    repeats,
    shared_tag,
    singles,
    tagged,
)
from timeviper.synth.questions import ask
from timeviper.synth.sample import Setting, room, spread, spread_around, stage
from timeviper.synth.tasks import Task
from timeviper.synth.world import Worlds

SHORTEST, LONGEST = 16, 14_400
# Casts tried before saying that a length cannot carry a task.
_TRIES = 200

# What a world must hold for a task; others are found in any world.
_GROUPS: MappingProxyType[Task, Group] = MappingProxyType(
    {
        Task.RETRIEVAL: one_tagged,
        Task.MULTI_KEY: tagged,
        Task.MULTI_VALUE: shared_tag,
        Task.READING: captioned,
        Task.CHAIN: chain,
        Task.COUNT: repeats,
        Task.MOST_FREQUENT: repeats,
        Task.MOTION: singles,
        Task.WHEN: singles,
        Task.AT_TIME: singles,
        Task.FIRST: singles,
        Task.LAST: singles,
        Task.ORDERING: singles,
        Task.WHAT: singles,
        Task.SUMMARY: repeats,
    }
)
# Tasks about one appearance, which can be put at a depth.
PLACED = frozenset(
    {Task.RETRIEVAL, Task.MULTI_KEY, Task.READING, Task.MOTION, Task.WHEN, Task.AT_TIME}
)
# Tasks that ask about what their group shows first, so that counts are even and depths are met.
_ABOUT_FIRST = PLACED | {Task.COUNT, Task.MULTI_VALUE}


@dataclass(frozen=True, kw_only=True, eq=False)
class Reel:
    """One world and one question about it.

    Args:
        worlds: the world, alone in its batch.
        question: what is asked.
        task: kind of question.
        frames: seconds of the world.
        depth: where the appearance asked about begins, 0 to 1; None where no one moment answers.
        seed: of the benchmark.
        index: number within the seed.
    """

    worlds: Worlds
    question: Question
    task: Task
    frames: int
    depth: float | None
    seed: int
    index: int


def sample_reel(  # noqa: PLR0913
    task: Task,
    *,
    frames: int,
    seed: int,
    index: int = 0,
    depth: float | None = None,
    haystack: int = -1,
    paraphrase: bool = False,
) -> Reel:
    """Find a world that carries a task, and ask it.

    Args:
        task: what to ask.
        frames: seconds of the world, `SHORTEST` to `LONGEST`.
        seed: of the benchmark.
        index: number within the seed; both with the task, length and depth decide everything.
        depth: where the appearance asked about begins, 0 to 1, for tasks in `PLACED`; None for
            anywhere.
        haystack: footage clip, or -1 for drawn backgrounds.
        paraphrase: ask in any phrasing rather than the plainest.

    Raises:
        RequestError: a length or depth out of range, or one that cannot carry the task.
    """
    check_range(frames, depth)
    placed = depth if task in PLACED else None
    rng = stream(seed, "reel", task.value, frames, index, str(placed), haystack)
    for _ in range(_TRIES):
        cast, about = _cast(task, rng, room(frames))
        if placed is None:
            times = spread(rng, len(cast), frames)
        else:
            times, at = spread_around(rng, len(cast), frames, placed)
            cast = _moved(cast, about, at)
        worlds = stage(rng, [cast], [times], num_frames=frames, setting=Setting(clip=haystack))
        how = Asking(
            paraphrase=paraphrase,
            missing=0.0,
            clear=True,
            about=about if task in _ABOUT_FIRST else None,
        )
        question = ask(worlds.world(0), task, rng, how)
        if question is not None:
            return Reel(
                worlds=worlds, question=question, task=task, frames=frames, depth=placed,
                seed=seed, index=index,
            )  # fmt: skip
    raise RequestError(
        want=f"a length that can carry {task.value}",
        got=f"{frames} frames",
        do="ask for 64 frames or more",
    )


def _cast(task: Task, rng: np.random.Generator, space: int) -> tuple[Cast, int | None]:
    group = _GROUPS.get(task)
    if group is None:
        return any_cast(rng, space), None
    return cast_for(rng, group, space)


def _moved(cast: Cast, about: int | None, place: int) -> Cast:
    """The same cast with what is asked about at a place in the order."""
    own = next(i for i, role in enumerate(cast) if role.thing == about)
    rest = [role for i, role in enumerate(cast) if i != own]
    return (*rest[:place], cast[own], *rest[place:])


def check_range(frames: int, depth: float | None = None) -> None:
    """Refuse lengths and depths that no reel has.

    Raises:
        RequestError: one out of range.
    """
    if not SHORTEST <= frames <= LONGEST:
        raise RequestError(
            want=f"{SHORTEST} to {LONGEST} frames", got=frames, do="choose a length in that range"
        )
    if depth is not None and not 0 <= depth <= 1:
        raise RequestError(want="a depth from 0 to 1", got=depth, do="0 is the start, 1 the end")
