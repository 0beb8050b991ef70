"""Every task can be asked, of worlds that carry it; the texts are all that the model will meet."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from timeviper.synth.asking import Asking
from timeviper.synth.catalogue import things
from timeviper.synth.phrases import FILLERS, NO_VIDEO, PHRASES
from timeviper.synth.questions import ask, texts
from timeviper.synth.sample import sample_worlds
from timeviper.synth.tasks import OPEN, Task, chance
from timeviper.synth.world import World


@pytest.fixture(scope="module")
def many() -> list[World]:
    worlds = sample_worlds(np.random.default_rng(0), 256, 256)
    return [worlds.world(number) for number in range(256)]


@pytest.fixture(scope="module")
def corpus() -> list[str]:
    return list(texts())


def test_every_task_is_carried_by_some_worlds(many: list[World]) -> None:
    carried = Counter(
        task
        for world in many
        for task in Task
        if ask(world, task, np.random.default_rng(0)) is not None
    )
    assert set(carried) == set(Task)
    assert min(carried.values()) > 20, "or training would rarely see it"


def test_a_question_is_a_function_of_world_task_and_chance(many: list[World]) -> None:
    for task in Task:
        one, two = (ask(many[3], task, np.random.default_rng(7)) for _ in range(2))
        assert one == two


def test_a_question_says_which_task_it_is(many: list[World]) -> None:
    for world in many[:40]:
        for task in Task:
            question = ask(world, task, np.random.default_rng(0))
            assert question is None or question.task is task


def test_asking_is_plain_unless_something_is_wished(many: list[World]) -> None:
    rngs = (np.random.default_rng(3) for _ in range(2))
    one, two = (
        ask(many[0], Task.ABSENT, rng, how) for rng, how in zip(rngs, (None, Asking()), strict=True)
    )
    assert one == two is not None


def test_asking_is_fast_enough_to_train_on(many: list[World]) -> None:
    rng = np.random.default_rng(0)
    begin = time.process_time()
    for world in many[:100]:
        for task in Task:
            ask(world, task, rng)
    # About 55 us each; the limit leaves room for a busy machine.
    assert (time.process_time() - begin) / (100 * len(Task)) < 500e-6


@pytest.mark.parametrize("task", list(Task))
def test_chance_is_one_of_the_options(task: Task) -> None:
    want = {Task.ABSENT: 0.5, Task.FIRST: 0.5, Task.LAST: 0.5}.get(task, 0.25)
    assert chance(task) == (0 if task in OPEN else want)


def test_texts_hold_every_name_and_every_phrase(corpus: list[str]) -> None:
    whole = "\n".join(corpus)
    assert "{" not in whole
    for thing in things():
        assert thing.one in whole
        assert thing.the in whole
    for phrases in PHRASES.values():
        starts = {phrase.split("{")[0] for phrase in phrases}
        assert all(start in whole for start in starts)
    assert {*FILLERS, NO_VIDEO, "yes.", "no.", "nothing."} <= set(corpus)


def test_texts_hold_every_word_that_answers_are_made_of(
    corpus: list[str], many: list[World]
) -> None:
    known = {word for text in corpus for word in _words(text)}
    for world in many:
        for task in Task:
            question = ask(world, task, np.random.default_rng(1))
            if question is not None:
                for text in (question.answer, question.question, *question.options):
                    assert set(_words(text)) <= known, text


def _words(text: str) -> list[str]:
    """Words in small letters, without signs and times."""
    parts = (part.strip(".,;?:()").lower() for part in text.split())
    return [part for part in parts if part and not part[0].isdigit()]
