"""Answers are those of a brute-force timeline; words alone give nothing away."""

from __future__ import annotations

import re
from collections import Counter

import numpy as np
import pytest

from timeviper.synth.objects import article, load_names
from timeviper.synth.phrases import PHRASES
from timeviper.synth.questions import Asking, Question, Task, ask, chance, clock, texts
from timeviper.synth.world import Event, World, sample_worlds

CLEAR = Asking(clear=True, paraphrase=False)


def world_of(*events: tuple[str, int, int], num_frames: int = 60) -> World:
    names = load_names()
    made = [Event(object_id=names.index(name), start=start, end=end) for name, start, end in events]
    return World(num_frames=num_frames, events=tuple(made))


BUSY = world_of(("cat", 3, 8), ("pizza", 12, 20), ("cat", 30, 36), ("rocket", 40, 47))
EMPTY = world_of()


def many(
    task: Task, how: Asking, *, worlds: int = 300, num_frames: int = 96
) -> list[tuple[World, Question]]:
    rng = np.random.default_rng(1)
    every = sample_worlds(rng, worlds, num_frames)
    asked = [(every.world(n), ask(every.world(n), task, rng, how)) for n in range(worlds)]
    return [(world, question) for world, question in asked if question is not None]


def timeline(world: World) -> list[str | None]:
    """The name on screen at each second, found without the code under test."""
    seconds: list[str | None] = [None] * world.num_frames
    for event in world.events:
        for second in range(event.start, event.end):
            seconds[second] = load_names()[event.object_id]
    return seconds


def runs(seconds: list[str | None], name: str) -> list[tuple[int, int]]:
    """Begin and end of each stretch of a name in a timeline."""
    marks = [False, *(s == name for s in seconds), False]
    begins = [i for i in range(len(marks) - 1) if marks[i + 1] and not marks[i]]
    ends = [i for i in range(len(marks) - 1) if marks[i] and not marks[i + 1]]
    return list(zip(begins, ends, strict=True))


@pytest.mark.parametrize(("seconds", "want"), [(0, "00:00"), (65, "01:05"), (6001, "100:01")])
def test_clock_has_minutes_only(seconds: int, want: str) -> None:
    assert clock(seconds) == want


def test_canonical_forms_and_answers_of_one_world() -> None:
    rng = np.random.default_rng(0)
    seen: dict[str, str] = {}
    for _ in range(200):
        for task in Task:
            question = ask(BUSY, task, rng, Asking(paraphrase=False, missing=0.0))
            assert question is not None
            seen[question.question] = question.answer
    assert seen["What appears in the video?"] == "a cat, a pizza and a rocket."
    assert seen["When does the cat appear?"] == "from 00:03 to 00:08."
    assert seen["When does the rocket appear?"] == "from 00:40 to 00:47."
    assert seen["What is on screen at 00:05?"] == "a cat."
    assert seen["What is on screen at 00:25?"] == "nothing."
    assert seen["Which appears first, the pizza or the cat?"] == "the cat."
    assert seen["Which appears first, the cat or the pizza?"] == "the cat."
    assert seen["How many times does the cat appear?"] == "twice."
    assert seen["How many times does the pizza appear?"] == "once."
    assert seen["Does the rocket appear?"] == "yes."


def test_a_world_of_nothing_answers_so() -> None:
    rng = np.random.default_rng(0)
    what = ask(EMPTY, Task.WHAT, rng, CLEAR)
    assert what is not None
    assert what.answer == "nothing."
    at = ask(EMPTY, Task.AT_TIME, rng, CLEAR)
    assert at is not None
    assert at.answer == "nothing."
    assert ask(EMPTY, Task.FIRST, rng, CLEAR) is None
    assert ask(EMPTY, Task.COUNT, rng, Asking(missing=0.0)) is None
    assert ask(EMPTY, Task.WHEN, rng, Asking(missing=0.0)) is None


def test_more_things_than_an_answer_lists_are_not_asked_for() -> None:
    five = world_of(*[(name, 10 * n, 10 * n + 4) for n, name in enumerate(load_names()[:5])])
    assert ask(five, Task.WHAT, np.random.default_rng(0)) is None


def test_what_lists_names_in_order_of_first_appearance() -> None:
    for world, question in many(Task.WHAT, CLEAR):
        order = list(dict.fromkeys(name for name in timeline(world) if name))
        words = [f"{article(name)} {name}" for name in order]
        joined = " and ".join([", ".join(words[:-1]), words[-1]] if words[1:] else words)
        assert question.answer == (f"{joined}." if words else "nothing.")


def test_when_is_the_only_appearance_of_the_timeline() -> None:
    for world, question in many(Task.WHEN, Asking(clear=True, paraphrase=False, missing=0.0)):
        name = question.question.removeprefix("When does the ").removesuffix(" appear?")
        (begin, end), *others = runs(timeline(world), name)
        assert not others, "in evaluation an object that returns would leave a doubt"
        assert question.answer == f"from {clock(begin)} to {clock(end)}."
        assert (question.start_seconds, question.end_seconds) == (begin, end)


def test_when_in_training_is_the_first_appearance() -> None:
    returning = 0
    for world, question in many(Task.WHEN, Asking(paraphrase=False, missing=0.0)):
        name = question.question.removeprefix("When does the ").removesuffix(" appear?")
        (begin, end), *others = runs(timeline(world), name)
        returning += bool(others)
        assert question.answer == f"from {clock(begin)} to {clock(end)}."
    assert returning > 20


