"""Questions about all that is shown, on worlds small enough to answer by hand."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.unit.synth.stories import CLEAR, answers, asked, event, none_asked, thing, world
from timeviper.synth.asking import Asking, Question
from timeviper.synth.questions import ask
from timeviper.synth.sample import sample_worlds
from timeviper.synth.tasks import Task
from timeviper.synth.world import World

ZOO = world(
    event("cat", 2, 6),
    event("dog", 10, 15),
    event("cat", 20, 23),
    event("pizza", 30, 36),
)
CARDS = world(event("cat + number 7", 2, 6), event("dog", 10, 15), event("owl + cow", 30, 36))


def test_what_lists_everything_in_order_once() -> None:
    assert answers(ZOO, Task.WHAT) == {
        "What appears in the video?": "a cat, a dog and a pizza.",
    }
    three = world(event("cat + number 7", 2, 6), event("owl", 10, 15))
    assert set(answers(three, Task.WHAT).values()) == {"a cat, the number 7 and an owl."}
    assert set(answers(world(), Task.WHAT).values()) == {"nothing."}
    assert set(answers(world(event("owl", 2, 6)), Task.WHAT).values()) == {"an owl."}


def test_what_knows_the_moment_of_a_single_appearance() -> None:
    (_, question), *_ = asked(world(event("owl", 2, 6)), Task.WHAT)
    assert question is not None
    assert (question.start_seconds, question.end_seconds) == (2, 6)
    (_, question), *_ = asked(ZOO, Task.WHAT)
    assert question is not None
    assert question.start_seconds is None


def test_what_is_not_asked_where_the_list_would_be_long() -> None:
    assert none_asked(CARDS, Task.WHAT)


def test_which_is_first_and_which_is_last() -> None:
    words = {"Which appears first, the cat or the dog?": "the cat."}
    assert answers(ZOO, Task.FIRST, seeds=60).items() >= words.items()
    assert len(answers(ZOO, Task.FIRST, seeds=60)) == 6
    last = answers(ZOO, Task.LAST, seeds=60)
    # The cat comes back after the dog has gone.
    assert last["Which appears last, the cat or the dog?"] == "the cat."
    assert last["Which appears last, the dog or the cat?"] == "the cat."
    assert last["Which appears last, the pizza or the cat?"] == "the pizza."


def test_the_moment_of_a_pair_is_that_of_the_answer() -> None:
    for task, span in ((Task.FIRST, (2, 6)), (Task.LAST, (20, 23))):
        for words, question in asked(ZOO, task, seeds=60):
            if question is not None and "cat" in words and "dog" in words:
                assert (question.start_seconds, question.end_seconds) == span
                assert set(question.options) == {"the cat.", "the dog."}


def test_pairs_need_two_things_that_do_not_begin_together() -> None:
    assert none_asked(world(event("cat + number 7", 2, 6)), Task.FIRST)
    assert none_asked(world(event("cat", 2, 6), event("cat", 9, 12)), Task.LAST)
    assert none_asked(ZOO, Task.FIRST, how=CLEAR) is False
    assert all("cat" not in words for words in answers(ZOO, Task.FIRST, how=CLEAR))


def test_order_of_three_to_five_things() -> None:
    found = answers(ZOO, Task.ORDERING)
    assert set(found.values()) == {"the cat, the dog and the pizza."}
    assert len(found) > 3, "asked in any order"
    many = world(*(event(n, 8 * i, 8 * i + 4) for i, n in enumerate(("cat", "dog", "owl", "cow"))))
    assert {a.count("the ") for a in answers(many, Task.ORDERING).values()} == {3, 4}
    assert none_asked(world(event("cat", 2, 6), event("dog", 10, 15)), Task.ORDERING)
    assert none_asked(ZOO, Task.ORDERING, how=CLEAR), "only two of them appear once"


def test_counts_in_words() -> None:
    found = answers(ZOO, Task.COUNT, seeds=60)
    assert found == {
        "How many times does the cat appear?": "twice.",
        "How many times does the dog appear?": "once.",
        "How many times does the pizza appear?": "once.",
    }
    again = world(*(event("owl", 6 * i, 6 * i + 3) for i in range(5)))
    assert set(answers(again, Task.COUNT).values()) == {"5 times."}


def test_clear_counts_leave_cards_out_and_ask_for_what_comes_back() -> None:
    assert set(answers(ZOO, Task.COUNT, how=CLEAR)) == {"How many times does the cat appear?"}
    assert none_asked(world(event("cat + dog", 3, 9)), Task.COUNT, how=CLEAR)


def test_clear_counts_are_all_as_frequent() -> None:
    rng = np.random.default_rng(0)
    worlds = sample_worlds(rng, 1500, 256)
    counts: Counter[str] = Counter()
    for number in range(1500):
        question = ask(worlds.world(number), Task.COUNT, rng, CLEAR)
        counts.update([question.answer] if question is not None else [])
    assert len(counts) == 8
    assert max(counts.values()) < 2 * min(counts.values())


def test_a_count_of_what_is_missing_says_so() -> None:
    how = Asking(paraphrase=False, missing=1.0)
    for words, question in asked(ZOO, Task.COUNT, how=how):
        assert question is not None
        name = words.removeprefix("How many times does ").removesuffix(" appear?")
        assert question.answer == f"{name} does not appear."
        assert len(question.options) == 4


def test_the_thing_that_is_wished_for_is_counted() -> None:
    how = Asking(paraphrase=False, about=thing("dog"))
    assert answers(ZOO, Task.COUNT, how=how) == {"How many times does the dog appear?": "once."}


def test_what_appears_most_often() -> None:
    assert set(answers(ZOO, Task.MOST_FREQUENT).values()) == {"the cat."}
    assert none_asked(CARDS, Task.MOST_FREQUENT), "nothing comes back"
    draw = world(*(event(n, 6 * i, 6 * i + 3) for i, n in enumerate(("cat", "dog") * 2)))
    assert none_asked(draw, Task.MOST_FREQUENT), "two are as frequent"
    seven = world(event("cat + number 7", 2, 6), event("dog + number 7", 10, 15))
    assert set(answers(seven, Task.MOST_FREQUENT).values()) == {"the number 7."}


def test_yes_and_no_are_as_frequent() -> None:
    found = answers(ZOO, Task.ABSENT, seeds=200)
    assert {words for words, answer in found.items() if answer == "yes."} == {
        f"Does the {name} appear?" for name in ("cat", "dog", "pizza")
    }
    said = [question.answer for _, question in asked(ZOO, Task.ABSENT, seeds=200) if question]
    assert 0.4 < said.count("no.") / 200 < 0.6


def test_captions_tell_every_appearance_with_its_times() -> None:
    assert set(answers(CARDS, Task.DENSE_CAPTION).values()) == {
        "00:02 to 00:06 a cat with the number 7; 00:10 to 00:15 a dog; "
        "00:30 to 00:36 an owl pointing to a cow."
    }
    late = Asking(paraphrase=False, offset=3600)
    assert set(answers(world(event("owl", 2, 6)), Task.DENSE_CAPTION, how=late).values()) == {
        "60:02 to 60:06 an owl."
    }
    crowd = world(*(event("owl", 5 * i, 5 * i + 3) for i in range(11)))
    assert none_asked(crowd, Task.DENSE_CAPTION)
    assert none_asked(world(), Task.DENSE_CAPTION)


def test_a_summary_counts_everything() -> None:
    assert set(answers(ZOO, Task.SUMMARY).values()) == {
        "the cat twice, the dog once and the pizza once."
    }
    assert none_asked(world(), Task.SUMMARY)
    names = ("cat", "dog", "owl", "cow", "pizza", "rocket", "guitar")
    crowd = world(*(event(n, 5 * i, 5 * i + 3) for i, n in enumerate(names)))
    assert none_asked(crowd, Task.SUMMARY)


@pytest.mark.parametrize("task", [Task.ORDERING, Task.COUNT, Task.MOST_FREQUENT])
def test_four_different_options(task: Task) -> None:
    def options(of: World) -> list[Question]:
        return [question for _, question in asked(of, task) if question is not None]

    for question in options(ZOO):
        assert len(set(question.options)) == 4
        assert question.answer == question.choice in question.options
