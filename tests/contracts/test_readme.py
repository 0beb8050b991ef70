"""The README's Python blocks run as they stand, in order, beside a video of the name they use."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

from tests.contracts.source import ROOT

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
