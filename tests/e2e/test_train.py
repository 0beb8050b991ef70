"""`timeviper train` as a user runs it: look first, train, be killed, go on, be refused."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.e2e.program import assert_refused, called, timeviper
from tests.unit.training.crew import finish, launch
from tests.unit.training.journey import STEPS, write_run
from timeviper.cli.train import apply
from timeviper.core.errors import ConfigError
from timeviper.training.checkpoint import whole_steps


def test_a_dry_run_tells_what_learns_and_what_it_takes(tmp_path: Path) -> None:
    ran = called("train", write_run(tmp_path), "--dry-run", "--processes", 4)
    assert ran.code == 0, ran.err
    for words in ("stage align", "stage instruct", "projector", "frozen", "AdamW", "5e-03",
                  "tokens a step", "memory of a process"):  # fmt: skip
        assert words in ran.out, words
    assert not (tmp_path / "out").exists()


def test_a_dry_run_as_json(tmp_path: Path) -> None:
    ran = called("train", write_run(tmp_path), "--dry-run", "--json", "--set", "stages.0.steps=7")
    first, second = ran.json["stages"]
    assert first["tokens"] == 7 * 260
    assert {row["part"] for row in second["rows"] if row["trained"]} == {
        "projector", "language", "transfer"
    }  # fmt: skip


def test_a_run_trains_and_says_how_it_goes(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    ran = called("train", path, "--device", "cpu", "--json")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["complete"] is True
    assert f"step {STEPS}/{STEPS}" in ran.err
    assert "stage instruct" in ran.err
    assert (tmp_path / "out/instruct/model/config.json").exists()
    assert called("train", path, "--device", "cpu").err.strip() == "complete"


def test_a_run_that_is_asked_to_stop_saves_first(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    command = [sys.executable, "-m", "timeviper", "train", str(path), "--device", "cpu",
               "--set", "stages.0.steps=100000"]  # fmt: skip
    log = tmp_path / "out/align/run.jsonl"
    run = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"},
                           stderr=subprocess.PIPE, text=True)  # fmt: skip
    while not (log.exists() and len(log.read_text().splitlines()) > 2):
        assert run.poll() is None
        time.sleep(0.02)
    run.send_signal(signal.SIGTERM)
    said = run.communicate(timeout=60)[1]
    assert run.returncode == 0
    assert "stopping after the next checkpoint" in said
    assert "the same command goes on from here" in said
    last = json.loads(log.read_text().splitlines()[-1])["step"]
    assert whole_steps(tmp_path / "out/align/run") == [last]


@pytest.mark.slow
def test_a_killed_run_goes_on(tmp_path: Path) -> None:
    path = write_run(tmp_path, save_every_seconds=0.0)
    command = [sys.executable, "-m", "timeviper", "train", str(path), "--device", "cpu",
               "--set", "stages.1.steps=16"]  # fmt: skip
    log = tmp_path / "out/instruct/run.jsonl"
    run = subprocess.Popen(command, env=os.environ | {"OMP_NUM_THREADS": "1"},
                           stderr=subprocess.DEVNULL)  # fmt: skip
    while not (log.exists() and len(log.read_text().splitlines()) > 5):
        assert run.poll() is None
        time.sleep(0.02)
    run.send_signal(signal.SIGKILL)
    run.wait()
    ran = timeviper(*command[3:])
    assert ran.code == 0, ran.err
    rows = [json.loads(line) for line in log.read_text().splitlines()]
    found: dict[int, float] = {}
    for row in rows:
        # A step that was done twice had the same loss both times.
        assert found.setdefault(row["step"], row["loss"]) == row["loss"]
    assert sorted(found) == list(range(1, 17))


@pytest.mark.slow
def test_a_process_that_loses_its_peer_says_so_and_ends(tmp_path: Path) -> None:
    path = write_run(tmp_path, save_every_seconds=0.0)
    words = ("train", path, "--device", "cpu", "--set", "stages.0.steps=100000")
    first, second = launch("timeviper", *words, ranks=2)
    log = tmp_path / "out/align/run.jsonl"
    while not (log.exists() and len(log.read_text().splitlines()) > 2):
        assert first.poll() is None
        time.sleep(0.02)
    second.kill()
    (code, _, said), _ = finish([first, second])
    assert code == 2, said
    for part in ("expected", "all 2 processes", "look for the process that died first"):
        assert part in said
    assert whole_steps(tmp_path / "out/align/run")


def test_refusals_say_what_to_do(tmp_path: Path) -> None:
    path = write_run(tmp_path)
    for words, says in (
        (["train", tmp_path / "none.json"], "to be a JSON file"),
        (["train", path, "--set", "nothing"], "stages.0.steps=100"),
        (["train", path, "--set", "stages.9.steps=1"], "a path that is there"),
        (["train", path, "--set", "sizes=1"], "unknown key 'sizes'"),
        (["train", path, "--set", "start.model=nobody", "--device", "cpu"], "nobody"),
        (["train", path, "--set", "stages.0.data.datasets.0.files=[\"no.jsonl\"]",
          "--device", "cpu"], "no.jsonl"),
    ):  # fmt: skip
        assert_refused(called(*words), says=says)


@pytest.mark.parametrize(
    ("change", "want"),
    [
        ("a.b=2", {"a": {"b": 2}, "c": [1, 2]}),
        ("a.b=[1, 2]", {"a": {"b": [1, 2]}, "c": [1, 2]}),
        ("a.new=text", {"a": {"b": 1, "new": "text"}, "c": [1, 2]}),
        ("c.1=null", {"a": {"b": 1}, "c": [1, None]}),
        ("a.b=x=y", {"a": {"b": "x=y"}, "c": [1, 2]}),
    ],
)
def test_settings_are_changed_by_path(change: str, want: dict) -> None:
    data = {"a": {"b": 1}, "c": [1, 2]}
    assert apply(data, [change]) == want
    assert data == {"a": {"b": 1}, "c": [1, 2]}


@pytest.mark.parametrize("change", ["b.x=1", "c.5=1", "c.x=1", "a.b.c.d=1", "=1"])
def test_paths_that_lead_nowhere_are_refused(change: str) -> None:
    with pytest.raises(ConfigError, match="a path that is there"):
        apply({"a": {"b": 1}, "c": [1, 2]}, [change])
