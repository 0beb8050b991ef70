"""Scoring by hand: right answers in anybody's words, wrong ones in none."""

from __future__ import annotations

import pytest

from tests.unit.synth.stories import thing
from timeviper.synth.asking import Question
from timeviper.synth.score import MIN_IOU, Moment, caption_score, captions, iou, score
from timeviper.synth.tasks import Task


def question(
    task: Task, answer: str, *, words: str = "?", span: tuple[float, float] | None = None
) -> Question:
    start, end = span or (None, None)
    return Question(task=task, question=words, answer=answer, start_seconds=start, end_seconds=end)


WHEN = question(Task.WHEN, "from 01:10 to 01:20.", span=(70.0, 80.0))
MISSING = question(Task.WHEN, "the cat does not appear.", words="When does the cat appear?")
AT_TIME = question(Task.AT_TIME, "a fire engine.", words="What is on screen at 00:12?")
CARD = question(Task.AT_TIME, "a cat with the number 7.", words="What is on screen at 00:12?")
NOTHING = question(Task.AT_TIME, "nothing.")
COUNT = question(Task.COUNT, "3 times.", words="How many times does the cat appear?")
NEVER = question(Task.COUNT, "the cat does not appear.")
FIRST = question(Task.FIRST, "the cat.", words="Which appears first, the cat or the dog?")
KEY = question(Task.MULTI_KEY, "the cat.", words="What is shown with the number 7?")
ALL = question(Task.MULTI_VALUE, "the cat and the owl.", words="What is shown with the number 7?")
WORD = question(Task.READING, "the word ember.", words="Which word is shown with the cat?")
NUMBER = question(Task.READING, "the number 42.", words="Which number is shown with the cat?")
CHAIN = question(Task.CHAIN, "the dog, the owl.", words="Start at the cat and follow the arrow.")
ORDER = question(Task.ORDERING, "the cat, the dog and the owl.")
WHAT = question(Task.WHAT, "a cat, a dog and the word ember.")
LEFT = question(Task.MOTION, "to the left.", words="How does the cat move?")
STILL = question(Task.MOTION, "it stays still.", words="How does the cat move?")
GREY = question(Task.CHANGE, "it turns grey at 00:30.", span=(30, 64))
UNCHANGED = question(Task.CHANGE, "nothing changes.")
YES = question(Task.ABSENT, "yes.", words="Does the cat appear?")
NO = question(Task.ABSENT, "no.", words="Does the cat appear?")


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (AT_TIME, "A fire engine"), (AT_TIME, " the  fire engine. "), (AT_TIME, "FIRE ENGINE!"),
        (AT_TIME, "At 00:12, a fire engine is on screen."), (AT_TIME, "fire-engine"),
        (CARD, "a cat with the number 7"), (CARD, "The number 7 stands below a cat."),
        (NOTHING, "Nothing."), (NOTHING, "There is nothing on screen at 00:12."),
        (NOTHING, "No object is visible."),
        (MISSING, "The cat does not appear"), (MISSING, "There is no cat in the video."),
        (MISSING, "It never appears."),
        (COUNT, "three times"), (COUNT, "3"), (COUNT, "The cat appears 3 times."),
        (COUNT, "Three."), (NEVER, "never"), (NEVER, "0 times"), (NEVER, "There is no cat."),
        (FIRST, "cat"), (FIRST, "The cat appears first."), (FIRST, "I think it is the cat."),
        (KEY, "a cat"), (KEY, "The cat is shown with the number 7."),
        (ALL, "the owl and the cat"), (ALL, "Owl, cat."), (ALL, "With number 7: a cat, an owl."),
        (WORD, "ember"), (WORD, "The word is EMBER."), (WORD, "The cat is shown with ember"),
        (NUMBER, "42"), (NUMBER, "number 42."), (NUMBER, "The cat has a 42 below it"),
        (CHAIN, "the owl"), (CHAIN, "From the cat to the dog to the owl."),
        (ORDER, "cat, dog, owl"), (ORDER, "First the cat, then the dog, then the owl."),
        (ORDER, "1. cat\n2. dog\n3. owl"),
        (WHAT, "Ember, a dog and a cat"), (WHAT, "the word ember, a cat, a dog."),
        (LEFT, "left"), (LEFT, "The cat moves to the left side"), (LEFT, "leftwards."),
        (STILL, "It does not move."), (STILL, "it is stationary"),
        (GREY, "it turns grey at 00:30"), (GREY, "At 00:31 the picture becomes black and white."),
        (GREY, "The video is gray from 29 seconds on."),
        (UNCHANGED, "Nothing changes"), (UNCHANGED, "It does not change."),
        (YES, "Yes"), (YES, "Yes, the cat appears."), (NO, "No."), (NO, "No, it does not."),
    ],
)  # fmt: skip
def test_right_answers_in_many_words(asked: Question, text: str) -> None:
    assert score(asked, text).right, text
    assert score(asked, text).value == 1


