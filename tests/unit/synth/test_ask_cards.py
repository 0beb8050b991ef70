"""Questions about cards, on worlds small enough to answer by hand."""

from __future__ import annotations

import pytest

from tests.unit.synth.stories import CLEAR, PLAIN, answers, asked, event, none_asked, thing, world
from timeviper.synth.asking import Asking, Question
from timeviper.synth.tasks import Task
from timeviper.synth.world import World

ONE = world(event("cat + number 7", 2, 6), event("dog", 10, 15), event("number 9", 20, 24))
TWO = world(event("cat + number 7", 2, 6), event("dog + number 8", 10, 15))
SHARED = world(
    event("cat + number 7", 2, 6),
    event("dog + number 8", 10, 15),
    event("owl + number 7", 20, 23),
    event("red ring + number 7", 30, 33),
)
PATH = world(
    event("owl + cow", 2, 6),
    event("cat + dog", 10, 15),
    event("dog + owl", 20, 23),
    event("pizza + rocket", 30, 36),
    event("guitar + word ember", 40, 44),
)


def questions(of: World, task: Task, *, seeds: int = 60, how: Asking = PLAIN) -> list[Question]:
    return [q for _, q in asked(of, task, seeds=seeds, how=how) if q is not None]


def test_the_only_number_is_retrieved() -> None:
    assert answers(ONE, Task.RETRIEVAL) == {"What is shown with the number 7?": "the cat."}
    assert none_asked(TWO, Task.RETRIEVAL)
    assert none_asked(world(event("cat", 2, 6)), Task.RETRIEVAL)
    assert all(q.start_seconds == 2 for q in questions(ONE, Task.RETRIEVAL))


def test_one_of_many_numbers_is_the_key() -> None:
    assert answers(TWO, Task.MULTI_KEY) == {
        "What is shown with the number 7?": "the cat.",
        "What is shown with the number 8?": "the dog.",
    }
    assert none_asked(ONE, Task.MULTI_KEY)
    # A number that stands with three things is no key.
    assert set(answers(SHARED, Task.MULTI_KEY)) == {"What is shown with the number 8?"}
    how = Asking(paraphrase=False, about=thing("dog"))
    assert set(answers(TWO, Task.MULTI_KEY, how=how).values()) == {"the dog."}


def test_all_things_of_a_shared_number() -> None:
    assert answers(SHARED, Task.MULTI_VALUE) == {
        "What are all the things shown with the number 7?": "the cat, the owl and the red ring.",
    }
    assert none_asked(TWO, Task.MULTI_VALUE)
    two = world(*SHARED.events, event("pizza + number 8", 40, 44))
    how = Asking(paraphrase=False, about=thing("pizza"))
    assert set(answers(two, Task.MULTI_VALUE, how=how).values()) == {"the dog and the pizza."}
    assert len(answers(two, Task.MULTI_VALUE)) == 2


def test_what_is_written_below() -> None:
    assert answers(PATH, Task.READING) == {
        "Which word is shown with the guitar?": "the word ember."
    }
    assert answers(TWO, Task.READING) == {
        "Which number is shown with the cat?": "the number 7.",
        "Which number is shown with the dog?": "the number 8.",
    }
    # A thing that is also seen alone would have two answers.
    twice = world(event("cat + number 7", 2, 6), event("cat", 10, 15))
    assert none_asked(twice, Task.READING)
    for question in questions(TWO, Task.READING):
        assert all(option.startswith("the number ") for option in question.options)


def test_arrows_are_followed_in_any_order_of_time() -> None:
    found = answers(PATH, Task.CHAIN, seeds=200)
    start = "Start at the cat and follow the arrow"
    assert found[f"{start} once. Where do you end?"] == "the dog."
    assert found[f"{start} twice. Where do you end?"] == "the dog, the owl."
    assert found[f"{start} 3 times. Where do you end?"] == "the dog, the owl, the cow."
    other = "Start at the pizza and follow the arrow once. Where do you end?"
    assert found[other] == "the rocket."
    assert not any("guitar" in words for words in found), "a word is nowhere to go"


def test_the_choice_of_a_chain_is_its_end() -> None:
    for question in questions(PATH, Task.CHAIN):
        assert question.answer.endswith(question.choice)
        assert question.choice in question.options
        start = question.question.removeprefix("Start at ").split(" and ")[0]
        assert f"{start}." not in question.options, "nobody ends where the chain starts"
        assert question.start_seconds is None


def test_every_number_of_hops_is_as_frequent() -> None:
    hops = [q.answer.count("the ") for q in questions(PATH, Task.CHAIN, seeds=300)]
    assert all(0.23 < hops.count(n) / len(hops) < 0.43 for n in (1, 2, 3))
    clear = {q.answer.count("the ") for q in questions(PATH, Task.CHAIN, how=CLEAR)}
    assert clear == {2, 3}


def test_a_chain_needs_arrows() -> None:
    assert none_asked(SHARED, Task.CHAIN)
    assert none_asked(world(event("cat + dog", 2, 6)), Task.CHAIN, how=CLEAR)


@pytest.mark.parametrize("task", [Task.RETRIEVAL, Task.MULTI_KEY])
def test_wrong_figures_are_things_that_could_stand_there(task: Task) -> None:
    of = ONE if task is Task.RETRIEVAL else SHARED
    for question in questions(of, task):
        assert len(set(question.options)) == 4
        assert not any(" number " in o or " word " in o for o in question.options)
    if task is Task.MULTI_KEY:
        near = {"the cat.", "the dog.", "the owl.", "the red ring."}
        assert all(set(q.options) == near for q in questions(of, task)), "all of the world's cards"
