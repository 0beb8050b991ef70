"""`timeviper demo` and `synth make` leave whole files and tell the truth beside answers."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.program import assert_refused, called, timeviper


def test_the_demo_answers_draws_and_reports(toy_folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "shown"
    words = ("--out", out, "--frames", 40, "--seed", 3, "--model", toy_folder, "--json")
    record = timeviper("demo", *words).json
    assert record["frames"] == 40
    assert len(record["questions"]) == 3
    for told in record["questions"]:
        assert told["question"].endswith("?")
        # Random weights know nothing; a demo that called them right would be lying.
        assert told["expected"]
        assert told["answer"] != told["expected"]
        assert told["right"] is False
    assert {path.name for path in out.iterdir()} == {"video.mp4", "storyboard.png"}
    with Image.open(out / "storyboard.png") as image:
        assert image.width == 1280


def test_synth_makes_the_same_files_again(tmp_path: Path) -> None:
    words = ("synth", "make", "--task", "when", "--frames", 32, "--seed", 5, "--json", "--out")
    first, second = timeviper(*words, tmp_path / "a").json, timeviper(*words, tmp_path / "b").json
    rows = [json.loads(line) for line in Path(first["questions"]).read_text().splitlines()]
    assert {"question", "answer", "options", "start_seconds", "end_seconds"} <= set(rows[0])
    assert rows[0]["answer"] == rows[0]["choice"] in rows[0]["options"]
    assert 0 <= rows[0]["start_seconds"] < rows[0]["end_seconds"] <= 32
    for name in ("video", "questions"):
        assert Path(first[name]).read_bytes() == Path(second[name]).read_bytes()


def test_synth_puts_a_moment_where_it_is_wanted(tmp_path: Path) -> None:
    words = ("synth", "make", "--task", "retrieval", "--frames", 24, "--depth", 1, "--out")
    run = called(*words, tmp_path)
    assert run.code == 0, run.err
    (row,) = map(json.loads, (tmp_path / "questions.jsonl").read_text().splitlines())
    assert row["end_seconds"] == 24


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--task", "dance"], "dance"),
        (["--frames", "0"], "frames"),
        (["--task", "when", "--depth", "2"], "depth"),
        (["--depth", "0.5"], "depth"),
    ],
)
def test_synth_refuses_what_it_cannot_draw(options: list[str], says: str, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert_refused(called("synth", "make", *options, "--out", out), says=says)
    assert not out.exists()
