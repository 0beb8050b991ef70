"""Training material: a function of (seed, step), labels beside what they label."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.unit.training.toys import listen, maker, mix, processor
from timeviper.core.layout import SpanKind
from timeviper.synth.asking import clock
from timeviper.synth.phrases import NO_VIDEO
from timeviper.synth.tasks import Task
from timeviper.training import episodes
from timeviper.training.episodes import LATEST_SECOND, EpisodeMaker, Episodes, Phase, Sharing


def same(a: Episodes, b: Episodes) -> bool:
    arrays = [
        (e.video.ids, e.video.kinds, e.questions.tokens.ids, e.worlds.start, e.worlds.colours)
        for e in (a, b)
    ]
    equal = all(np.array_equal(x, y) for x, y in zip(*arrays, strict=True))
    return equal and a.questions.videos == b.questions.videos and a.mix == b.mix


def split(ids: np.ndarray, lengths: tuple[int, ...]) -> list[np.ndarray]:
    return np.split(ids, np.cumsum(lengths)[:-1])


def marks(found: Episodes) -> list[list[str]]:
    """Clock times before the frames of each video, as text."""
    kinds = split(found.video.kinds, found.video_lengths)
    rows = split(found.video.ids, found.video_lengths)
    texts = [
        processor().tokenizer.decode(row[kind == SpanKind.TIMESTAMP.code].tolist())
        for row, kind in zip(rows, kinds, strict=True)
    ]
    # The last row is the prefix of no video.
    return [_clocks(text) for text in texts[:-1]]


def _clocks(text: str) -> list[str]:
    """Times without a space between them: any figures before a colon, two after it."""
    found: list[str] = []
    while text:
        end = text.index(":") + 3
        found.append(text[:end])
        text = text[end:]
    return found


def test_a_step_is_a_function_of_seed_and_step_alone() -> None:
    kinds = (mix(16, 2, 3), mix(24, 1, 2))
    forward, other = maker(*kinds), maker(*kinds)
    steps = [forward(step) for step in (0, 3, 7)]
    for step, want in zip((7, 3, 0), reversed(steps), strict=True):
        assert same(other(step), want)
    assert not same(steps[0], steps[1])
    assert not same(maker(*kinds, seed=6)(0), steps[0])


def test_labels_belong_to_their_world_and_words(monkeypatch: pytest.MonkeyPatch) -> None:
    heard = listen(monkeypatch)
    monkeypatch.setattr(episodes, "CHOICES", 0.0)
    monkeypatch.setattr(episodes, "BLIND", 0.0)
    found = maker(mix(32, 4, 9))(2)
    rows = found.questions
    assert len(rows.lengths) == len(heard) == 4 * 9
    tokens, kinds = split(rows.tokens.ids, rows.lengths), split(rows.tokens.kinds, rows.lengths)
    for number, (world, question, _) in enumerate(heard):
        assert found.worlds.world(rows.videos[number]) == world
        assert rows.tasks[number] == question.task.value
        answer = kinds[number] == SpanKind.ANSWER.code
        asked = processor().tokenizer.decode(tokens[number][~answer].tolist())
        given = tokens[number][answer].tolist()
        assert question.question in asked
        assert processor().tokenizer.decode(given[:-1]) == question.answer
        assert given[-1] in processor().stop_ids
        # Instruction first, answer after it, nothing else.
        assert set(kinds[number][~answer]) == {SpanKind.INSTRUCTION.code}
        assert not answer[: len(answer) - len(given)].any()


def test_the_clock_before_the_frames_is_the_clock_of_the_answers(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    heard = listen(monkeypatch)
    found = maker(mix(16, 12, 4))(0)
    offsets = [heard[number * 4][2] for number in range(12)]
    for offset, times in zip(offsets, marks(found), strict=True):
        assert times == [clock(offset + second) for second in range(16)]
    assert any(offset == 0 for offset in offsets)
    assert any(offset > 600 for offset in offsets)
    assert max(offsets) + 16 <= LATEST_SECOND
    moments = [(q, o) for _, q, o in heard if q.task is Task.WHEN and q.start_seconds is not None]
    assert moments
    for question, offset in moments:
        assert question.start_seconds >= offset
        assert clock(int(question.start_seconds)) in question.answer


def test_every_frame_has_its_places() -> None:
    found = maker(mix(16, 3, 1))(1)
    *films, blind = split(found.video.kinds, found.video_lengths)
    assert set(blind) == {SpanKind.TEXT.code}
    for kinds in films:
        vision = int((kinds == SpanKind.VISION.code).sum())
        assert vision == 16 * processor().config.tokens_per_frame
        assert kinds[-1] == SpanKind.VISION.code


def test_every_task_occurs_and_none_crowds_out_the_others() -> None:
    make = maker(mix(96, 4, 20))
    tasks = [task for step in range(10) for task in make(step).questions.tasks]
    counts = {task: tasks.count(task.value) for task in Task}
    assert min(counts.values()) > len(tasks) / 150
    assert max(counts.values()) < len(tasks) / 6


def test_some_questions_have_options_and_some_no_video() -> None:
    make = maker(mix(64, 4, 20))
    tokenizer = processor().tokenizer
    shown: list[tuple[str, str, bool]] = []
    for step in range(6):
        found = make(step).questions
        rows = split(found.tokens.ids, found.lengths)
        kinds = split(found.tokens.kinds, found.lengths)
        for row, kind, video, task in zip(rows, kinds, found.videos, found.tasks, strict=True):
            answer = tokenizer.decode(row[kind == SpanKind.ANSWER.code].tolist()[:-1])
            shown.append((tokenizer.decode(row.tolist()), answer, video == 4))
            assert (task == "blind") == (video == 4)
    blind = [answer for _, answer, is_blind in shown if is_blind]
    assert blind
    assert set(blind) == {NO_VIDEO}
    chosen = [answer for text, answer, is_blind in shown if "(A)" in text and not is_blind]
    assert 0.05 < len(chosen) / len(shown) < 0.3
    assert all(answer[-4:-1] in ("(A)", "(B)", "(C)", "(D)") for answer in chosen)


def test_worlds_in_which_nothing_happens_are_asked_as_often(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    sample = episodes.sample_worlds

    def empty(rng, batch, num_frames, setting):
        worlds = sample(rng, batch, num_frames, setting)
        return replace(worlds, thing=np.full_like(worlds.thing, -1))

    monkeypatch.setattr(episodes, "sample_worlds", empty)
    rows = maker(mix(64, 2, 24))(0).questions
    assert len(rows.lengths) == 48
    assert Task.FIRST.value not in rows.tasks


def test_phases_follow_one_another_and_weights_count() -> None:
    kinds = [mix(16), mix(32, weight=3.0), mix(48, weight=0.0), mix(64)]
    phases = (
        Phase(until=0.25, mixes=(kinds[0],)),
        Phase(until=0.75, mixes=(kinds[1], kinds[2], kinds[0])),
        Phase(until=1.0, mixes=(kinds[3],)),
    )
    make = EpisodeMaker(processor(), phases, steps=400, seed=0)
    drawn = [make.mix(step).num_frames for step in range(401)]
    assert set(drawn[:100]) == {16}
    assert set(drawn[300:]) == {64}
    middle = drawn[100:300]
    assert set(middle) == {16, 32}
    assert 0.65 < middle.count(32) / len(middle) < 0.85


def test_processes_that_wait_for_each_other_take_one_kind() -> None:
    kinds = (mix(16), mix(24), mix(32))
    phases = (Phase(until=1.01, mixes=kinds),)
    make = EpisodeMaker(processor(), phases, steps=60, seed=3, sharing=Sharing(together=3))
    drawn = [make.mix(step).num_frames for step in range(60)]
    assert all(len(set(drawn[n : n + 3])) == 1 for n in range(0, 60, 3))
    assert len(set(drawn)) == 3


def test_rounds_ask_other_questions_about_the_same_worlds() -> None:
    phases = (Phase(until=1.01, mixes=(mix(16, 2, 3), mix(24, 1, 3))),)
    sharing = Sharing(together=2, rounds=3)
    make = EpisodeMaker(processor(), phases, steps=60, seed=3, sharing=sharing)
    found = [make(step) for step in range(12)]
    assert [e.film for e in found] == [0, 1, 0, 1, 0, 1, 2, 3, 2, 3, 2, 3]
    first, again, other = found[0], found[2], found[1]
    np.testing.assert_array_equal(first.worlds.thing, again.worlds.thing)
    np.testing.assert_array_equal(first.worlds.colours, again.worlds.colours)
    assert not np.array_equal(first.questions.tokens.ids, again.questions.tokens.ids)
    assert other.mix == first.mix
    assert not np.array_equal(first.worlds.place, other.worlds.place)
