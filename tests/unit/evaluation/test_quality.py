"""The model that ships, asked about real H.264 files that it has never seen."""

from __future__ import annotations

from pathlib import Path

import pytest

from timeviper.evaluation.synthreel.answerers import EngineAnswerer
from timeviper.evaluation.synthreel.grid import Grid
from timeviper.evaluation.synthreel.report import summarise
from timeviper.evaluation.synthreel.rows import read_rows
from timeviper.evaluation.synthreel.run import Plan, answer_files, run
from timeviper.inference.engine import Engine
from timeviper.synth.tasks import Task
from timeviper.weights.folders import resolve

SEED = 424242
TASKS = (Task.RETRIEVAL, Task.AT_TIME, Task.FIRST, Task.LAST, Task.WHEN, Task.ABSENT)


@pytest.mark.slow
def test_the_model_that_ships_answers_about_unseen_films(tmp_path: Path) -> None:
    grid = Grid(tasks=TASKS, frames=(96,), depths=(0.0, 0.5, 1.0), seeds=2, seed=SEED)
    plan = Plan(grid=grid, out=tmp_path, films=tmp_path / "films")
    engine = Engine.load("tiny", device="cpu", threads=1)
    run(plan, EngineAnswerer(engine, resolve("tiny")), lambda step: None)
    rows = read_rows(answer_files(tmp_path))
    free = summarise(rows, grid.depths)["overall"]["free"]
    assert free["total"] == 36
    assert free["value"] >= 0.75, [(r.question, r.want, r.got) for r in rows if not r.right]
