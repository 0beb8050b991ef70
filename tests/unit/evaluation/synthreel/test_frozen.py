"""The benchmark is frozen: questions, answers, times and worlds of a seed, recorded.

A change of the generator that is meant makes another benchmark: raise the seed in `grid.SEED`, run
`python -m tests.unit.evaluation.synthreel.test_frozen` and say so in the changelog.
"""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

import pytest

from timeviper.evaluation.synthreel.grid import Grid
from timeviper.synth.reel import Reel
from timeviper.synth.tasks import Task

RECORDED = Path(__file__).with_name("frozen.json")
GRID = Grid(tasks=tuple(Task), frames=(64, 10_240), depths=(0.0, 0.5), also=2)


def recorded() -> dict[str, list[object]]:
    """By question: words, answer, options, times; by film: a digest of what is on screen when."""
    out: dict[str, list[object]] = {}
    for cell in GRID.cells():
        item = GRID.item(cell)
        out[f"{cell.name} film"] = [digest(item.reel)]
        for asked in item.asked:
            q = asked.question
            times = (q.start_seconds, q.end_seconds)
            out[asked.name] = [q.question, q.answer, list(q.options), *times]
    return out


def digest(reel: Reel) -> str:
    return hashlib.sha256(repr(reel.worlds.world(0)).encode()).hexdigest()[:16]


def wanted() -> dict[str, list[object]]:
    return json.loads(RECORDED.read_text(encoding="utf-8"))


def test_a_seed_gives_what_it_gave() -> None:
    found = json.loads(json.dumps(recorded()))
    record = wanted()
    assert list(found) == list(record)
    differing = {
        name: (found[name], record[name]) for name in record if found[name] != record[name]
    }
    assert not differing, dict(list(differing.items())[:3])


@pytest.mark.parametrize("task", Task)
def test_the_record_holds_every_task_at_both_lengths(task: Task) -> None:
    names = wanted()
    assert f"{task.value}-64-d000-0" in names
    assert f"{task.value}-10240-d050-0" in names


if __name__ == "__main__":
    lines = [f"{json.dumps(k)}: {json.dumps(v)}" for k, v in recorded().items()]
    RECORDED.write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")
