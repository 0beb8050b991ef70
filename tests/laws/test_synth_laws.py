"""Laws of the drawn worlds: time is told apart, answers follow from it, drawing is per frame."""

from __future__ import annotations

from dataclasses import fields
from itertools import pairwise

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.synth.oracle import Watched, expected
from tests.unit.synth.toys import sample_world
from timeviper.synth.asking import OPTIONS, Asking, Question, clock
from timeviper.synth.casting import MAX_TIMES
from timeviper.synth.catalogue import things
from timeviper.synth.choices import as_choices, choice_answer, chosen, rotated
from timeviper.synth.draw import Painter, atlas_tensor
from timeviper.synth.questions import ask
from timeviper.synth.sample import (
    MAX_SECONDS,
    MIN_GAP,
    MIN_SECONDS,
    SHORTEST,
    lengths,
    room,
    sample_worlds,
    spread,
    spread_around,
)
from timeviper.synth.score import iou, score
from timeviper.synth.tasks import OPEN, Task, chance
from timeviper.synth.world import MAX_EVENTS, World

SEEDS = st.integers(0, 2**31)
LENGTHS = st.integers(SHORTEST, 2000) | st.integers(SHORTEST, 15_000)
# Hundredths of a second: nobody tells less.
MOMENTS = st.integers(0, 10_000).map(lambda hundredths: hundredths / 100)
INTERVALS = st.tuples(MOMENTS, MOMENTS)
OFFSETS = st.integers(0, 12_000)


def worlds_of(seed: int, num_frames: int, batch: int = 8) -> list[World]:
    worlds = sample_worlds(np.random.default_rng(seed), batch, num_frames)
    return [worlds.world(number) for number in range(batch)]


def asked_of(seed: int, how: Asking, *tasks: Task) -> list[tuple[World, Question]]:
    rng = np.random.default_rng(seed)
    found: list[tuple[World, Question]] = []
    for world in worlds_of(seed, int(rng.integers(SHORTEST, 400))):
        for task in tasks or Task:
            question = ask(world, task, rng, how)
            found += [(world, question)] if question is not None else []
    return found


def apart(times: np.ndarray, num_frames: int) -> bool:
    inside = times.size == 0 or (times.min() >= 0 and times.max() <= num_frames)
    lasting = times[:, 1] - times[:, 0]
    long_enough = bool((lasting >= MIN_SECONDS).all() and (lasting <= MAX_SECONDS).all())
    return inside and long_enough and bool((times[1:, 0] - times[:-1, 1] >= MIN_GAP).all())


@given(SEEDS, LENGTHS)
def test_appearances_are_ordered_apart_and_inside(seed: int, num_frames: int) -> None:
    for world in worlds_of(seed, num_frames, batch=4):
        assert len(world.events) <= room(num_frames) <= MAX_EVENTS
        assert all(0 <= e.start < e.end <= num_frames for e in world.events)
        assert all(MIN_SECONDS <= e.end - e.start <= MAX_SECONDS for e in world.events)
        assert all(two.start - one.end >= MIN_GAP for one, two in pairwise(world.events))


@given(SEEDS, LENGTHS, st.data())
def test_as_many_as_there_is_room_for_find_their_times(
    seed: int, num_frames: int, data: st.DataObject
) -> None:
    count = data.draw(st.integers(0, room(num_frames)))
    times = spread(np.random.default_rng(seed), count, num_frames)
    assert times.shape == (count, 2)
    assert apart(times, num_frames)


@given(SEEDS, LENGTHS, st.floats(0, 1), st.data())
def test_one_appearance_begins_where_the_depth_says(
    seed: int, num_frames: int, depth: float, data: st.DataObject
) -> None:
    count = data.draw(st.integers(1, room(num_frames)))
    times, place = spread_around(np.random.default_rng(seed), count, num_frames, depth)
    assert times.shape == (count, 2)
    assert apart(times, num_frames)
    own = int(lengths(np.random.default_rng(seed), count, num_frames)[0])
    assert tuple(times[place]) == (
        round(depth * (num_frames - own)),
        round(depth * (num_frames - own)) + own,
    )


@given(SEEDS, LENGTHS)
def test_things_of_a_world_keep_their_bounds(seed: int, num_frames: int) -> None:
    for world in worlds_of(seed, num_frames, batch=4):
        assert len(set(world.things)) == len(world.things)
        assert all(0 <= i < len(things()) for i in world.things)
        assert all(1 <= len(world.times_of(i)) <= MAX_TIMES for i in world.things)
        for event in world.events:
            assert event.partner != event.thing


@given(SEEDS, st.integers(SHORTEST, 600))
def test_at_most_one_appearance_is_on_screen(seed: int, num_frames: int) -> None:
    (world,) = worlds_of(seed, num_frames, batch=1)
    for second in range(num_frames):
        showing = [e for e in world.events if e.start <= second < e.end]
        assert len(showing) <= 1
        assert world.at(second) == (showing[0] if showing else None)


@given(SEEDS, st.integers(0, 10**6), LENGTHS)
def test_a_world_is_a_function_of_its_arguments(seed: int, index: int, num_frames: int) -> None:
    one, two = sample_world(seed, index, num_frames), sample_world(seed, index, num_frames)
    assert one.world(0) == two.world(0)
    for field in fields(one):
        np.testing.assert_array_equal(getattr(one, field.name), getattr(two, field.name))


