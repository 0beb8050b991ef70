"""Questions about all that is shown: what, in which order, how often, captions, a summary."""

from __future__ import annotations

from itertools import permutations

import numpy as np

from timeviper.synth.asking import (
    Asking,
    Draft,
    absent,
    clock,
    decoy,
    listed,
    named,
    never,
    often,
    once,
    others,
    subject,
    the,
)
from timeviper.synth.casting import MAX_TIMES
from timeviper.synth.catalogue import things
from timeviper.synth.world import Event, World

# Most things that an answer to "what" or a summary lists, and most appearances of a caption.
MAX_LISTED, MAX_SUMMED, MAX_CAPTIONED = 4, 6, 10
CAPTION_JOIN = "; "
# Share of the worlds without anything that comes back in which `clear` counts are asked, measured
# to make "once" as frequent as any other answer.
_ONCE = 1 / 6


def what(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """Everything that appears."""
    del rng, how
    ids = world.things
    if len(ids) > MAX_LISTED:
        return None
    span = (world.events[0].start, world.events[0].end) if len(world.events) == 1 else None
    return Draft(answer=listed([things()[i].one for i in ids]), span=span)


def first(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """Which of two appears first."""
    return _pair(world, rng, how, end=0)


def last(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """Which of two appears last."""
    return _pair(world, rng, how, end=-1)


def ordering(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """The order of three to five things."""
    ids = _separate(world, once(world) if how.clear else list(world.things))
    if len(ids) < 3:
        return None
    count = int(rng.integers(3, min(5, len(ids)) + 1))
    chosen = sorted(rng.choice(len(ids), size=count, replace=False))
    names = [things()[ids[int(i)]].the for i in chosen]
    # The first permutation is the right one.
    shuffles = list(permutations(names))
    wrong = [listed(shuffles[int(i) + 1]) for i in rng.permutation(len(shuffles) - 1)[:3]]
    asked = listed([names[int(i)] for i in rng.permutation(count)])[:-1]
    return Draft(answer=listed(names), wrong=wrong, words={"list": asked})


def count(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """How often a thing appears."""
    thing = _counted_thing(world, rng, how)
    if thing is None:
        return None
    times = len(world.times_of(thing))
    if times > MAX_TIMES:
        return None
    right = never(thing) if times == 0 else f"{often(times)}."
    near = [n for n in range(1, MAX_TIMES + 1) if n != times]
    wrong = [f"{often(near[int(i)])}." for i in rng.permutation(len(near))[:3]]
    if times and decoy(rng, how):
        wrong.insert(0, never(thing))
    return Draft(answer=right, wrong=wrong, words=named(thing))


def most_frequent(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """What appears most often."""
    del how
    totals = sorted(((len(world.times_of(i)), i) for i in world.things), reverse=True)
    if not totals or totals[0][0] < 2 or (len(totals) > 1 and totals[1][0] == totals[0][0]):
        return None
    right = totals[0][1]
    return Draft(answer=the(right), wrong=[the(i) for i in others(world, rng, right, world.things)])


def exists(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """Whether a thing appears."""
    present = rng.random() < 0.5
    if present and not world.events:
        return None
    if not present:
        return Draft(answer="no.", wrong=["yes."], words=named(absent(world, rng)))
    thing = subject(world.things, rng, how)
    if thing is None:
        return None
    event = world.times_of(thing)[0]
    span = (event.start, event.end)
    return Draft(answer="yes.", wrong=["no."], words=named(thing), span=span)


def dense_caption(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """Every appearance with its times."""
    del rng
    if not 1 <= len(world.events) <= MAX_CAPTIONED:
        return None
    return Draft(answer=CAPTION_JOIN.join(_caption(e, how) for e in world.events) + ".")


def summary(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """Every thing and how often it appears."""
    del rng, how
    if not 1 <= len(world.things) <= MAX_SUMMED:
        return None
    parts = [f"{things()[i].the} {often(len(world.times_of(i)))}" for i in world.things]
    return Draft(answer=listed(parts))


def _counted_thing(world: World, rng: np.random.Generator, how: Asking) -> int | None:
    """The thing wished for, one that is missing, or any, each count as often as another."""
    if how.about is not None and how.about in world.things:
        return how.about
    if rng.random() < how.missing:
        return absent(world, rng)
    by_count: dict[int, list[int]] = {}
    for i in world.things if not how.clear else _alone(world):
        by_count.setdefault(len(world.times_of(i)), []).append(i)
    if how.clear and 1 in by_count and (len(by_count) > 1 or rng.random() > _ONCE):
        by_count.pop(1)
    if not by_count:
        return None
    chosen = by_count[int(rng.choice(sorted(by_count)))]
    return chosen[int(rng.integers(len(chosen)))]


def _alone(world: World) -> list[int]:
    """Things that never share a card: numbers of cards would make twice the safest guess."""
    return [i for i in world.things if all(e.partner is None for e in world.times_of(i))]


def _caption(event: Event, how: Asking) -> str:
    start, end = clock(event.start + how.offset), clock(event.end + how.offset)
    return f"{start} to {end} {event.said}"


def _pair(world: World, rng: np.random.Generator, how: Asking, *, end: int) -> Draft | None:
    ids = _separate(world, once(world) if how.clear else list(world.things))
    if len(ids) < 2:
        return None
    pair = [ids[int(i)] for i in rng.choice(len(ids), size=2, replace=False)]
    moments = [world.times_of(i)[end].start for i in pair]
    if moments[0] == moments[1]:
        return None
    # The one asked for is the earlier, or with `end` -1 the later.
    early = moments[0] < moments[1]
    right, wrong = pair if early == (end == 0) else pair[::-1]
    event = world.times_of(right)[end]
    words = {"the": things()[pair[0]].the, "other": things()[pair[1]].the}
    # The question names the only two answers: further options would fool nobody.
    span = (event.start, event.end)
    return Draft(answer=the(right), wrong=[the(wrong)], words=words, span=span)


def _separate(world: World, ids: list[int]) -> list[int]:
    """Of things on one card only one, so that no two begin at the same second."""
    seen: dict[int, int] = {}
    for i in ids:
        seen.setdefault(world.times_of(i)[0].start, i)
    return list(seen.values())
