"""Questions about moments: when, at a time, how something moves, what changes the picture."""

from __future__ import annotations

import numpy as np

from timeviper.synth.asking import (
    OPTIONS,
    Asking,
    Draft,
    absent,
    clock,
    decoy,
    named,
    never,
    once,
    said,
    span_text,
    subject,
)
from timeviper.synth.casting import MOVES, SLIDES
from timeviper.synth.catalogue import ThingKind, kind_of, things
from timeviper.synth.sample import SHORTEST, change_seconds, lengths
from timeviper.synth.score import CHANGE_SLACK, MIN_IOU, iou
from timeviper.synth.world import Change, Motion, World

MOTIONS = {
    Motion.STILL: "it stays still.",
    Motion.LEFT: "to the left.",
    Motion.RIGHT: "to the right.",
    Motion.UP: "up.",
    Motion.DOWN: "down.",
    Motion.CLOSER: "closer.",
    Motion.AWAY: "away.",
    Motion.TURNING: "it turns.",
}
CHANGES = {
    Change.GREY: "it turns grey",
    Change.DARK: "it turns dark",
    Change.FRAME: "a frame appears",
    Change.BARS: "black bars appear",
}
UNCHANGED = "nothing changes."
NOTHING = "nothing."
# What a change is mistaken for: the one that is drawn as often, so that neither is a safe guess.
_FELLOW = {
    Change.GREY: Change.DARK,
    Change.DARK: Change.GREY,
    Change.FRAME: Change.BARS,
    Change.BARS: Change.FRAME,
}


def when(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """From when to when a thing is shown."""
    if how.about is None and rng.random() < how.missing:
        thing = absent(world, rng)
        wrong = _spans(world, rng, how, None)
        return Draft(answer=never(thing), wrong=wrong, words=named(thing))
    thing = subject(once(world) if how.clear else list(world.things), rng, how)
    if thing is None:
        return None
    event = world.times_of(thing)[0]
    span = (event.start, event.end)
    wrong = _spans(world, rng, how, span)
    if decoy(rng, how):
        wrong.insert(0, never(thing))
    return Draft(answer=span_text(*span, how), wrong=wrong, words=named(thing), span=span)


def at_time(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """What is on screen at a second."""
    margin = 1 if how.clear else 0
    shown = [e for e in world.events if how.about is None or e.shows(how.about)]
    if shown and (how.about is not None or rng.random() < 0.75):
        event = shown[int(rng.integers(len(shown)))]
        second = int(rng.integers(event.start + margin, event.end - margin))
        answer, span = said(event), (event.start, event.end)
    else:
        free = _free_second(world, rng, margin)
        if free is None:
            return None
        second, answer, span = free, NOTHING, None
    # Always an option, so that its presence does not tell that it is the right one.
    wrong = [NOTHING]
    near = [said(e) for e in world.events]
    wrong += [near[int(i)] for i in rng.permutation(len(near))][:4]
    while len({*wrong, answer}) < OPTIONS:
        wrong.append(f"{things()[absent(world, rng)].one}.")
    return Draft(answer=answer, wrong=wrong, words={"time": clock(second + how.offset)}, span=span)


def motion(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """Which way a thing moves."""
    alone = [i for i in once(world) if world.times_of(i)[0].partner is None]
    thing = subject(alone, rng, how)
    if thing is None:
        return None
    event = world.times_of(thing)[0]
    # What is still is met oftenest: always an option, so that its presence tells nothing.
    moves = SLIDES if kind_of(thing) in (ThingKind.WORD, ThingKind.NUMBER) else MOVES
    others = (Motion.STILL, *(moves[int(i)] for i in rng.permutation(len(moves))))
    wrong = [MOTIONS[m] for m in others if m is not event.motion]
    answer = MOTIONS[event.motion]
    return Draft(answer=answer, wrong=wrong, words=named(thing), span=(event.start, event.end))


def change(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """How the whole picture changes, and when."""
    second = world.change_second
    if second is None:
        if how.clear or rng.random() < 0.7:
            return None
        wrong = [_changed(kind, _elsewhen(world, rng, None), how) for kind in CHANGES]
        return Draft(answer=UNCHANGED, wrong=wrong)
    # Two kinds at two seconds: neither is told by standing in more options than the other.
    other = _elsewhen(world, rng, second)
    pairs = ((world.change, other), (_FELLOW[world.change], second), (_FELLOW[world.change], other))
    return Draft(
        answer=_changed(world.change, second, how),
        wrong=[_changed(kind, s, how) for kind, s in pairs],
        span=(second, world.num_frames),
    )


def _elsewhen(world: World, rng: np.random.Generator, right: int | None) -> int:
    """A second when the picture could have changed, plainly another one than `right`."""
    when = change_seconds(max(world.num_frames, 2 * SHORTEST))
    while True:
        second = int(rng.integers(when.start, when.stop))
        if right is None or abs(second - right) > CHANGE_SLACK:
            return second


def _changed(kind: Change, second: int, how: Asking) -> str:
    return f"{CHANGES[kind]} at {clock(second + how.offset)}."


def _spans(
    world: World, rng: np.random.Generator, how: Asking, right: tuple[int, int] | None
) -> list[str]:
    """Intervals of other appearances, and some of none, that cannot pass for the right one."""
    near = [(e.start, e.end) for e in world.events if (e.start, e.end) != right]
    found = [near[int(i)] for i in rng.permutation(len(near))[: OPTIONS - 1]]
    while len(found) < OPTIONS - 1:
        # As long as appearances of this world are.
        lasting = int(lengths(rng, max(1, len(world.events)), world.num_frames)[0])
        start = int(rng.integers(0, world.num_frames - lasting + 1))
        span = (start, start + lasting)
        if span not in found and (right is None or iou(span, right) < MIN_IOU):
            found.append(span)
    return [span_text(*span, how) for span in found]


def _free_second(world: World, rng: np.random.Generator, margin: int) -> int | None:
    """A second when nothing is shown, `margin` seconds from any appearance; None if rare."""
    for _ in range(32):
        second = int(rng.integers(world.num_frames))
        if all(world.at(second + d) is None for d in range(-margin, margin + 1)):
            return second
    return None