def test_at_time_is_what_the_timeline_shows() -> None:
    inside = 0
    pairs = many(Task.AT_TIME, CLEAR)
    for world, question in pairs:
        minutes, seconds = question.question[-6:-1].split(":")
        second = 60 * int(minutes) + int(seconds)
        line = timeline(world)
        name = line[second]
        inside += name is not None
        assert question.answer == (f"{article(name)} {name}." if name else "nothing.")
        near = line[max(0, second - 1) : second + 2]
        assert name is None or len(set(line[second : second + 1])) == 1
        assert name is not None or set(near) == {None}, "a second from any change"
    assert 0.65 < inside / len(pairs) < 0.85


def test_first_is_the_earlier_of_the_two() -> None:
    for world, question in many(Task.FIRST, CLEAR):
        words = question.question.removeprefix("Which appears first, the ").removesuffix("?")
        one, other = words.split(" or the ")
        line = timeline(world)
        earlier = one if line.index(one) < line.index(other) else other
        assert question.answer == f"the {earlier}."
        assert set(question.options) == {f"the {one}.", f"the {other}."}


def test_count_is_the_number_of_stretches() -> None:
    words = {0: "", 1: "once.", 2: "twice.", 3: "3 times.", 4: "4 times.", 5: "5 times."}
    counts: Counter[int] = Counter()
    for world, question in many(Task.COUNT, Asking(paraphrase=False), worlds=600):
        name = question.question.removeprefix("How many times does the ").removesuffix(" appear?")
        times = len(runs(timeline(world), name))
        counts[times] += 1
        assert question.answer == (words[times] or f"the {name} does not appear.")
    assert 0.08 < counts[0] / counts.total() < 0.25
    assert min(counts[number] for number in range(1, 6)) > 0.04 * counts.total()


def test_absent_says_whether_the_timeline_has_it() -> None:
    for world, question in many(Task.ABSENT, CLEAR):
        name = question.question.removeprefix("Does the ").removesuffix(" appear?")
        assert question.answer == ("yes." if name in timeline(world) else "no.")


def test_missing_things_are_asked_for_as_often_as_wished() -> None:
    pairs = many(Task.WHEN, Asking(paraphrase=False, missing=0.5), worlds=400)
    gone = [q for _, q in pairs if q.answer.endswith("does not appear.")]
    assert 0.4 < len(gone) / len(pairs) < 0.62
    assert all(q.start_seconds is None and q.end_seconds is None for q in gone)


def test_blind_yes_and_no_are_even() -> None:
    answers = Counter(q.answer for _, q in many(Task.ABSENT, CLEAR, worlds=1000))
    assert 0.44 < answers["yes."] / answers.total() < 0.56


def test_blind_the_name_said_first_is_right_half_the_time() -> None:
    pairs = many(Task.FIRST, CLEAR, worlds=1000)
    said = [q.question.index(q.answer[4:-1]) < q.question.index(" or the ") for _, q in pairs]
    assert 0.44 < np.mean(said) < 0.56


@pytest.mark.parametrize("task", list(Task))
def test_blind_the_place_among_the_options_is_even(task: Task) -> None:
    pairs = [q for _, q in many(task, CLEAR, worlds=500)]
    full = [q for q in pairs if len(q.options) == round(1 / chance(task))]
    assert len(full) > 0.9 * len(pairs)
    places = Counter(q.options.index(q.answer) for q in full)
    for place in range(round(1 / chance(task))):
        assert abs(places[place] / len(full) - chance(task)) < 0.1


@pytest.mark.parametrize("task", list(Task))
def test_options_hold_the_answer_once(task: Task) -> None:
    for _, question in many(task, Asking(), worlds=100):
        assert question.options.count(question.answer) == 1
        assert len(set(question.options)) == len(question.options) >= 2


@pytest.mark.parametrize("task", list(Task))
def test_offset_moves_every_clock_and_nothing_else(task: Task) -> None:
    for seed in range(20):
        plain = ask(BUSY, task, np.random.default_rng(seed), Asking())
        later = ask(BUSY, task, np.random.default_rng(seed), Asking(offset=600))
        assert plain is not None
        assert later is not None

        def ten_minutes_on(words: str) -> str:
            return re.sub(r"(\d\d):", lambda m: f"{int(m.group(1)) + 10:02d}:", words)

        assert later.question == ten_minutes_on(plain.question)
        assert later.answer == ten_minutes_on(plain.answer)
        if plain.start_seconds is not None and plain.end_seconds is not None:
            assert later.start_seconds == plain.start_seconds + 600
            assert later.end_seconds == plain.end_seconds + 600


@pytest.mark.parametrize("task", list(Task))
def test_same_chance_same_question(task: Task) -> None:
    one, two = (ask(BUSY, task, np.random.default_rng(4)) for _ in range(2))
    assert one == two


@pytest.mark.parametrize("task", [Task.WHEN, Task.FIRST, Task.COUNT, Task.ABSENT])
def test_paraphrases_keep_the_name(task: Task) -> None:
    names = {*load_names()}
    for _, question in many(task, Asking(), worlds=150):
        words = question.question.lower()
        assert any(name in words for name in names), question.question
        assert "{" not in words


def test_paraphrases_vary() -> None:
    asked = {q.question for _, q in many(Task.WHAT, Asking(), worlds=300)}
    assert len(asked) > len(PHRASES["what"])
    assert any(words == words.lower() for words in asked)
    assert any(not words.endswith(("?", ".")) for words in asked)


def test_texts_hold_all_names_phrases_and_answers() -> None:
    corpus = list(texts())
    whole = "\n".join(corpus)
    for name in load_names():
        assert f"{article(name)} {name}." in whole
        assert f"the {name} does not appear." in whole
    starts = {phrase.split("{")[0] for task in Task for phrase in PHRASES[task]}
    assert all(start in whole for start in starts)
    assert {"once.", "twice.", "yes.", "no.", "nothing."} <= set(corpus)
    assert "{" not in whole
