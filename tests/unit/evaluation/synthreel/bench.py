"""What tests of the benchmark share: small grids, small films, and answerers that need no model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from timeviper.evaluation.synthreel.answerers import Reply, View
from timeviper.evaluation.synthreel.grid import Grid
from timeviper.evaluation.synthreel.rows import Form, Row
from timeviper.evaluation.synthreel.run import Plan, Step
from timeviper.synth.choices import as_choices, choice_answer
from timeviper.synth.render import Film
from timeviper.synth.tasks import Task

SMALL = Film(fps=1, height=32, width=32)


def small_grid(*tasks: Task, **changes: Any) -> Grid:
    """Two films of a task: 32 seconds, at the start and at the end."""
    chosen: dict[str, Any] = {"frames": (32,), "depths": (0.0, 1.0), "film": SMALL} | changes
    return Grid(tasks=tasks or (Task.RETRIEVAL,), **chosen)


def plan_of(out: Path, grid: Grid, **changes: Any) -> Plan:
    return Plan(grid=grid, out=out, **({"films": out / "films"} | changes))


class Scripted:
    """Answers each prompt by a function; remembers what it was shown and asked."""

    def __init__(self, answer: Callable[[str], str]) -> None:
        self.answer = answer
        self.views: list[View] = []
        self.prompts: list[str] = []
        self.limits: list[int] = []

    def answers(self, view: View, prompts: Sequence[str], *, max_tokens: int) -> list[Reply]:
        if view.path is not None:
            assert view.path.stat().st_size > 0
        self.views.append(view)
        self.prompts += prompts
        self.limits.append(max_tokens)
        return [Reply(text=self.answer(prompt), looked=7, seconds=0.5) for prompt in prompts]

    def identity(self) -> dict[str, Any]:
        return {"kind": "scripted"}


def truthful(grid: Grid) -> Scripted:
    """Knows every answer of a grid."""
    truth: dict[str, str] = {}
    for cell in grid.cells():
        for asked in grid.item(cell, clips=len(grid.clips())).asked:
            question = asked.question
            truth[question.question] = question.answer
            for turn in range(len(question.options)):
                truth[as_choices(question, turn)] = choice_answer(question, turn)
    return Scripted(truth.__getitem__)


def silent(step: Step) -> None:
    """Hears and says nothing."""


def row(name: str = "retrieval-64-d000-0", *, right: bool = True, **changes: Any) -> Row:
    """An answer; what is not given is as plain as can be."""
    filled: dict[str, Any] = {
        "task": name.split("+")[-1].split("-")[0],
        "frames": 64,
        "depth": 0.0,
        "form": Form.FREE,
        "rotation": 0,
        "options": 4,
        "question": "What?",
        "want": "the cat.",
        "got": "the cat." if right else "the dog.",
        "right": right,
        "value": float(right),
        "looked": 64,
        "seconds": 0.1,
    }
    return Row(name=name, **(filled | changes))
