"""Made examples: a video, its questions, one clear error for what cannot be made."""

from __future__ import annotations

import json
from pathlib import Path

import av
import pytest

from timeviper.core.errors import RequestError
from timeviper.synth.make import MIXED, PLAIN, make_example, parse_task, sample_example
from timeviper.synth.questions import Asking, Task

KEYS = ["task", "question", "answer", "options", "start_seconds", "end_seconds"]


def rows_of(path: Path) -> list[dict[str, object]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_one_task_writes_a_video_and_its_question(tmp_path: Path) -> None:
    made = make_example("when", frames=16, seed=7, out=tmp_path / "new" / "folder")
    with av.open(str(made.video)) as container:
        assert container.streams.video[0].frames == 16 * 4
    (row,) = rows_of(made.questions)
    assert list(row) == KEYS
    assert row["task"] == "when"
    assert str(row["question"]).startswith("When does the ")
    assert row["answer"] in row["options"]  # type: ignore[operator]
    assert isinstance(row["start_seconds"], float)
    assert sorted(p.name for p in made.video.parent.iterdir()) == ["questions.jsonl", "video.mp4"]


def test_mixed_asks_one_question_of_each_task(tmp_path: Path) -> None:
    made = make_example(MIXED, frames=32, seed=1, out=tmp_path)
    assert [row["task"] for row in rows_of(made.questions)] == [task.value for task in Task]


def test_same_seed_same_files(tmp_path: Path) -> None:
    one, two, other = (
        make_example("count", frames=12, seed=seed, out=tmp_path / name)
        for seed, name in ((3, "one"), (3, "two"), (4, "other"))
    )
    assert one.video.read_bytes() == two.video.read_bytes() != other.video.read_bytes()
    assert one.questions.read_text() == two.questions.read_text()


def test_a_second_run_replaces_the_first(tmp_path: Path) -> None:
    make_example("what", frames=12, seed=0, out=tmp_path)
    made = make_example("absent", frames=12, seed=0, out=tmp_path)
    assert [row["task"] for row in rows_of(made.questions)] == ["absent"]


@pytest.mark.parametrize("task", [task.value for task in Task])
@pytest.mark.parametrize("seed", range(3))
def test_every_task_can_be_asked_of_every_seed(task: str, seed: int) -> None:
    example = sample_example(parse_task(task), frames=64, seed=seed)
    assert [question.task.value for question in example.questions] == [task]
    assert len(example.worlds) == 1


def test_examples_of_a_seed_differ_and_repeat() -> None:
    tasks = tuple(Task)
    one, same = (sample_example(tasks, frames=64, seed=5, index=2) for _ in range(2))
    other = sample_example(tasks, frames=64, seed=5, index=3)
    assert one.questions == same.questions
    assert one.worlds.world(0) == same.worlds.world(0) != other.worlds.world(0)


def test_examples_leave_no_doubt() -> None:
    assert PLAIN.clear
    assert PLAIN.missing == 0
    for index in range(30):
        example = sample_example((Task.WHEN,), frames=128, seed=1, index=index)
        world, (question,) = example.worlds.world(0), example.questions
        spans = [(e.start, e.end) for e in world.events]
        assert (question.start_seconds, question.end_seconds) in spans
        name = question.question.removeprefix("When does the ").removesuffix(" appear?")
        assert sum(event.name == name for event in world.events) == 1


def test_phrasing_can_be_chosen() -> None:
    how = Asking(clear=True, missing=0.0)
    asked = {
        sample_example((Task.WHAT,), frames=32, seed=0, index=index, how=how).questions[0].question
        for index in range(30)
    }
    assert len(asked) > 5


@pytest.mark.parametrize(
    ("word", "want"),
    [("at", (Task.AT_TIME,)), ("at_time", (Task.AT_TIME,)), ("mixed", tuple(Task))],
)
def test_words_for_tasks(word: str, want: tuple[Task, ...]) -> None:
    assert parse_task(word) == want


def test_all_is_mixed() -> None:
    assert parse_task("all") == parse_task(MIXED)


@pytest.mark.parametrize(
    ("task", "frames", "words"),
    [
        ("whne", 32, "one of what, when.*'whne'"),
        ("", 32, "one of what"),
        ("what", 7, "8 to 12000 frames; got 7"),
        ("what", -1, "got -1"),
        ("what", 12_001, "got 12001"),
        ("first", 8, "a length that can carry first; got 8 frames"),
    ],
)
def test_what_cannot_be_made_is_one_clear_error(
    task: str, frames: int, words: str, tmp_path: Path
) -> None:
    out = tmp_path / "made"
    with pytest.raises(RequestError, match=words):
        make_example(task, frames=frames, seed=0, out=out)
    assert not out.exists(), "nothing is written before everything is known to be right"


def test_a_file_where_the_folder_should_be(tmp_path: Path) -> None:
    (tmp_path / "taken").write_text("mine")
    with pytest.raises(RequestError, match="taken"):
        make_example("what", frames=8, seed=0, out=tmp_path / "taken")
    assert (tmp_path / "taken").read_text() == "mine"
