"""Questions about moments: when, at a time, how something moves, what changes the picture."""

from __future__ import annotations

import numpy as np

from timeviper.synth.asking import (
    Asking,
    Draft,
    absent,
    clock,
    never,
    once,
    said,
    span_text,
    subject,
)
from timeviper.synth.catalogue import things
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


def when(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """From when to when a thing is shown."""
    if how.about is None and rng.random() < how.missing:
        thing = absent(world, rng)
        wrong = _spans(world, rng, how)
        return Draft(answer=never(thing), wrong=wrong, words=_named(thing))
    thing = subject(once(world) if how.clear else list(world.things), rng, how)
    if thing is None:
        return None
    event = world.times_of(thing)[0]
    return Draft(
        answer=span_text(event.start, event.end, how),
        wrong=_spans(world, rng, how),
        words=_named(thing),
        span=(event.start, event.end),
    )


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
        second, answer, span = free, "nothing.", None
    near = [said(e) for e in world.events]
    wrong = [near[int(i)] for i in rng.permutation(len(near))][:4]
    wrong += [f"{things()[absent(world, rng)].one}." for _ in range(3)]
    return Draft(answer=answer, wrong=wrong, words={"time": clock(second + how.offset)}, span=span)


def motion(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """Which way a thing moves."""
    alone = [i for i in once(world) if world.times_of(i)[0].partner is None]
    thing = subject(alone, rng, how)
    if thing is None:
        return None
    event = world.times_of(thing)[0]
    wrong = [MOTIONS[m] for m in Motion if m is not event.motion]
    wrong = [wrong[int(i)] for i in rng.permutation(len(wrong))[:3]]
    answer = MOTIONS[event.motion]
    return Draft(answer=answer, wrong=wrong, words=_named(thing), span=(event.start, event.end))


def change(world: World, rng: np.random.Generator, how: Asking) -> Draft | None:
    """How the whole picture changes, and when."""
    second = world.change_second
    if second is None:
        if how.clear or rng.random() < 0.7:
            return None
        return Draft(answer=UNCHANGED, wrong=[_changed(k, 7, how) for k in CHANGES])
    seconds = [int(rng.integers(0, world.num_frames)) for _ in range(3)]
    rest = [k for k in CHANGES if k is not world.change]
    wrong = [_changed(world.change, seconds[0], how)]
    order = [rest[int(i)] for i in rng.permutation(3)]
    wrong += [_changed(k, s, how) for k, s in zip(order, (second, *seconds[1:]), strict=True)]
    answer = _changed(world.change, second, how)
    return Draft(answer=answer, wrong=wrong, span=(second, world.num_frames))


def _changed(kind: Change, second: int, how: Asking) -> str:
    return f"{CHANGES[kind]} at {clock(second + how.offset)}."


def _named(thing: int) -> dict[str, str]:
    entry = things()[thing]
    return {"the": entry.the, "one": entry.one, "name": entry.name}


def _spans(world: World, rng: np.random.Generator, how: Asking) -> list[str]:
    """Intervals of other appearances, and some of none."""
    near = [span_text(e.start, e.end, how) for e in world.events]
    wrong = [near[int(i)] for i in rng.permutation(len(near))][:4]
    for _ in range(3):
        start = int(rng.integers(0, max(1, world.num_frames - 4)))
        wrong.append(span_text(start, start + int(rng.integers(3, 25)), how))
    return wrong


def _free_second(world: World, rng: np.random.Generator, margin: int) -> int | None:
    """A second when nothing is shown, `margin` seconds from any appearance; None if rare."""
    for _ in range(32):
        second = int(rng.integers(world.num_frames))
        if all(world.at(second + d) is None for d in range(-margin, margin + 1)):
            return second
    return None
