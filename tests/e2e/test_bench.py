"""`timeviper bench`: from the first film to the report, ended in every way and gone on with."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.program import assert_refused, called
from timeviper.evaluation.synthreel import run as running
from timeviper.evaluation.synthreel.answerers import EngineAnswerer
from timeviper.evaluation.synthreel.rows import read_rows
from timeviper.evaluation.synthreel.run import answer_files
from timeviper.synth.tasks import Task

GRID = ("--tasks", "retrieval,absent", "--frames", "32", "--depths", "0,1", "--film", "32x32@1")
TERSE = ("--max-tokens", 3, "--workers", 0)
ANSWERS = 2 * (5 + 3)


def bench(model: Path, out: Path, *words: object) -> tuple[object, ...]:
    return ("bench", "synthreel", "--model", model, "--out", out, *GRID, *TERSE, *words)


@pytest.fixture(scope="module")
def whole(toy_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder of a run that nobody disturbed."""
    out = tmp_path_factory.mktemp("bench") / "whole"
    ran = called(*bench(toy_folder, out, "--json"))
    assert ran.code == 0, ran.err
    assert ran.json["answers"] == ANSWERS
    assert set(ran.json["tasks"]) == {"absent", "retrieval"}
    return out


def texts(out: Path) -> dict[tuple[str, str, int], str]:
    return {row.key: row.got for row in read_rows(answer_files(out))}


def test_a_run_leaves_answers_tables_pictures_and_a_manifest(whole: Path) -> None:
    names = {path.name for path in whole.iterdir()}
    assert names >= {
        "answers-1-of-1.jsonl", "manifest.json", "report.json", "report.csv", "report.md",
        "heatmap.png", "heatmap-retrieval.png", "films",
    }  # fmt: skip
    manifest = json.loads((whole / "manifest.json").read_text())
    assert set(manifest["frames_shown"].values()) == {32}
    assert [session["event"] for session in manifest["sessions"]] == ["begin", "end"]
    assert manifest["subject"]["answerer"]["kind"] == "engine"
    with Image.open(whole / "heatmap.png") as image:
        assert image.format == "PNG"
    assert len(list((whole / "films").glob("*.mp4"))) == 4


def test_the_same_command_again_asks_nothing(
    whole: Path, toy_folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def never(*args: object, **kwargs: object) -> None:
        raise AssertionError("asked again")

    monkeypatch.setattr(EngineAnswerer, "answers", never)
    ran = called(*bench(toy_folder, whole))
    assert ran.code == 0, ran.err
    assert "retrieval" in ran.out
    assert "95 %" in ran.out


def test_the_report_can_be_made_again_and_elsewhere(whole: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(whole, copy, ignore=shutil.ignore_patterns("films", "report*", "heatmap*"))
    ran = called("bench", "report", copy, "--json")
    assert ran.json["tasks"] == json.loads((whole / "report.json").read_text())["tasks"]
    assert (copy / "report.csv").read_text() == (whole / "report.csv").read_text()


def _start(*words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-m", "timeviper", *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "COLUMNS": "100", "NO_COLOR": "1"},
    )


def _wait_for_answers(out: Path, process: subprocess.Popen[str]) -> None:
    """Until the first film is answered, while others still wait."""
    patience = time.monotonic() + 90
    while not any(path.stat().st_size for path in answer_files(out)):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < patience
        time.sleep(0.005)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGKILL, -signal.SIGKILL), (signal.SIGINT, 130)]
)
def test_ended_by_a_signal_and_gone_on_with(
    whole: Path, toy_folder: Path, tmp_path: Path, number: signal.Signals, code: int
) -> None:
    out = tmp_path / "out"
    process = _start(*bench(toy_folder, out))
    _wait_for_answers(out, process)
    process.send_signal(number)
    _, err = process.communicate(timeout=60)
    assert process.returncode == code
    assert "Traceback" not in err
    if number is signal.SIGINT:
        assert "the same command goes on" in err
    before = texts(out)
    assert 0 < len(before) < ANSWERS
    assert called(*bench(toy_folder, out)).code == 0
    assert texts(out) == texts(whole)
    assert before.items() <= texts(out).items()


@pytest.mark.slow
def test_renderers_end_with_a_killed_parent(toy_folder: Path, tmp_path: Path) -> None:
    words = ("bench", "synthreel", "--out", tmp_path, "--films-only", "--workers", 1)
    # Hours of film: it is ended long before it is done.
    process = _start(*words, "--tasks", "retrieval", "--frames", "14400", "--seeds", 9)
    patience = time.monotonic() + 60
    while not list((tmp_path / "films").glob(".*.part")):
        assert process.poll() is None, process.communicate()
        assert time.monotonic() < patience
        time.sleep(0.02)
    (part,) = (tmp_path / "films").glob(".*.part")
    process.kill()
    process.communicate(timeout=60)
    # Whoever held the file open is gone soon: it no longer grows.
    time.sleep(1.0)
    size = part.stat().st_size
    time.sleep(1.0)
    assert part.stat().st_size == size
    worker = int(part.name.split(".")[2])
    with pytest.raises(ProcessLookupError):
        os.kill(worker, 0)


