"""Laws of the drawn worlds: time is told apart, answers follow from it, drawing is per frame."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from timeviper.synth.draw import Painter, atlas_tensor
from timeviper.synth.objects import load_names
from timeviper.synth.questions import Asking, Task, ask, clock
from timeviper.synth.score import iou, right
from timeviper.synth.world import (
    MAX_EVENTS,
    MAX_OBJECTS,
    MAX_SECONDS,
    MAX_TIMES,
    MIN_GAP,
    MIN_SECONDS,
    World,
    sample_world,
    sample_worlds,
)

SEEDS = st.integers(0, 2**31)
LENGTHS = st.integers(8, 1200)
INTERVALS = st.tuples(st.floats(0, 100), st.floats(0, 100))


def worlds_of(seed: int, num_frames: int) -> list[World]:
    worlds = sample_worlds(np.random.default_rng(seed), 8, num_frames)
    return [worlds.world(number) for number in range(8)]


@given(SEEDS, LENGTHS)
def test_appearances_are_ordered_apart_and_inside(seed: int, num_frames: int) -> None:
    for world in worlds_of(seed, num_frames):
        events = world.events
        assert all(0 <= e.start < e.end <= num_frames for e in events)
        assert all(MIN_SECONDS <= e.end - e.start <= MAX_SECONDS for e in events)
        for one, two in pairwise(events):
            assert two.start - one.end >= MIN_GAP


@given(SEEDS, LENGTHS)
def test_numbers_of_things_keep_their_bounds(seed: int, num_frames: int) -> None:
    for world in worlds_of(seed, num_frames):
        assert len(world.events) <= MAX_EVENTS
        assert len(world.object_ids) <= MAX_OBJECTS
        assert all(1 <= len(world.times_of(i)) <= MAX_TIMES for i in world.object_ids)
        assert all(0 <= i < len(load_names()) for i in world.object_ids)


@given(SEEDS, LENGTHS)
def test_at_most_one_thing_is_on_screen(seed: int, num_frames: int) -> None:
    for world in worlds_of(seed, num_frames)[:2]:
        for second in range(num_frames):
            showing = [e for e in world.events if e.start <= second < e.end]
            assert len(showing) <= 1
            assert world.at(second) == (showing[0] if showing else None)


@given(SEEDS, st.integers(0, 10**6), LENGTHS)
def test_a_world_is_a_function_of_its_arguments(seed: int, index: int, num_frames: int) -> None:
    one, two = sample_world(seed, index, num_frames), sample_world(seed, index, num_frames)
    assert one.world(0) == two.world(0)
    np.testing.assert_array_equal(one.blobs, two.blobs)


@given(SEEDS, st.sampled_from(list(Task)), st.booleans(), st.booleans())
def test_the_exact_answer_is_right_and_the_others_are_wrong(
    seed: int, task: Task, paraphrase: bool, clear: bool
) -> None:
    rng = np.random.default_rng(seed)
    how = Asking(paraphrase=paraphrase, clear=clear)
    for world in worlds_of(seed, 96):
        question = ask(world, task, rng, how)
        if question is None:
            continue
        span = (question.start_seconds, question.end_seconds)
        assert right(question, question.answer, *span)
        timed = task is Task.WHEN and question.start_seconds is not None
        for other in question.options:
            if other != question.answer and not timed:
                assert not right(question, other, *span)


@given(SEEDS, st.integers(0, 9000))
def test_spans_of_questions_are_moments_of_the_world(seed: int, offset: int) -> None:
    rng = np.random.default_rng(seed)
    for world in worlds_of(seed, 128):
        moments = {(e.start + offset, e.end + offset) for e in world.events}
        for task in Task:
            question = ask(world, task, rng, Asking(offset=offset))
            if question is not None and question.start_seconds is not None:
                assert (question.start_seconds, question.end_seconds) in moments


@given(st.integers(0, 11_999))
def test_clocks_can_be_read_back(seconds: int) -> None:
    minutes, rest = clock(seconds).split(":")
    assert 60 * int(minutes) + int(rest) == seconds
    assert len(minutes) >= 2
    assert len(rest) == 2


@given(INTERVALS, INTERVALS)
def test_overlap_is_symmetric_bounded_and_full_only_for_the_same(
    a: tuple[float, float], b: tuple[float, float]
) -> None:
    one, two = (min(a), max(a)), (min(b), max(b))
    assert iou(one, two) == iou(two, one)
    assert 0 <= iou(one, two) <= 1
    if one[1] > one[0]:
        assert iou(one, one) == 1
        assert iou(one, two) < 1 or one == two


@settings(max_examples=10)
@given(SEEDS, st.permutations(range(12)))
def test_frames_are_drawn_each_for_itself(seed: int, order: list[int]) -> None:
    worlds = sample_worlds(np.random.default_rng(seed), 3, 32)
    painter = Painter.of(worlds, atlas_tensor(24))
    number = torch.arange(12) % 3
    seconds = torch.from_numpy(np.random.default_rng(seed).uniform(0, 31, 12)).float()
    straight = painter.draw(number, seconds, height=24, width=32)
    shuffled = painter.draw(number[order], seconds[order], height=24, width=32)
    torch.testing.assert_close(shuffled, straight[order], rtol=1e-5, atol=1e-6)
