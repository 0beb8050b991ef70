"""Held-out videos: which, how long, asked once each by every engine, summed up."""

from __future__ import annotations

import json
import math
from pathlib import Path

import numpy as np
import pytest

from tests.toy_engine import noise, write_video
from timeviper.core.errors import MediaError
from timeviper.evaluation import heldout
from timeviper.evaluation.heldout import (
    BLIND,
    LONGEST,
    SHORTEST,
    Heldout,
    ask_all,
    read_answers,
    summary,
)
from timeviper.inference.engine import Engine
from timeviper.synth.questions import Task
from timeviper.synth.score import right


@pytest.fixture
def films(monkeypatch: pytest.MonkeyPatch) -> list[Path]:
    """Writes a few frames of noise in place of each film; lists what was written."""
    written: list[Path] = []

    def render(worlds, path, *, film):
        written.append(write_video(path, noise(6)))

    monkeypatch.setattr(heldout, "render_video", render)
    return written


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The model that ships: its answers are short."""
    return Engine.load("tiny", device="cpu", threads=1)


def videos(folder: Path, count: int = 3) -> Heldout:
    return Heldout(seed=99, videos=count, folder=folder / "films")


def test_lengths_are_log_uniform_between_the_shortest_and_the_longest(tmp_path: Path) -> None:
    found = Heldout(seed=1, videos=2000, folder=tmp_path)
    lengths = np.array([found.frames(index) for index in range(2000)])
    assert lengths.min() >= SHORTEST == 64
    assert lengths.max() <= LONGEST == 1024
    share = np.sort(np.log(lengths / SHORTEST) / math.log(LONGEST / SHORTEST))
    # Kolmogorov-Smirnov distance to the uniform; 1.63 / sqrt(n) is its 1 % bound.
    gap = np.abs(share - (np.arange(2000) + 0.5) / 2000).max()
    assert gap < 1.63 / math.sqrt(2000)


def test_a_video_is_a_function_of_seed_and_number(tmp_path: Path, films: list[Path]) -> None:
    one, two = videos(tmp_path / "a").example(1), videos(tmp_path / "b").example(1)
    assert one[1] == two[1]
    assert one[1] != videos(tmp_path / "a").example(2)[1]
    assert Heldout(seed=98, videos=3, folder=tmp_path).frames(1) != videos(tmp_path).frames(1)


def test_one_question_of_each_task_and_a_film_written_once(
    tmp_path: Path, films: list[Path]
) -> None:
    path, questions = videos(tmp_path).example(0)
    assert [question.task for question in questions] == list(Task)
    assert path.exists()
    assert videos(tmp_path).example(0) == (path, questions)
    assert films == [path]


def test_every_engine_is_asked_everything_once(
    tmp_path: Path, films: list[Path], engine: Engine
) -> None:
    answers, told = tmp_path / "answers.jsonl", []
    engines = {"on": engine, BLIND: engine}
    ask_all(engines, videos(tmp_path), [0], answers=answers, tell=told.append)
    first = answers.read_text()
    assert [(row["engine"], row["task"]) for row in read_answers([answers])] == [
        (name, task.value) for name in engines for task in Task
    ]
    # Again with one video more: what is there stays, what is new is added.
    ask_all(engines, videos(tmp_path), [0, 2], answers=answers, tell=told.append)
    assert answers.read_text().startswith(first)
    rows = read_answers([answers])
    assert len(rows) == 2 * 2 * len(Task)
    assert len(told) == 4
    assert {row["frames"] for row in rows} == {videos(tmp_path).frames(i) for i in (0, 2)}


def test_a_run_that_broke_off_goes_on_with_the_rest(
    tmp_path: Path, films: list[Path], engine: Engine
) -> None:
    answers, whole = tmp_path / "cut.jsonl", tmp_path / "whole.jsonl"
    engines = {BLIND: engine, "on": engine}
    ask_all(engines, videos(tmp_path), [0], answers=whole, tell=lambda line: None)

    def stop(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        ask_all(engines, videos(tmp_path), [0], answers=answers, tell=stop)
    assert {row["engine"] for row in read_answers([answers])} == {BLIND}
    ask_all(engines, videos(tmp_path), [0], answers=answers, tell=lambda line: None)
    assert read_answers([answers]) == read_answers([whole])


def test_the_blind_never_open_the_file(tmp_path: Path, films: list[Path], engine: Engine) -> None:
    found = videos(tmp_path)
    path, _ = found.example(0)
    path.write_bytes(b"no video")
    answers = tmp_path / "answers.jsonl"
    ask_all({BLIND: engine}, found, [0], answers=answers, tell=lambda line: None)
    assert len(read_answers([answers])) == len(Task)
    with pytest.raises(MediaError):
        ask_all({"on": engine}, found, [0], answers=answers, tell=lambda line: None)
    # Nothing half-written.
    assert len(read_answers([answers])) == len(Task)


def test_answers_are_kept_with_what_was_wanted(
    tmp_path: Path, films: list[Path], engine: Engine
) -> None:
    answers = tmp_path / "answers.jsonl"
    found = videos(tmp_path)
    ask_all({"on": engine}, found, [1], answers=answers, tell=lambda line: None)
    path, questions = found.example(1)
    encoded = engine.encode(path)
    for row, question in zip(read_answers([answers]), questions, strict=True):
        assert (row["question"], row["want"]) == (question.question, question.answer)
        answer = engine.ask(encoded, question.question)
        assert row["got"] == answer.text
        assert row["right"] is right(
            question, answer.text, answer.start_seconds, answer.end_seconds
        )


def row(index: int, task: str, good: bool, engine: str = "on") -> dict[str, object]:
    return {"engine": engine, "index": index, "task": task, "right": good}


def test_the_summary_counts_by_engine_and_task() -> None:
    rows = [row(0, "what", True), row(0, "when", False), row(1, "what", False)]
    rows.append(row(0, "what", True, engine=BLIND))
    table = summary(rows)
    shares = {(e, t): (s.right, s.total) for e, tasks in table.items() for t, s in tasks.items()}
    assert shares == {
        ("on", "what"): (1, 2),
        ("on", "when"): (0, 1),
        ("on", "overall"): (1, 3),
        (BLIND, "what"): (1, 1),
        (BLIND, "overall"): (1, 1),
    }


def test_an_answer_in_two_files_counts_once(tmp_path: Path) -> None:
    # The same videos were asked by one process first and then, anew, by shards.
    files = [tmp_path / "answers-0-1.jsonl", tmp_path / "answers-0-2.jsonl"]
    files[0].write_text(json.dumps(row(0, "what", True)) + "\n")
    files[1].write_text("".join(json.dumps(row(i, "what", True)) + "\n" for i in (0, 2)))
    share = summary(read_answers(files))["on"]["overall"]
    assert (share.right, share.total) == (2, 2)


def test_a_file_that_is_not_there_has_no_answers(tmp_path: Path) -> None:
    assert read_answers([tmp_path / "none.jsonl"]) == []
