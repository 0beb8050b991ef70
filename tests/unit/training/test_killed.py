"""Real processes ended by SIGKILL, also amid a save: what goes on is the run that never stopped."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import torch
from safetensors.torch import load_file

from tests.unit.training import victim

KILLS = 6


def losses(folder: Path) -> dict[int, float]:
    """Loss of each step; one done twice must have had the same, none before it is done again."""
    found: dict[int, float] = {}
    last = 0
    for line in folder.with_name(folder.name + ".jsonl").read_text().splitlines():
        row = json.loads(line)
        assert found.setdefault(row["step"], row["loss"]) == row["loss"], row
        # One is written while the next is learned: at most these two are lost.
        assert last - 1 <= row["step"] <= last + 1, row
        last = row["step"]
    return found


def test_killed_again_and_again_equals_uninterrupted(tmp_path: Path) -> None:
    cut, whole = tmp_path / "cut", tmp_path / "whole"
    ran = subprocess.run(
        [sys.executable, "-m", "tests.unit.training.victim", str(cut), str(KILLS)],
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )
    assert ran.returncode == 0, ran.stderr
    # Each one within a save died; of the random moments some may come after the end.
    assert int(ran.stdout) > len(victim.OPERATIONS)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    victim.run(whole, save_every_seconds=1e9)
    torch.set_num_threads(threads)
    want = losses(whole)
    assert sorted(want) == list(range(1, victim.STEPS + 1))
    assert losses(cut) == want
    a, b = load_file(tmp_path / "cut.final"), load_file(tmp_path / "whole.final")
    assert a.keys() == b.keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    # A finished run leaves its last checkpoints and no pieces of others.
    last = [f"step-{step:08d}" for step in (victim.STEPS - 1, victim.STEPS)]
    assert sorted(p.name for p in cut.iterdir()) == last
