"""The card of the benchmark: its Python runs, its examples are what the generator says."""

from __future__ import annotations

import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import typer.main

from tests.contracts.source import ROOT
from timeviper.cli.main import app
from timeviper.evaluation.synthreel.grid import Grid
from timeviper.synth.tasks import Task

CARD = (ROOT / "docs" / "synthreel.md").read_text(encoding="utf-8")
BLOCK = re.compile(r"^```(python|sh)\n(.*?)^```", flags=re.M | re.S)


def blocks(kind: str) -> list[str]:
    return [text for found, text in BLOCK.findall(CARD) if found == kind]


def commands() -> list[list[str]]:
    """Every `timeviper bench ...` of the sh blocks, without loops and comments."""
    text = "\n".join(blocks("sh")).replace("\\\n", " ")
    found = re.findall(r"timeviper (bench [^#&;\n]*)", text)
    return [shlex.split(line.replace("$i/4", "1/4")) for line in found]


def test_the_python_runs_as_it_stands(tmp_path: Path) -> None:
    (code,) = blocks("python")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", f"from pathlib import Path\n{code}"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert (tmp_path / "film.mp4").stat().st_size > 0


@pytest.mark.parametrize("words", commands(), ids=" ".join)
def test_every_command_is_one_that_the_program_knows(words: list[str]) -> None:
    command: click.Command = typer.main.get_command(app)
    while isinstance(command, click.Group):
        command = command.commands[words.pop(0)]
    # Parses the words, and does not run.
    command.make_context("timeviper", words)


def test_there_are_commands() -> None:
    assert len(commands()) >= 8


def examples() -> list[str]:
    """Rows of the table of tasks."""
    grid = Grid(tasks=tuple(Task), frames=(256,), depths=(0.5,))
    rows = []
    for cell in grid.cells():
        question = grid.item(cell).asked[0].question
        options = len(question.options) or "–"
        rows.append(f"| {cell.task.value} | {question.question} | {question.answer} | {options} |")
    return rows


def test_the_examples_are_the_benchmarks_own() -> None:
    shown = [line for line in CARD.splitlines() if re.match(r"\| [a-z_]+ \| [A-Z]", line)]
    assert shown == examples(), "write these rows:\n" + "\n".join(examples())
