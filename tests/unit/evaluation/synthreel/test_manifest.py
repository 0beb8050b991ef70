"""Manifests: one subject a folder, many processes, everything that happened."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import pytest

from tests.unit.evaluation.synthreel.bench import row, small_grid
from timeviper.core.errors import RequestError
from timeviper.evaluation.synthreel.manifest import (
    Subject,
    claim,
    complete,
    machine,
    note_session,
    read_grid,
    read_manifest,
)
from timeviper.synth.tasks import Task

SUBJECT = Subject(
    grid=small_grid(), answerer={"kind": "engine", "fingerprint": "ab"}, control="none"
)


def test_a_folder_is_claimed_once_and_again_by_the_same(tmp_path: Path) -> None:
    claim(tmp_path, SUBJECT)
    first = (tmp_path / "manifest.json").read_bytes()
    claim(tmp_path, SUBJECT)
    assert (tmp_path / "manifest.json").read_bytes() == first
    assert read_grid(tmp_path) == SUBJECT.grid
    assert [path.name for path in tmp_path.iterdir()] == ["manifest.json"]


@pytest.mark.parametrize(
    ("other", "says"),
    [
        (replace(SUBJECT, grid=small_grid(seeds=2)), "grid.seeds 1 instead of 2"),
        (replace(SUBJECT, grid=small_grid(Task.WHEN)), "grid.tasks"),
        (replace(SUBJECT, answerer={"kind": "engine", "fingerprint": "cd"}), "'ab' instead of"),
        (replace(SUBJECT, control="blind"), "control 'none' instead of 'blind'"),
    ],
)
def test_a_folder_of_another_benchmark_is_refused(
    tmp_path: Path, other: Subject, says: str
) -> None:
    claim(tmp_path, SUBJECT)
    with pytest.raises(RequestError, match=r"another --out") as caught:
        claim(tmp_path, other)
    assert says in caught.value.got


def test_of_many_that_claim_at_once_all_win_or_all_but_one_are_told(tmp_path: Path) -> None:
    subjects = [SUBJECT] * 4 + [replace(SUBJECT, control="blind")] * 4

    def attempt(subject: Subject) -> str:
        try:
            claim(tmp_path, subject)
        except RequestError:
            return "refused"
        return subject.control

    with ThreadPoolExecutor(8) as pool:
        told = list(pool.map(attempt, subjects))
    assert sorted(told) in (sorted(["none"] * 4 + ["refused"] * 4), ["blind"] * 4 + ["refused"] * 4)


def test_a_manifest_tells_sessions_machine_and_frames(tmp_path: Path) -> None:
    claim(tmp_path, SUBJECT)
    note_session(tmp_path, "begin", {"shard": "1/1", **machine("cpu")})
    note_session(tmp_path, "interrupted", {})
    with (tmp_path / "sessions.jsonl").open("a") as handle:
        handle.write('{"event": "beg')
    complete(tmp_path, [row("a", looked=30), row("b", looked=64)])
    found = read_manifest(tmp_path)
    assert [session["event"] for session in found["sessions"]] == ["begin", "interrupted"]
    assert found["sessions"][0]["versions"].keys() >= {"timeviper", "torch", "python", "av"}
    assert found["sessions"][0]["hardware"]["cores"] >= 1
    assert found["frames_shown"] == {"a": 30, "b": 64}
    assert found["began"] <= found["ended"]
    assert found["subject"] == json.loads(json.dumps(SUBJECT.to_dict()))
    # It stays the same benchmark's folder.
    claim(tmp_path, SUBJECT)


def test_what_is_no_manifest_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="manifest of a benchmark"):
        read_grid(tmp_path)
    for text in ("{", "[]", '{"grid": 1}'):
        (tmp_path / "manifest.json").write_text(text)
        with pytest.raises(RequestError, match="manifest of a benchmark"):
            claim(tmp_path, SUBJECT)
    (tmp_path / "manifest.json").write_text('{"subject": {"grid": {"tasks": ["flying"]}}}')
    with pytest.raises(RequestError, match="grid of this version"):
        read_grid(tmp_path)


def test_a_folder_that_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="folder to write to"):
        claim(tmp_path / "none", SUBJECT)
