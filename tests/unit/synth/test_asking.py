"""Drafts become questions: words, options, times; and the small words that answers are made of."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.unit.synth.stories import event, thing, world
from timeviper.synth.asking import (
    OPTIONS,
    Asking,
    Draft,
    Question,
    absent,
    clock,
    decoy,
    listed,
    never,
    often,
    once,
    others,
    said,
    span_text,
    subject,
    the,
    worded,
)
from timeviper.synth.catalogue import ThingKind, ids_of, kind_of
from timeviper.synth.phrases import PHRASES
from timeviper.synth.tasks import Task

ZOO = world(event("cat", 2, 6), event("dog + number 7", 10, 15), event("cat", 20, 23))


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def put(draft: Draft, how: Asking, task: Task = Task.COUNT, seeds: int = 300) -> list[Question]:
    return [worded(task, draft, rng(seed), how) for seed in range(seeds)]


DRAFT = Draft(
    answer="twice.",
    wrong=("once.", "twice.", "once.", "3 times.", "4 times.", "5 times."),
    words={"the": "the cat", "one": "a cat", "name": "cat"},
    span=(2, 6),
)


def test_the_most_tempting_wrong_answers_are_kept_each_once() -> None:
    for question in put(DRAFT, Asking()):
        assert set(question.options) == {"once.", "twice.", "3 times.", "4 times."}
        assert question.choice == question.answer == "twice."


def test_the_right_option_is_anywhere() -> None:
    places = Counter(q.options.index(q.choice) for q in put(DRAFT, Asking()))
    assert set(places) == set(range(OPTIONS))
    assert min(places.values()) > 45


def test_no_options_without_a_wrong_one() -> None:
    (question,) = put(
        Draft(answer="twice.", wrong=["twice."], words=DRAFT.words), Asking(), seeds=1
    )
    assert (question.options, question.choice) == ((), "")


def test_the_offset_moves_the_times_of_the_question() -> None:
    (question,) = put(DRAFT, Asking(offset=100), seeds=1)
    assert (question.start_seconds, question.end_seconds) == (102.0, 106.0)
    (question,) = put(Draft(answer="twice.", words=DRAFT.words), Asking(offset=100), seeds=1)
    assert (question.start_seconds, question.end_seconds) == (None, None)


def test_plain_questions_are_all_the_first_phrase() -> None:
    assert {q.question for q in put(DRAFT, Asking(paraphrase=False))} == {
        "How many times does the cat appear?"
    }


def test_paraphrases_are_many_and_the_first_phrase_is_most_frequent() -> None:
    counts = Counter(q.question for q in put(DRAFT, Asking(), seeds=600))
    assert counts.most_common(1)[0][0] == "How many times does the cat appear?"
    whole = {phrase.format(the="the cat") for phrase in PHRASES[Task.COUNT]}
    assert whole <= set(counts)
    # Some are typed without a sign at the end, or in small letters.
    assert any(words.islower() for words in counts)
    assert any(words[-1] not in "?." for words in counts)
    small = {words.lower().rstrip("?.") for words in counts}
    assert small == {words.lower().rstrip("?.") for words in whole}


def test_a_subject_is_the_one_wished_for_or_any() -> None:
    assert subject([3, 4], rng(), Asking(about=4)) == 4
    assert {subject([3, 4], rng(s), Asking(about=9)) for s in range(20)} == {3, 4}
    assert {subject([3, 4], rng(s), Asking()) for s in range(20)} == {3, 4}
    assert subject([], rng(), Asking(about=4)) is None


def test_once_is_what_is_shown_once_on_cards_too() -> None:
    assert once(ZOO) == [thing("dog"), thing("number 7")]


def test_what_is_absent_is_of_any_kind_or_of_the_kind_wished_for() -> None:
    kinds = {kind_of(absent(ZOO, rng(seed))) for seed in range(60)}
    assert kinds == set(ThingKind)
    for seed in range(200):
        assert absent(ZOO, rng(seed)) not in ZOO.things
        assert absent(ZOO, rng(seed), like=thing("number 7")) in ids_of(ThingKind.NUMBER)


@pytest.mark.parametrize("among", [[], ["cat"], ["cat", "dog", "owl", "cow", "pizza"]])
def test_others_are_three_that_are_near_before_any_stranger(among: list[str]) -> None:
    near = {thing(name) for name in among} - {thing("cat")}
    for seed in range(50):
        found = others(ZOO, rng(seed), thing("cat"), sorted(near | {thing("cat")}))
        assert len(set(found)) == 3
        assert thing("cat") not in found
        assert len(set(found) & near) == min(3, len(near))
        assert set(found) - near <= set(ids_of(ThingKind.OBJECT))


@pytest.mark.parametrize(("missing", "share"), [(0.0, 0.0), (0.15, 0.53), (0.25, 1.0), (1.0, 0.0)])
def test_decoys_are_as_frequent_as_makes_them_tell_nothing(missing: float, share: float) -> None:
    found = [decoy(rng(seed), Asking(missing=missing)) for seed in range(1000)]
    assert np.mean(found) == pytest.approx(share, abs=0.05)


@pytest.mark.parametrize(
    ("parts", "want"),
    [
        ([], "nothing."),
        (["a cat"], "a cat."),
        (["a cat", "a dog"], "a cat and a dog."),
        (["a cat", "a dog", "an owl"], "a cat, a dog and an owl."),
    ],
)
def test_lists(parts: list[str], want: str) -> None:
    assert listed(parts) == want


@pytest.mark.parametrize(
    ("seconds", "want"),
    [(0, "00:00"), (59, "00:59"), (60, "01:00"), (3723, "62:03"), (15_359, "255:59")],
)
def test_clock(seconds: int, want: str) -> None:
    assert clock(seconds) == want


def test_words_of_answers() -> None:
    assert [often(n) for n in (1, 2, 3, 8)] == ["once", "twice", "3 times", "8 times"]
    assert the(thing("word ember")) == "the word ember."
    assert said(event("dog + number 7", 0, 3)) == "a dog with the number 7."
    assert never(thing("cat")) == "the cat does not appear."
    assert span_text(2, 6, Asking(offset=60)) == "from 01:02 to 01:06."