@pytest.mark.parametrize(
    ("asked", "text"),
    [
        (AT_TIME, ""), (AT_TIME, "a fire"), (AT_TIME, "a cat."), (AT_TIME, "nothing."),
        (AT_TIME, "a fire engine and a cat."), (CARD, "a cat."), (CARD, "a cat with the number 8."),
        (NOTHING, "a cat."), (NOTHING, ""), (NOTHING, "Not a thing but the cat."),
        (MISSING, "from 00:10 to 00:15."), (MISSING, "The cat appears from 00:10 to 00:15."),
        (MISSING, "the cat"), (MISSING, "the dog"),
        (COUNT, "twice"), (COUNT, "the cat"), (COUNT, "3 or 4"), (COUNT, "never"),
        (NEVER, "once."), (NEVER, "the cat appears"),
        (FIRST, "the dog"), (FIRST, "the cat or the dog"), (FIRST, "Both."),
        (KEY, "the dog"), (KEY, "the cat and the dog"), (KEY, "the number 7"),
        (ALL, "the cat"), (ALL, "the cat, the owl and the dog"),
        (WORD, "amber"), (WORD, "the cat"), (WORD, "ember or amber"),
        (NUMBER, "24"), (NUMBER, "4"), (NUMBER, "42 or 43"), (NUMBER, "the cat"),
        (CHAIN, "the dog"), (CHAIN, "the owl, the dog"), (CHAIN, ""),
        (ORDER, "dog, cat, owl"), (ORDER, "the cat and the dog"), (ORDER, "cat, dog, owl, cow"),
        (WHAT, "a cat and a dog"), (WHAT, "a cat, a dog, ember and a pizza"),
        (LEFT, "right"), (LEFT, "it moves"), (LEFT, "up and to the left"), (LEFT, ""),
        (STILL, "to the left."), (GREY, "it turns grey at 00:40."),
        (GREY, "it turns dark at 00:30."), (GREY, "grey"), (GREY, "nothing changes."),
        (GREY, "It turns grey and dark at 00:30."), (UNCHANGED, "it turns grey at 00:30."),
        (UNCHANGED, "it changes"), (YES, "no."), (YES, "maybe"), (YES, ""), (NO, "yes."),
    ],
)  # fmt: skip
def test_wrong_answers(asked: Question, text: str) -> None:
    assert not score(asked, text).right, text
    assert score(asked, text).value == 0


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("from 01:10 to 01:20.", 1.0),
        ("It can be seen between 70 and 80 seconds.", 1.0),
        ("0:01:10 - 0:01:20", 1.0),
        ("from 01:10 to 01:15.", 0.5),
        ("from 01:10 to 01:14.", 0.4),
        ("from 01:00 to 01:30.", 1 / 3),
        ("from 01:15 to 01:25.", 1 / 3),
        ("from 02:00 to 02:10.", 0.0),
        ("from 01:20 to 01:10.", 0.0),
        ("at 01:10.", 0.0),
        ("the cat does not appear.", 0.0),
        ("", 0.0),
    ],
)
def test_when_is_worth_its_overlap(text: str, value: float) -> None:
    got = score(WHEN, text)
    assert got.value == pytest.approx(value)
    assert got.right == (value >= MIN_IOU)


@pytest.mark.parametrize(
    ("a", "b", "want"),
    [
        ((0, 10), (0, 10), 1.0),
        ((0, 10), (5, 15), 1 / 3),
        ((0, 10), (10, 20), 0.0),
        ((5, 5), (0, 10), 0.0),
        ((8, 2), (0, 10), 0.0),
    ],
)
def test_iou(a: tuple[float, float], b: tuple[float, float], want: float) -> None:
    assert iou(a, b) == pytest.approx(want)
    assert iou(b, a) == pytest.approx(want)


