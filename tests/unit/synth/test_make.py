"""Made examples: a video, its questions, one clear error for what cannot be made."""

from __future__ import annotations

import json
from dataclasses import fields
from pathlib import Path
from typing import Any

import av
import pytest

from tests.unit.synth.oracle import Watched, expected
from timeviper.core.errors import RequestError
from timeviper.synth.asking import Question
from timeviper.synth.make import MIXED, PLAIN, make_example, parse_task, sample_example
from timeviper.synth.reel import PLACED, sample_reel
from timeviper.synth.tasks import OPEN, Task


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_one_task_writes_a_video_and_its_question(tmp_path: Path) -> None:
    made = make_example("when", frames=16, seed=7, out=tmp_path / "new" / "folder")
    with av.open(str(made.video)) as container:
        assert container.streams.video[0].frames == 16 * 4
    (row,) = rows_of(made.questions)
    assert list(row) == [field.name for field in fields(Question)]
    reel = sample_reel(Task.WHEN, frames=16, seed=7)
    assert Question(**{**row, "options": tuple(row["options"])}) == reel.question
    assert row["answer"] == row["choice"] in row["options"]
    assert sorted(p.name for p in made.video.parent.iterdir()) == ["questions.jsonl", "video.mp4"]


def test_mixed_asks_as_many_tasks_as_a_world_can_carry(tmp_path: Path) -> None:
    made = make_example(MIXED, frames=32, seed=1, out=tmp_path)
    rows = rows_of(made.questions)
    tasks = [row["task"] for row in rows]
    assert len(tasks) >= 12
    assert tasks == [task.value for task in Task if task.value in tasks], "once, in their order"
    for row in rows:
        assert bool(row["options"]) == (row["task"] not in OPEN)
        assert not row["options"] or row["choice"] in row["options"]


@pytest.mark.parametrize("depth", [0.0, 0.5, 1.0])
def test_a_depth_says_where_the_moment_begins(depth: float, tmp_path: Path) -> None:
    made = make_example("reading", frames=16, seed=3, out=tmp_path, depth=depth)
    (row,) = rows_of(made.questions)
    lasting = row["end_seconds"] - row["start_seconds"]
    assert row["start_seconds"] == round(depth * (16 - lasting))


def test_same_arguments_same_files(tmp_path: Path) -> None:
    one, two, other = (
        make_example("count", frames=16, seed=seed, out=tmp_path / name)
        for seed, name in ((3, "one"), (3, "two"), (4, "other"))
    )
    assert one.video.read_bytes() == two.video.read_bytes() != other.video.read_bytes()
    assert one.questions.read_text() == two.questions.read_text()


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    make_example("what", frames=16, seed=0, out=tmp_path)
    made = make_example("absent", frames=16, seed=0, out=tmp_path)
    assert [row["task"] for row in rows_of(made.questions)] == ["absent"]


@pytest.mark.parametrize("seed", range(3))
def test_examples_are_true_and_leave_no_doubt(seed: int) -> None:
    assert PLAIN.clear
    assert PLAIN.missing == 0
    example = sample_example(tuple(Task), frames=200, seed=seed)
    world = example.worlds.world(0)
    assert len(example.worlds) == 1
    assert len(example.questions) >= 12
    for question in example.questions:
        assert question.answer == expected(Watched(world), question)
        assert "does not appear" not in question.answer


@pytest.mark.parametrize("seed", range(5))
def test_the_demos_questions_are_about_different_moments(seed: int) -> None:
    example = sample_example((Task.WHEN, Task.AT_TIME, Task.FIRST), frames=900, seed=seed)
    assert [q.task for q in example.questions] == [Task.WHEN, Task.AT_TIME, Task.FIRST]
    assert len({q.start_seconds for q in example.questions} - {None}) == 3


def test_examples_repeat_and_differ_by_seed_and_length() -> None:
    tasks = tuple(Task)
    one, same = (sample_example(tasks, frames=64, seed=5) for _ in range(2))
    assert one.questions == same.questions
    assert one.worlds.world(0) == same.worlds.world(0)
    for other in (
        sample_example(tasks, frames=64, seed=6),
        sample_example(tasks, frames=65, seed=5),
    ):
        assert one.worlds.world(0) != other.worlds.world(0)


@pytest.mark.parametrize(
    ("word", "want"),
    [("at", (Task.AT_TIME,)), ("at_time", (Task.AT_TIME,)), ("mixed", tuple(Task))],
)
def test_words_for_tasks(word: str, want: tuple[Task, ...]) -> None:
    assert parse_task(word) == want


def test_all_is_mixed_and_every_task_has_its_word() -> None:
    assert parse_task("all") == parse_task(MIXED)
    assert [parse_task(task.value) for task in Task] == [(task,) for task in Task]


@pytest.mark.parametrize(
    ("task", "frames", "depth", "words"),
    [
        ("whne", 32, None, "one of what, when.*'whne'"),
        ("", 32, None, "one of what"),
        ("what", 15, None, "16 to 14400 frames; got 15"),
        ("mixed", 15, None, "16 to 14400 frames; got 15"),
        ("what", -1, None, "got -1"),
        ("mixed", 14_401, None, "got 14401"),
        ("ordering", 16, None, "a length that can carry ordering; got 16 frames"),
        ("when", 32, 1.5, "a depth from 0 to 1; got 1.5"),
        ("count", 32, 0.5, "a task about one moment .*retrieval.*got count"),
        ("mixed", 32, 0.5, "a task about one moment .*got mixed"),
    ],
)
def test_what_cannot_be_made_is_one_clear_error(
    task: str, frames: int, depth: float | None, words: str, tmp_path: Path
) -> None:
    out = tmp_path / "made"
    with pytest.raises(RequestError, match=words):
        make_example(task, frames=frames, seed=0, out=out, depth=depth)
    assert not out.exists(), "nothing is written before everything is known to be right"


def test_a_length_that_carries_none_of_some_tasks() -> None:
    with pytest.raises(RequestError, match="carry ordering; got 16 frames"):
        sample_example((Task.ORDERING,), frames=16, seed=0)


def test_depths_are_for_tasks_of_one_moment() -> None:
    assert sorted(PLACED) == [
        "at_time", "motion", "multi_key", "reading", "retrieval", "when",
    ]  # fmt: skip


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(RequestError, match="taken"):
        make_example("what", frames=16, seed=0, out=tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"
