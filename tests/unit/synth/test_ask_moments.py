"""Questions about moments, on worlds small enough to answer by hand."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.unit.synth.stories import CLEAR, PLAIN, answers, asked, event, none_asked, thing, world
from timeviper.synth.ask_moments import CHANGES, MOTIONS, UNCHANGED
from timeviper.synth.asking import Asking, Question
from timeviper.synth.score import CHANGE_SLACK, iou, seconds_in
from timeviper.synth.tasks import Task
from timeviper.synth.world import Change, Motion, World

ZOO = world(event("cat", 2, 6), event("dog", 10, 15), event("cat", 20, 23), event("owl", 30, 36))


def questions(of: World, task: Task, *, seeds: int = 60, how: Asking = PLAIN) -> list[Question]:
    return [q for _, q in asked(of, task, seeds=seeds, how=how) if q is not None]


def test_when_tells_the_first_appearance() -> None:
    assert answers(ZOO, Task.WHEN, seeds=60) == {
        "When does the cat appear?": "from 00:02 to 00:06.",
        "When does the dog appear?": "from 00:10 to 00:15.",
        "When does the owl appear?": "from 00:30 to 00:36.",
    }
    clear = answers(ZOO, Task.WHEN, seeds=60, how=CLEAR)
    assert "When does the cat appear?" not in clear
    assert len(clear) == 2


def test_the_clock_of_the_answer_starts_where_the_video_does() -> None:
    how = Asking(paraphrase=False, missing=0.0, offset=9000, about=thing("owl"))
    (question, *_) = questions(ZOO, Task.WHEN, how=how)
    assert question.answer == "from 150:30 to 150:36."
    assert (question.start_seconds, question.end_seconds) == (9030, 9036)
    asked_at = questions(ZOO, Task.AT_TIME, how=how)
    seconds = {q.question.removeprefix("What is on screen at ").rstrip("?") for q in asked_at}
    assert seconds == {f"150:{s}" for s in range(30, 36)}


def test_wrong_spans_cannot_pass_for_the_right_one() -> None:
    for question in questions(ZOO, Task.WHEN):
        assert question.start_seconds is not None
        assert question.end_seconds is not None
        right = (question.start_seconds, question.end_seconds)
        for option in question.options:
            start, end = seconds_in(option)
            assert 0 <= start < end <= 64
            assert (iou((start, end), right) >= 0.5) == (option == question.answer)


def test_when_of_what_is_missing() -> None:
    how = Asking(paraphrase=False, missing=1.0)
    for question in questions(ZOO, Task.WHEN, how=how):
        name = question.question.removeprefix("When does ").removesuffix(" appear?")
        assert question.answer == f"{name} does not appear."
        assert name not in ("the cat", "the dog", "the owl")
        assert question.start_seconds is None
    assert none_asked(world(), Task.WHEN)
    assert questions(world(), Task.WHEN, how=how), "nothing is missing more than in no world"


@pytest.mark.parametrize("task", [Task.WHEN, Task.COUNT])
def test_that_something_is_missing_is_an_option_without_being_right(task: Task) -> None:
    how = Asking(paraphrase=False, missing=0.15)
    told = [q for q in questions(ZOO, task, seeds=600, how=how) if "not appear" in str(q.options)]
    right = sum("not appear" in q.answer for q in told)
    assert 0.17 < right / len(told) < 0.33, "right one time in four, as every option"
    assert not any("not appear" in str(q.options) for q in questions(ZOO, task))


def test_at_a_time_names_what_is_there() -> None:
    found = answers(ZOO, Task.AT_TIME, seeds=300)
    assert found["What is on screen at 00:02?"] == "a cat."
    assert found["What is on screen at 00:05?"] == "a cat."
    assert found["What is on screen at 00:14?"] == "a dog."
    assert {a for words, a in found.items() if words[-4:-1] in (":06", ":15", ":01")} == {
        "nothing."
    }
    card = world(event("cat + number 7", 2, 60))
    assert "a cat with the number 7." in answers(card, Task.AT_TIME).values()


def test_clear_moments_are_a_second_from_any_change() -> None:
    found = answers(ZOO, Task.AT_TIME, seeds=300, how=CLEAR)
    seconds = {seconds_in(words)[0]: answer for words, answer in found.items()}
    for start, end in ((2, 6), (10, 15), (20, 23), (30, 36)):
        for edge in (start - 1, start, end - 1, end):
            assert edge not in seconds
    assert seconds[21] == "a cat."
    assert seconds[50] == "nothing."


def test_nothing_is_always_an_option_at_a_time() -> None:
    found = questions(ZOO, Task.AT_TIME, seeds=400)
    assert all("nothing." in q.options for q in found)
    assert 0.18 < sum(q.answer == "nothing." for q in found) / len(found) < 0.32
    assert all(q.start_seconds is None for q in found if q.answer == "nothing.")


def test_a_full_world_is_asked_about_what_it_shows() -> None:
    full = world(event("cat", 0, 16), frames=16)
    assert set(answers(full, Task.AT_TIME).values()) == {"a cat."}
    assert {q.answer for q in questions(world(frames=16), Task.AT_TIME)} == {"nothing."}


@pytest.mark.parametrize("motion", list(Motion))
def test_every_motion_has_its_words(motion: Motion) -> None:
    moving = world(event("cat", 2, 6, motion))
    for question in questions(moving, Task.MOTION, seeds=20):
        assert question.question == "How does the cat move?"
        assert question.answer == MOTIONS[motion]
        assert len(question.options) == 4
        assert MOTIONS[Motion.STILL] in question.options
        assert (question.start_seconds, question.end_seconds) == (2, 6)
    seen = {o for q in questions(moving, Task.MOTION, seeds=60) for o in q.options}
    assert seen == set(MOTIONS.values())


def test_text_is_not_said_to_turn() -> None:
    moving = world(event("word ember", 2, 6, Motion.UP))
    seen = {o for q in questions(moving, Task.MOTION) for o in q.options}
    slides = (Motion.STILL, Motion.LEFT, Motion.RIGHT, Motion.UP, Motion.DOWN)
    assert seen == {MOTIONS[m] for m in slides}


def test_motion_is_asked_of_what_is_alone_and_once() -> None:
    assert set(answers(ZOO, Task.MOTION, seeds=60)) == {
        "How does the dog move?",
        "How does the owl move?",
    }
    assert none_asked(world(event("cat + number 7", 2, 6)), Task.MOTION)


@pytest.mark.parametrize("kind", list(CHANGES))
def test_a_change_is_told_with_its_second(kind: Change) -> None:
    changed = world(event("cat", 2, 6), change=(kind, 40))
    for question in questions(changed, Task.CHANGE):
        assert question.answer == f"{CHANGES[kind]} at 00:40."
        assert (question.start_seconds, question.end_seconds) == (40, 64)
        times = Counter(seconds_in(option)[0] for option in question.options)
        kinds = Counter(option.split(" at ")[0] for option in question.options)
        assert list(times.values()) == list(kinds.values()) == [2, 2], "two kinds at two seconds"
        assert min(abs(t - 40) for t in times if t != 40) > CHANGE_SLACK


def test_no_change_is_an_answer_where_doubt_is_allowed() -> None:
    found = questions(ZOO, Task.CHANGE)
    assert {q.answer for q in found} == {UNCHANGED}
    assert 5 < len(found) < 35, "not every time"
    assert all(len(q.options) == 4 and q.start_seconds is None for q in found)
    assert none_asked(ZOO, Task.CHANGE, how=CLEAR)
    assert questions(world(frames=8), Task.CHANGE), "in the shortest world too"