CAT, DOG, OWL = (frozenset({thing(name)}) for name in ("cat", "dog", "owl"))
STORY = [Moment(CAT, 2, 6), Moment(DOG, 10, 15), Moment(OWL, 20, 24)]


@pytest.mark.parametrize(
    "text",
    [
        "00:02 to 00:06 a cat; 00:10 to 00:15 a dog; 00:20 to 00:24 an owl.",
        "- [00:02 - 00:06] Cat\n- [00:10 - 00:15] Dog\n- [00:20 - 00:24] Owl",
        "A cat appears from 00:02 to 00:06. A dog is there from 00:10 to 00:15. "
        "From 00:20 to 00:24 there is an owl.",
        "cat: 2s to 6s\ndog: 10s to 15s\nowl: 20s to 24s",
    ],
)
def test_captions_are_read_in_many_layouts(text: str) -> None:
    assert captions(text) == STORY


def test_captions_of_cards_name_both_things() -> None:
    (card,) = captions("00:02 to 00:06 a cat with the number 7.")
    assert card == Moment(frozenset({thing("cat"), thing("number 7")}), 2, 6)
    assert captions("a cat, once; at 00:10 a dog") == []
    (bare,) = captions("00:02 to 00:06 EMBER", bare=True)
    assert bare.things == {thing("word ember")}


@pytest.mark.parametrize(
    ("got", "precision", "recall", "order"),
    [
        (STORY, 1.0, 1.0, 1.0),
        (STORY[:2], 1.0, 2 / 3, 1.0),
        (STORY[::-1], 1.0, 1.0, 0.0),
        ([STORY[1], STORY[0], STORY[2]], 1.0, 1.0, 2 / 3),
        (STORY + STORY, 0.5, 1.0, 1.0),
        ([Moment(CAT, 2, 6), Moment(DOG, 30, 35)], 0.5, 1 / 3, 1.0),
        ([Moment(CAT | DOG, 2, 6)], 0.0, 0.0, 0.0),
        ([Moment(CAT, 4, 8)], 0.0, 0.0, 0.0),
        ([Moment(CAT, 2, 4)], 1.0, 1 / 3, 1.0),
        ([], 0.0, 0.0, 0.0),
    ],
)
def test_caption_scores_by_hand(
    got: list[Moment], precision: float, recall: float, order: float
) -> None:
    found = caption_score(STORY, got)
    assert found.detail == pytest.approx({"precision": precision, "recall": recall, "order": order})
    f1 = 2 * precision * recall / (precision + recall) if precision else 0.0
    assert found.value == pytest.approx(f1)
    assert found.right == (f1 >= 0.5)


def test_the_best_overlap_is_matched_first() -> None:
    want = [Moment(CAT, 0, 10), Moment(CAT, 12, 20)]
    # The first is told too late by a little, which must not take the place of the second.
    got = [Moment(CAT, 12, 20), Moment(CAT, 1, 10)]
    found = caption_score(want, got)
    assert found.value == 1
    assert found.detail["order"] == 0


def test_a_caption_is_scored_from_its_words() -> None:
    asked = question(Task.DENSE_CAPTION, "00:02 to 00:06 a cat; 00:10 to 00:15 the word ember.")
    assert score(asked, asked.answer).value == 1
    assert score(asked, "00:02 to 00:06 a cat\n00:10 to 00:15 EMBER").value == 1
    assert score(asked, "00:02 to 00:06 a cat.").value == pytest.approx(2 / 3)
    assert not score(asked, "a cat and the word ember.").right


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ("the cat twice, the dog once and the word ember 3 times.", 1.0),
        ("Cat: 2 times; dog: 1 time; ember: 3 times", 1.0),
        ("two times a cat, one time a dog, three times the word ember", 1.0),
        ("the cat twice and the dog twice.", 0.4),
        ("the cat twice.", 0.5),
        ("a cat and a dog.", 0.0),
        ("", 0.0),
    ],
)
def test_a_summary_is_worth_its_f1(text: str, value: float) -> None:
    asked = question(Task.SUMMARY, "the cat twice, the dog once and the word ember 3 times.")
    assert score(asked, text).value == pytest.approx(value)
    assert score(asked, text).right == (value >= 0.5)
