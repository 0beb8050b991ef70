"""The README's Python blocks run as they stand, and its commands answer as they are shown to."""

from __future__ import annotations

import json
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from tests.contracts.source import ROOT

CONSOLE = re.compile(r"^```console\n\$ timeviper (.*?)\n(.*?)^```", flags=re.M | re.S)
BLOCK = re.compile(r"^```python\n(.*?)^```", flags=re.M | re.S)


def blocks() -> list[str]:
    """Python code blocks of the README, in order."""
    return BLOCK.findall((ROOT / "README.md").read_text(encoding="utf-8"))


def test_python_blocks_run(tmp_path: Path) -> None:
    assert blocks(), "the README shows no Python"
    make = [sys.executable, "-m", "timeviper", "synth", "make", "--task", "when"]
    make += ["--frames", "90", "--seed", "7", "--out", "made"]
    subprocess.run(make, cwd=tmp_path, check=True, capture_output=True, timeout=120)
    (tmp_path / "made" / "video.mp4").rename(tmp_path / "video.mp4")
    run = subprocess.run(
        [sys.executable, "-W", "error", "-c", "\n".join(blocks())],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert run.returncode == 0, run.stderr[-2000:]


@pytest.mark.timeout(500)
def test_the_demo_is_right_and_the_command_answers_as_shown(tmp_path: Path) -> None:
    def say(*words: str) -> str:
        command = [sys.executable, "-m", "timeviper", *words]
        run = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, timeout=240)
        assert run.returncode == 0, run.stderr[-2000:]
        return run.stdout

    told = json.loads(say("demo", "--json"))["questions"]
    assert [one["right"] for one in told] == [True] * 3, told
    shown = CONSOLE.findall((ROOT / "README.md").read_text(encoding="utf-8"))
    assert shown, "the README shows no command with its answer"
    for words, answer in shown:
        assert say(*shlex.split(words)) == answer