@settings(max_examples=60)
@given(SEEDS, st.booleans(), OFFSETS)
def test_answers_are_what_somebody_sees_who_watches(seed: int, clear: bool, offset: int) -> None:
    how = Asking(paraphrase=False, clear=clear, offset=offset)
    for world, question in asked_of(seed, how):
        assert question.answer == expected(Watched(world, offset), question)


@given(SEEDS, st.booleans(), st.booleans())
def test_the_exact_answer_is_right_and_every_other_option_wrong(
    seed: int, paraphrase: bool, clear: bool
) -> None:
    for _, question in asked_of(seed, Asking(paraphrase=paraphrase, clear=clear)):
        assert score(question, question.answer).right
        assert score(question, question.answer).value == 1
        for option in question.options:
            assert score(question, option).right == (option == question.choice), option


@given(SEEDS, st.booleans())
def test_options_are_distinct_complete_and_hold_the_right_one(seed: int, clear: bool) -> None:
    for _, question in asked_of(seed, Asking(clear=clear)):
        if question.task in OPEN:
            assert question.options == ()
            assert question.choice == ""
            continue
        assert question.choice in question.options
        assert len(set(question.options)) == len(question.options) == 1 / chance(question.task)
        if question.task is not Task.CHAIN:
            assert question.choice == question.answer


@given(SEEDS, st.integers(0, 9))
def test_turning_the_options_turns_the_letter_and_nothing_else(seed: int, rotation: int) -> None:
    for _, question in asked_of(seed, Asking()):
        if not question.options:
            continue
        options = rotated(question, rotation)
        assert sorted(options) == sorted(question.options)
        place = options.index(question.choice)
        shown = as_choices(question, rotation)
        assert f"({'ABCD'[place]}) {question.choice}" in shown
        assert shown.startswith(question.question.rstrip())
        for text in (choice_answer(question, rotation), question.choice, question.answer):
            assert chosen(text, options) == place


@given(SEEDS)
def test_every_option_is_chosen_by_its_words_and_by_its_letter(seed: int) -> None:
    for _, question in asked_of(seed, Asking()):
        for place, option in enumerate(question.options):
            for text in (option, f"I would say {option}", f"({'ABCD'[place]})", "ABCD"[place]):
                assert chosen(text, question.options) == place, text


JUNK = st.text() | st.text("0123456789:. \n-,;()ABCD٣²atonceimsyx", max_size=80)


@settings(max_examples=60)
@given(SEEDS, JUNK)
def test_no_answer_breaks_a_score_or_a_choice(seed: int, text: str) -> None:
    for _, question in asked_of(seed % 50, Asking(paraphrase=False)):
        got = score(question, text)
        assert 0 <= got.value <= 1
        assert got.right == (got.value >= 0.5)
        place = chosen(text, question.options)
        assert place is None or 0 <= place < len(question.options)


@pytest.mark.parametrize("piece", ["1", "1 ", "1:", "is ", "a cat, ", "1 to 1 s", "1m1", "once ;"])
def test_long_junk_takes_no_long_time(piece: str) -> None:
    # A regular expression that backtracks would hang here until the test's time limit.
    for _, question in asked_of(3, Asking(paraphrase=False))[:18]:
        score(question, piece * 3000)
        chosen(piece * 3000, question.options)


@given(SEEDS, OFFSETS)
def test_spans_of_questions_are_moments_of_the_world(seed: int, offset: int) -> None:
    for world, question in asked_of(seed, Asking(offset=offset)):
        moments = {(e.start + offset, e.end + offset) for e in world.events}
        if world.change_second is not None:
            moments.add((world.change_second + offset, world.num_frames + offset))
        if question.start_seconds is not None:
            assert (question.start_seconds, question.end_seconds) in moments
        else:
            assert question.end_seconds is None


@pytest.mark.parametrize("task", list(Task))
def test_clear_questions_ask_about_what_appears_once(task: Task) -> None:
    once_only = (Task.WHEN, Task.FIRST, Task.LAST, Task.MOTION, Task.READING)
    for seed in range(12):
        how = Asking(clear=True, missing=0.0, paraphrase=False)
        for world, question in asked_of(seed, how, task):
            if task in once_only:
                watched = Watched(world)
                words, ends = question.question, (" appear?", " or the ", " move?", "?")
                named = [n for n in watched.names if any(f"the {n}{e}" in words for e in ends)]
                assert named
                assert all(len(watched.runs(name)) == 1 for name in named), words
            if task is Task.AT_TIME:
                second = Watched(world).second(question.question[-6:-1])
                assert world.at(second - 1) == world.at(second) == world.at(second + 1)
            if task is Task.CHAIN:
                assert question.answer.count("the ") >= 2


@given(st.integers(0, 15_359))
def test_clocks_can_be_read_back(seconds: int) -> None:
    minutes, rest = clock(seconds).split(":")
    assert 60 * int(minutes) + int(rest) == seconds
    assert len(minutes) == 2 + (seconds >= 6000)
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


def test_every_task_has_three_wrong_options_or_its_own_number() -> None:
    assert {1 / chance(task) for task in Task if task not in OPEN} == {OPTIONS, 2}
    assert {chance(task) for task in OPEN} == {0}


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
