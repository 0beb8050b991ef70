"""Run `timeviper` as a process or called in this one; the manners that every failure has."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from typer.testing import CliRunner

from timeviper.cli.main import app


@dataclass(frozen=True)
class Ran:
    """What a finished process left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        """Stdout as one JSON document; anything else on stdout fails here."""
        return json.loads(self.out)


def timeviper(*words: object, cwd: Path | None = None, timeout: float = 120) -> Ran:
    """Run the program with stdin closed and no terminal."""
    run = subprocess.run(
        [sys.executable, "-m", "timeviper", *map(str, words)],
        capture_output=True,
        text=True,
        stdin=subprocess.DEVNULL,
        cwd=cwd,
        timeout=timeout,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"},
    )
    return Ran(run.returncode, run.stdout, run.stderr)


def called(*words: object) -> Ran:
    """The same program without a process: seconds faster, where a process is not the point.

    What escapes the program is raised here, as a process would end in a traceback.
    """
    runner = CliRunner(env={"COLUMNS": "100", "NO_COLOR": "1"})
    result = runner.invoke(app, [*map(str, words)], catch_exceptions=False)
    return Ran(result.exit_code, result.stdout, result.stderr)


def assert_refused(ran: Ran, *, says: str) -> None:
    """A refusal: exit code 2, nothing on stdout, one message of three parts, no traceback."""
    assert ran.code == 2, (ran.code, ran.err[-2000:])
    assert ran.out == ""
    assert "Traceback" not in ran.err
    for part in ("expected", "got", "do"):
        assert part in ran.err, ran.err
    assert says.lower() in ran.err.lower(), ran.err
