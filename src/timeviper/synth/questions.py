"""Questions about a world with their exact answers, asked in many ways."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from types import MappingProxyType

import numpy as np

from timeviper.synth import ask_cards, ask_moments, ask_things
from timeviper.synth.asking import Asking, Draft, Question, clock, often, worded
from timeviper.synth.casting import MAX_HOPS, MAX_TIMES
from timeviper.synth.catalogue import things
from timeviper.synth.choices import ASK_TO_CHOOSE, LETTERS
from timeviper.synth.phrases import FILLERS, NO_VIDEO, PHRASES
from timeviper.synth.tasks import Task
from timeviper.synth.world import World

_ASK: MappingProxyType[Task, Callable[[World, np.random.Generator, Asking], Draft | None]] = (
    MappingProxyType(
        {
            Task.WHAT: ask_things.what,
            Task.WHEN: ask_moments.when,
            Task.AT_TIME: ask_moments.at_time,
            Task.FIRST: ask_things.first,
            Task.LAST: ask_things.last,
            Task.ORDERING: ask_things.ordering,
            Task.COUNT: ask_things.count,
            Task.MOST_FREQUENT: ask_things.most_frequent,
            Task.ABSENT: ask_things.exists,
            Task.RETRIEVAL: ask_cards.retrieval,
            Task.MULTI_KEY: ask_cards.multi_key,
            Task.MULTI_VALUE: ask_cards.multi_value,
            Task.READING: ask_cards.reading,
            Task.CHAIN: ask_cards.chain,
            Task.MOTION: ask_moments.motion,
            Task.CHANGE: ask_moments.change,
            Task.DENSE_CAPTION: ask_things.dense_caption,
            Task.SUMMARY: ask_things.summary,
        }
    )
)


def ask(
    world: World, task: Task, rng: np.random.Generator, how: Asking | None = None
) -> Question | None:
    """One question of a task about a world.

    Args:
        world: what happened.
        task: what to ask.
        rng: source of chance.
        how: phrasing and clock.

    Returns:
        The question, or None where this world cannot carry it.
    """
    how = how or Asking()
    draft = _ASK[task](world, rng, how)
    return None if draft is None else worded(task, draft, rng, how)


def texts() -> Iterator[str]:
    """Everything that questions and answers are made of, to train a tokenizer on."""
    entries = things()
    for index, thing in enumerate(entries):
        other = entries[(index * 7 + 3) % len(entries)]
        for phrases in PHRASES.values():
            for phrase in phrases:
                yield phrase.format(
                    the=thing.the,
                    one=thing.one,
                    name=thing.name,
                    other=other.the,
                    list=f"{thing.the}, {other.the} and {thing.the}",
                    time=clock(index * 17 % 3600),
                    kind="word",
                    hops=often(2 + index % (MAX_HOPS - 1)),
                )
        yield f"{thing.one}. {thing.one} with {other.the}. {thing.one} pointing to {other.one}."
        yield f"{thing.the} does not appear."
        yield f"{thing.one}, {thing.the} and {thing.one}."
    for second in range(0, 15000, 7):
        yield f"from {clock(second)} to {clock(second + 11)}."
    for second in range(0, 15000, 97):
        for change in ask_moments.CHANGES.values():
            yield f"{change} at {clock(second)}; {change} at {clock(second)}."
    for times in range(1, MAX_TIMES + 1):
        yield f"{often(times)}. {often(times)}, {often(times)} and {often(times)}"
    for letter in LETTERS:
        yield f"{ASK_TO_CHOOSE} ({letter})"
    yield from ask_moments.MOTIONS.values()
    yield from ("yes.", "no.", "nothing.", ask_moments.UNCHANGED, NO_VIDEO)
    yield from FILLERS
