"""`timeviper data check` as users meet it: a table, JSON for machines, codes for scripts."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.e2e.program import assert_refused, called, timeviper
from tests.unit.training.data.toys import llava, varied, write_lines, write_media


@pytest.fixture(scope="module")
def media(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_media(tmp_path_factory.mktemp("data"))


def test_good_data_is_ready(media: Path, toy_folder: Path):
    path = write_lines(media / "good.jsonl", varied(10))
    ran = timeviper("data", "check", path, "--model", toy_folder, "--budget", 200)
    assert (ran.code, ran.err) == (0, "")
    assert "ready to train" in ran.out
    assert "% full" in ran.out
    assert "2 picture and video" in ran.out


def test_bad_data_is_told_and_ends_with_a_code(media: Path, tmp_path: Path, toy_folder: Path):
    bad = [llava("<video>a?", "b", video="none [1].mp4"), "{", llava("a?", "b" * 3000)]
    path = write_lines(tmp_path / "bad [2].jsonl", [*varied(5), *bad])
    words = ("data", "check", path, "--media-root", media, "--model", toy_folder)
    ran = called(*words)
    assert ran.code == 2
    for said in ("none [1].mp4", f"{path.name}:7", "expected", "do", "1 malformed record"):
        assert said in ran.out
    assert "ready" not in ran.out
    record = called(*words, "--json").json
    assert (record["good"], record["bad"]) == (5, 3)
    assert record["packs"]["budget"] == 512
    assert record["reasons"]["missing media"]["examples"][0]["where"] == f"{path}:6"


def test_long_videos_are_cut_on_request(media: Path, toy_folder: Path):
    record = llava("<video>\nWhen?", "now.", video="b.mp4")
    path = write_lines(media / "long.jsonl", [record])
    words = ("data", "check", path, "--model", toy_folder, "--budget", 60, "--json")
    assert called(*words).json["reasons"].keys() == {"longer than the budget"}
    cut = called(*words, "--cut")
    assert cut.code == 0
    assert 0 < cut.json["frames"]["most"] < 9
    assert cut.json["tokens"]["most"] <= 60


def test_a_config_is_checked_as_its_run_will_read_it(media: Path, tmp_path: Path, toy_folder: Path):
    write_lines(media / "one.jsonl", varied(5))
    write_lines(media / "two.jsonl", [*varied(3), "{"])
    config = {
        "datasets": [
            {"name": "one", "files": ["one.jsonl"]},
            {"name": "two", "files": ["tw*.jsonl"], "media_root": "."},
            {"name": "drawn", "reels": {}},
        ],
        "reading": {"budget": 300, "max_frames": 2},
        "durations": "known.json",
    }
    path = media / "data.json"
    path.write_text(json.dumps(config))
    ran = called("data", "check", "--config", path, "--model", toy_folder, "--json")
    assert ran.code == 2
    assert ran.json["datasets"] == {"one": 5, "two": 4}
    assert ran.json["packs"]["budget"] == 300
    assert ran.json["frames"]["most"] == 3
    assert "a.mp4" in (media / "known.json").read_text()
    assert "5 one, 4 two" in called("data", "check", "--config", path, "--model", toy_folder).out
    both = called("data", "check", media / "one.jsonl", "--config", path)
    assert_refused(both, says="either --config or files")
    assert_refused(called("data", "check"), says="at least one file")


def test_durations_are_kept_for_the_run_and_the_next_check(
    media: Path, tmp_path: Path, toy_folder: Path
):
    path = write_lines(media / "kept.jsonl", varied(5))
    known = tmp_path / "known.json"
    words = ("data", "check", path, "--model", toy_folder, "--durations", known, "--json")
    first = called(*words).json
    assert "a.mp4" in known.read_text()
    assert called(*words).json == first
    known.write_text("[]")
    assert_refused(called(*words), says="known.json")


def test_files_that_are_no_data_are_refused(tmp_path: Path):
    assert_refused(called("data", "check", tmp_path / "none.jsonl"), says="No such file")
    (tmp_path / "a.csv").write_text("a,b\n")
    assert_refused(called("data", "check", tmp_path / "a.csv"), says="JSON array")


def test_help_teaches_by_example():
    ran = called("data", "check", "--help")
    assert "timeviper data check videos.jsonl" in ran.out
    assert "webdataset" in ran.out
