"""Held-out drawn videos as real files: make them, ask them, keep every answer, sum up."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from timeviper.core.seeding import stream
from timeviper.evaluation.metrics import Share
from timeviper.inference.engine import Engine
from timeviper.synth.make import sample_example
from timeviper.synth.questions import Asking, Question, Task
from timeviper.synth.render import Film, render_video
from timeviper.synth.score import right

SHORTEST, LONGEST = 64, 1024
# Questions leave no doubt; the wording is as varied as in training.
HOW = Asking(paraphrase=True, missing=0.0, clear=True)
BLIND = "blind"


@dataclass(frozen=True, kw_only=True)
class Heldout:
    """Which videos are asked.

    Args:
        seed: of the worlds; never one that was trained on.
        videos: how many.
        folder: where films are kept, so that a second run finds them.
    """

    seed: int
    videos: int
    folder: Path

    def frames(self, index: int) -> int:
        """Length of a video in seconds: log-uniform from `SHORTEST` to `LONGEST`."""
        share = stream(self.seed, "length", index).random()
        return round(SHORTEST * math.exp(share * math.log(LONGEST / SHORTEST)))

    def example(self, index: int) -> tuple[Path, tuple[Question, ...]]:
        """File of a video, written if it is not there yet, and one question of each task."""
        found = sample_example(
            tuple(Task), frames=self.frames(index), seed=self.seed, index=index, how=HOW
        )
        path = self.folder / f"{self.seed}-{index:04d}.mp4"
        if not path.exists():
            self.folder.mkdir(parents=True, exist_ok=True)
            render_video(found.worlds, path, film=Film(fps=4))
        return path, found.questions


def ask_all(
    engines: Mapping[str, Engine],
    heldout: Heldout,
    indices: Iterable[int],
    *,
    answers: Path,
    tell: Callable[[str], None],
) -> None:
    """Ask each engine every question and append each answer as a JSON line.

    Args:
        engines: by the name of what is measured; `BLIND` is asked without the video.
        heldout: the videos.
        indices: numbers of the videos to ask.
        answers: file of the answers; videos that it already holds are not asked again.
        tell: receives one line a video.
    """
    done = {(row["engine"], row["index"]) for row in read_answers([answers])}
    for index in indices:
        path, questions = heldout.example(index)
        for name, engine in engines.items():
            if (name, index) in done:
                continue
            rows = _ask(engine, None if name == BLIND else path, questions)
            head = {"engine": name, "index": index, "frames": heldout.frames(index)}
            with answers.open("a") as handle:
                handle.writelines(json.dumps(head | row) + "\n" for row in rows)
            tell(f"{name} {index}: {sum(row['right'] for row in rows)} of {len(rows)}")


def read_answers(files: Iterable[Path]) -> list[dict[str, Any]]:
    """All rows of some answer files; a missing file has none."""
    return [
        json.loads(line)
        for file in files
        if file.exists()
        for line in file.read_text().splitlines()
        if line.strip()
    ]


def summary(rows: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Share]]:
    """Share of right answers by engine and task, and `overall`.

    Args:
        rows: as `read_answers` gives them; of one question asked twice the last answer counts.
    """
    once = {(row["engine"], row["index"], row["task"]): row for row in rows}
    table: dict[str, dict[str, Share]] = {}
    for row in once.values():
        one = Share(right=int(row["right"]), total=1)
        tasks = table.setdefault(row["engine"], {})
        for task in (row["task"], "overall"):
            tasks[task] = tasks.get(task, Share(right=0, total=0)) + one
    return table


def _ask(
    engine: Engine, path: Path | None, questions: tuple[Question, ...]
) -> list[dict[str, Any]]:
    encoded = None if path is None else engine.encode(path)
    rows: list[dict[str, Any]] = []
    for question in questions:
        if encoded is None:
            words = [{"role": "user", "content": question.question}]
            answer = engine.generate([words])[0]
        else:
            answer = engine.ask(encoded, question.question)
        rows.append(
            {
                "task": question.task.value,
                "question": question.question,
                "want": question.answer,
                "got": answer.text,
                "right": right(question, answer.text, answer.start_seconds, answer.end_seconds),
            }
        )
    return rows
