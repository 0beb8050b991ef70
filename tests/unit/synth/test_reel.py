"""Reels: one question at a length and a depth, the same for ever, or one clear error."""

from __future__ import annotations

from collections import Counter
from dataclasses import fields

import numpy as np
import pytest

from tests.unit.synth.oracle import Watched, expected
from timeviper.core.errors import RequestError
from timeviper.synth.reel import LONGEST, PLACED, SHORTEST, Reel, check_range, sample_reel
from timeviper.synth.score import score
from timeviper.synth.tasks import OPEN, Task
from timeviper.synth.world import Worlds

FRAMES = (16, 64, 256, 1024, 12_288)
DEPTHS = (0.0, 0.37, 0.5, 1.0)


def same(a: Reel, b: Reel) -> bool:
    names = [f.name for f in fields(Worlds) if f.name != "num_frames"]
    arrays = all(np.array_equal(getattr(a.worlds, n), getattr(b.worlds, n)) for n in names)
    return arrays and a.question == b.question and a.depth == b.depth


@pytest.mark.parametrize("task", list(Task))
@pytest.mark.parametrize("frames", FRAMES)
def test_every_task_at_every_length_or_one_clear_error(task: Task, frames: int) -> None:
    if (task, frames) == (Task.ORDERING, 16):
        with pytest.raises(RequestError, match=r"carry ordering.*got 16 frames.*64 frames or more"):
            sample_reel(task, frames=frames, seed=0)
        return
    reel = sample_reel(task, frames=frames, seed=0, depth=0.5)
    world = reel.worlds.world(0)
    assert len(reel.worlds) == 1
    assert (reel.task, reel.frames, world.num_frames) == (task, frames, frames)
    assert reel.question.task is task
    assert reel.question.answer == expected(Watched(world), reel.question)
    assert score(reel.question, reel.question.answer).value == 1
    assert bool(reel.question.options) == (task not in OPEN)


@pytest.mark.parametrize("task", list(Task))
def test_same_arguments_same_reel(task: Task) -> None:
    one, two = (sample_reel(task, frames=64, seed=5, index=3, depth=0.5) for _ in range(2))
    assert same(one, two)
    others = [
        sample_reel(task, frames=64, seed=6, index=3, depth=0.5),
        sample_reel(task, frames=64, seed=5, index=4, depth=0.5),
        sample_reel(task, frames=65, seed=5, index=3, depth=0.5),
        sample_reel(task, frames=64, seed=5, index=3, depth=0.5, haystack=2),
    ]
    assert not any(same(one, other) for other in others)
    assert (one.seed, one.index) == (5, 3)


@pytest.mark.parametrize("task", sorted(PLACED))
@pytest.mark.parametrize("frames", [16, 200, 12_288])
def test_what_is_asked_about_begins_at_the_depth(task: Task, frames: int) -> None:
    for depth in DEPTHS:
        for index in range(5):
            reel = sample_reel(task, frames=frames, seed=1, index=index, depth=depth)
            start, end = reel.question.start_seconds, reel.question.end_seconds
            assert start is not None
            assert end is not None
            assert start == round(depth * (frames - (end - start)))
            assert reel.depth == depth


@pytest.mark.parametrize("task", sorted(set(Task) - PLACED))
def test_tasks_without_a_moment_say_that_they_have_no_depth(task: Task) -> None:
    reel, without = (sample_reel(task, frames=64, seed=2, depth=d) for d in (0.5, None))
    assert reel.depth is None
    assert same(reel, without)


def test_without_a_depth_the_moment_is_anywhere() -> None:
    starts = [
        sample_reel(Task.WHEN, frames=400, seed=3, index=i).question.start_seconds
        for i in range(60)
    ]
    assert min(starts) < 80
    assert max(starts) > 300


def test_counts_of_reels_are_all_as_frequent() -> None:
    reels = [sample_reel(Task.COUNT, frames=256, seed=4, index=i) for i in range(240)]
    counts = Counter(reel.question.answer for reel in reels)
    assert len(counts) == 8
    assert min(counts.values()) > 12


def test_reels_leave_no_doubt_and_ask_plainly() -> None:
    for index in range(20):
        for task in (Task.WHEN, Task.COUNT, Task.CHANGE):
            reel = sample_reel(task, frames=128, seed=5, index=index)
            assert "does not appear" not in reel.question.answer
            assert "nothing changes" not in reel.question.answer
        chain = sample_reel(Task.CHAIN, frames=128, seed=5, index=index).question
        assert chain.answer.count("the ") >= 2


def test_questions_are_paraphrased_where_wished() -> None:
    words = {
        sample_reel(
            Task.CHANGE, frames=64, seed=6, index=i, paraphrase=True
        ).question.question.lower()
        for i in range(30)
    }
    assert len(words) > 4
    plain = {
        sample_reel(Task.CHANGE, frames=64, seed=6, index=i).question.question for i in range(9)
    }
    assert plain == {"How does the whole picture change, and when?"}


@pytest.mark.parametrize("haystack", [-1, 0, 7])
def test_the_haystack_is_the_one_asked_for(haystack: int) -> None:
    reel = sample_reel(Task.RETRIEVAL, frames=64, seed=7, haystack=haystack)
    assert reel.worlds.footage[0, 0] == haystack


@pytest.mark.parametrize(
    ("frames", "depth", "words"),
    [
        (15, None, "16 to 14400 frames; got 15"),
        (14_401, None, "got 14401"),
        (64, -0.1, "a depth from 0 to 1; got -0.1"),
        (64, 1.01, "got 1.01"),
        (64, float("nan"), "got nan"),
    ],
)
def test_what_no_reel_has_is_refused(frames: int, depth: float | None, words: str) -> None:
    with pytest.raises(RequestError, match=words):
        sample_reel(Task.WHEN, frames=frames, seed=0, depth=depth)
    with pytest.raises(RequestError, match=words):
        check_range(frames, depth)


def test_the_ends_of_the_range_are_inside() -> None:
    for frames in (SHORTEST, LONGEST):
        reel = sample_reel(Task.WHEN, frames=frames, seed=0, depth=1.0)
        assert reel.question.end_seconds == frames
