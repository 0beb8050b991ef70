"""The benchmark is frozen: questions, answers and times of a seed, recorded."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from timeviper.evaluation.synthreel.grid import SEED, Grid
from timeviper.synth.tasks import Task

RECORDED = Path(__file__).with_name("frozen.json")
GRID = Grid(tasks=tuple(Task), frames=(64, 10_240), depths=(0.0, 0.5), also=2)


def recorded() -> dict[str, list[object]]:
    """By question: words, answer, options, times. `frozen.json` is written from this."""
    out: dict[str, list[object]] = {}
    for cell in GRID.cells():
        for asked in GRID.item(cell).asked:
            q = asked.question
            out[asked.name] = [
                q.question,
                q.answer,
                list(q.options),
                q.start_seconds,
                q.end_seconds,
            ]
    return out


def test_questions_answers_and_times_are_those_of_the_record() -> None:
    wanted = json.loads(RECORDED.read_text(encoding="utf-8"))
    found = json.loads(json.dumps(recorded()))
    assert list(found) == list(wanted)
    differing = {
        name: (found[name], wanted[name]) for name in wanted if found[name] != wanted[name]
    }
    assert not differing, differing


def test_the_worlds_are_those_of_the_record() -> None:
    # Whole worlds, looks and all: another number here is another benchmark.
    digest = hashlib.sha256()
    for cell in GRID.cells():
        world = GRID.item(cell).reel.worlds.world(0)
        digest.update(repr(world).encode())
    wanted = RECORDED.with_suffix(".sha256").read_text().strip()
    assert digest.hexdigest() == wanted


@pytest.mark.parametrize("task", Task)
def test_the_record_holds_every_task(task: Task) -> None:
    names = json.loads(RECORDED.read_text(encoding="utf-8"))
    assert f"{task.value}-10240-d050-0" in names
    assert SEED == 20_260_001