def test_shards_share_a_folder(whole: Path, toy_folder: Path, tmp_path: Path) -> None:
    for shard in ("1/2", "2/2"):
        assert called(*bench(toy_folder, tmp_path, "--shard", shard)).code == 0
    assert texts(tmp_path) == texts(whole)
    assert len(answer_files(tmp_path)) == 2


def test_films_first_then_questions(whole: Path, toy_folder: Path, tmp_path: Path) -> None:
    ran = called(*bench(toy_folder, tmp_path, "--films-only", "--json"))
    assert ran.json["frames"] == 4 * 32
    assert ran.json["frames_per_second"] > 0
    films = {path.name: path.read_bytes() for path in (whole / "films").iterdir()}
    assert {path.name: path.read_bytes() for path in (tmp_path / "films").iterdir()} == films
    assert not answer_files(tmp_path)


def test_the_blind_are_measured_without_films(toy_folder: Path, tmp_path: Path) -> None:
    ran = called(*bench(toy_folder, tmp_path, "--control", "blind", "--json"))
    assert ran.json["answers"] == ANSWERS
    assert ran.json["overall"]["frames_shown"] == [0, 0]
    assert not (tmp_path / "films").exists()


def test_export_writes_a_task(tmp_path: Path) -> None:
    words = ("bench", "export", "--format", "lmms-eval", "--out", tmp_path / "task")
    ran = called(*words, *GRID, "--workers", 0, "--json")
    assert ran.json["films"] == 4
    assert Path(ran.json["task"]).name == "synthreel.yaml"
    assert len(list((tmp_path / "task" / "videos").glob("*.mp4"))) == 4


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (("--tasks", "fly"), "retrieval"),
        (("--frames", "many"), "--frames"),
        (("--frames", "4"), "16 to 14400"),
        (("--depths", "2"), "depths from 0"),
        (("--film", "huge"), "WIDTHxHEIGHT"),
        (("--film", "31x32"), "even height"),
        (("--shard", "3/2"), "shard"),
        (("--control", "deaf"), "blind"),
        (("--transv", "maybe"), "shipped"),
        (("--haystack", "footage:/nowhere"), "folder with clips"),
        (("--model", "gpt-9"), "tiny"),
        (("--endpoint", "localhost"), "http://"),
        (("--endpoint", "http://127.0.0.1:9/v1"), "--endpoint-model"),
        (("--endpoint", "http://h/v1", "--endpoint-video", "film"), "file"),
    ],
)
def test_bad_input_is_told(
    toy_folder: Path, tmp_path: Path, words: tuple[str, ...], says: str
) -> None:
    assert_refused(called(*bench(toy_folder, tmp_path / "out"), *words), says=says)


def test_a_server_that_is_not_there_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(time, "sleep", lambda seconds: None)
    for name in ("http_proxy", "HTTP_PROXY", "all_proxy", "ALL_PROXY"):
        monkeypatch.delenv(name, raising=False)
    words = ("--endpoint", "http://127.0.0.1:9/v1", "--endpoint-model", "m", "--control", "blind")
    ran = called(*bench(tmp_path, tmp_path / "out", *words))
    assert_refused(ran, says="see that the server runs")


def test_a_folder_of_another_grid_and_one_that_cannot_be_written_are_told(
    whole: Path, toy_folder: Path, tmp_path: Path
) -> None:
    other = called(*bench(toy_folder, whole, "--seeds", 2))
    assert_refused(other, says="another --out")
    (tmp_path / "file").write_text("")
    assert_refused(called(*bench(toy_folder, tmp_path / "file")), says="folder to write to")
    assert_refused(called("bench", "report", tmp_path), says="manifest")
    assert_refused(
        called("bench", "export", "--out", tmp_path, "--format", "csv"), says="lmms-eval"
    )


def test_a_disk_that_fills_up_is_told_and_nothing_is_lost(
    whole: Path, toy_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = running.append_rows
    written: list[Path] = []

    def full(path: Path, rows: object) -> None:
        if written:
            # The name of a folder that is gone: the file system refuses, as a full one does.
            path = path.parent / "gone" / path.name
        written.append(path)
        write(path, rows)

    monkeypatch.setattr(running, "append_rows", full)
    assert_refused(called(*bench(toy_folder, tmp_path)), says="answers so far are kept")
    monkeypatch.undo()
    assert called(*bench(toy_folder, tmp_path)).code == 0
    assert texts(tmp_path) == texts(whole)


def test_help_teaches() -> None:
    told = called("bench", "synthreel", "--help").out
    for word in (
        *(task.value for task in Task),
        "--control oracle",
        "--shard",
        "--films-only",
        "--endpoint",
        "goes on",
    ):
        assert word in told, word
