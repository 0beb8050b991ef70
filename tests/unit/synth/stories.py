"""Worlds written down by hand, for tests of what is asked about them."""

from __future__ import annotations

import numpy as np

from timeviper.synth.asking import Asking, Question
from timeviper.synth.catalogue import things
from timeviper.synth.questions import ask
from timeviper.synth.tasks import Task
from timeviper.synth.world import Change, Event, Motion, World

# Nothing is left to chance but which thing is asked about.
PLAIN = Asking(paraphrase=False, missing=0.0)
CLEAR = Asking(paraphrase=False, missing=0.0, clear=True)


def thing(name: str) -> int:
    """Id by the name that stands after "the"."""
    return next(i for i, entry in enumerate(things()) if entry.name == name)


def event(name: str, start: int, end: int, motion: Motion = Motion.STILL) -> Event:
    """An appearance; "cat + number 7" is a card."""
    first, _, second = name.partition(" + ")
    partner = thing(second) if second else None
    return Event(thing=thing(first), start=start, end=end, partner=partner, motion=motion)


def world(*events: Event, frames: int = 64, change: tuple[Change, int] | None = None) -> World:
    kind, second = change or (Change.NONE, None)
    return World(num_frames=frames, events=events, change=kind, change_second=second)


def asked(
    of: World, task: Task, *, seeds: int = 20, how: Asking = PLAIN
) -> list[tuple[str, Question | None]]:
    """Question words and questions of several seeds."""
    found: list[tuple[str, Question | None]] = []
    for seed in range(seeds):
        question = ask(of, task, np.random.default_rng(seed), how)
        found.append(("" if question is None else question.question, question))
    return found


def answers(of: World, task: Task, *, seeds: int = 20, how: Asking = PLAIN) -> dict[str, str]:
    """Answer of each different question that seeds lead to."""
    return {
        words: question.answer
        for words, question in asked(of, task, seeds=seeds, how=how)
        if question is not None
    }


def none_asked(of: World, task: Task, *, how: Asking = PLAIN) -> bool:
    """Whether the world cannot carry the task, whatever the seed."""
    return all(question is None for _, question in asked(of, task, how=how))
