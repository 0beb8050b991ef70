"""`timeviper encode`, `info`, and `ask` of what they are about, as a user meets them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from tests.e2e.program import assert_refused, called, timeviper
from tests.toy_engine import noise, toy_engine, write_video
from timeviper.inference.files.sealed import is_state_file
from timeviper.weights.native import save_model


@pytest.fixture(scope="module")
def state(toy_folder: Path, video: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("state") / "noise [1].tvstate"
    ran = called("encode", video, "-o", path, "--model", toy_folder, "--thumbnails")
    assert ran.code == 0, ran.err
    assert ran.out.strip().replace("\n", "") == str(path)
    assert "set aside" in ran.err
    return path


def _answer(*words: object) -> str:
    ran = called("ask", *words, "--json")
    assert ran.code == 0, ran.err
    return ran.json["answer"]


def test_a_process_asks_what_another_encoded(toy_folder: Path, video: Path, tmp_path: Path) -> None:
    path = tmp_path / "new folder" / "a.tvstate"
    encoded = timeviper("encode", video, "-o", path, "--model", toy_folder, "--json").json
    assert encoded["bytes"] == path.stat().st_size <= encoded["forecast_bytes"]
    assert encoded["frames"] == 12
    assert [p.name for p in path.parent.iterdir()] == ["a.tvstate"]
    asked = timeviper("ask", path, "What?", "--model", toy_folder, "--json").json
    plain = called("ask", video, "What?", "--model", toy_folder, "--json").json
    assert asked["answer"] == plain["answer"]
    assert (asked["frames"], asked["duration_seconds"]) == (12, plain["duration_seconds"])
    assert asked["timing"]["prefill"] == asked["timing"]["encode"] == 0


def test_a_state_file_is_known_by_its_content(toy_folder: Path, state: Path, tmp_path: Path):
    shutil.copy(state, tmp_path / "film.mp4")
    assert _answer(tmp_path / "film.mp4", "What?", "--model", toy_folder)


def test_several_questions_are_answered_one_by_one(toy_folder: Path, state: Path, video: Path):
    questions = ["What?", "When does the cat appear?"]
    words = ("--model", toy_folder, "--json")
    of_file = called("ask", state, *questions, *words).json["answers"]
    of_video = called("ask", video, *questions, *words).json["answers"]
    assert [told["question"] for told in of_file] == questions
    assert [told["answer"] for told in of_file] == [told["answer"] for told in of_video]
    assert of_video[0]["timing"]["prefill"] > 0 == of_video[1]["timing"]["prefill"]


def test_info_tells_what_is_in_it_without_a_model(state: Path, tmp_path: Path) -> None:
    told = timeviper("info", state, "--json", "--verify").json
    assert told["verified"] is True
    assert (told["frames"], told["duration_seconds"]) == (12, pytest.approx(12))
    assert told["source"] == "noise [1].mp4"
    assert told["bytes"] == state.stat().st_size
    assert len(told["thumbnails"]) == 12
    shown = called("info", state, "--thumbnails", tmp_path / "pictures")
    for words in ("12 frames of 00:12", "12 pictures", "toy-transv", "float32", "to rank"):
        assert words in shown.out, shown.out
    pictures = sorted((tmp_path / "pictures").iterdir())
    assert len(pictures) == 12
    with Image.open(pictures[0]) as picture:
        assert (picture.format, picture.size) == ("JPEG", (72, 72))


def test_info_loads_nothing_heavy(state: Path) -> None:
    code = (
        f"import sys; sys.argv[1:] = ['info', {str(state)!r}, '--verify']\n"
        "from timeviper.cli.main import app\n"
        "try: app()\n"
        "finally: print([n for n in ('torch', 'av', 'transformers') if n in sys.modules])"
    )
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60)
    assert ran.stdout.splitlines()[-1] == "[]", ran.stderr


def test_a_compressed_file_is_smaller_and_says_so(
    toy_folder: Path, video: Path, state: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.tvstate"
    words = ("-o", path, "--model", toy_folder, "--compress", "fp8", "--json")
    assert called("encode", video, *words).json["compress"] == "fp8"
    assert path.stat().st_size < state.stat().st_size
    assert any("fp8" in note for note in _notes(path, toy_folder))
    assert called("info", path, "--json").json["thumbnails"] == []


def _notes(path: Path, model: Path) -> list[str]:
    return called("ask", path, "What?", "--model", model, "--json").json["notes"]


def test_a_cache_reads_a_video_once_whatever_its_name(
    toy_folder: Path, video: Path, tmp_path: Path
) -> None:
    cache = ("--cache", tmp_path / "cache", "--model", toy_folder, "--json")
    first = called("ask", video, "What?", *cache).json
    copy = shutil.copy(video, tmp_path / "copy.mp4")
    second = called("ask", copy, "What?", *cache).json
    assert first["answer"] == second["answer"]
    assert first["timing"]["prefill"] > 0 == second["timing"]["prefill"]
    record = called("encode", copy, *cache).json
    assert record["from_cache"] is True
    assert "file" not in record
    record = called("encode", copy, "-o", tmp_path / "a.tvstate", *cache).json
    assert record["from_cache"] is True
    assert is_state_file(tmp_path / "a.tvstate")
    assert len(list((tmp_path / "cache").iterdir())) == 1


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--fps", 2], "--fps"),
        (["--max-frames", 2, "--start", 3], "--max-frames, --start"),
        (["--cache", "x"], "--cache"),
    ],
)
def test_a_state_file_is_not_looked_at_otherwise(words: list[object], says: str, state: Path):
    assert_refused(called("ask", state, "What?", *words), says=says)


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-1])


def _changed(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


def _of_another_version(path: Path) -> None:
    data = path.read_bytes()
    path.write_bytes(data.replace(b'\\"version\\":1,', b'\\"version\\":7,', 1))


def _no_state_file(path: Path) -> None:
    path.write_bytes(b"no state file at all")


@pytest.mark.parametrize(
    ("spoil", "says"),
    [
        (_cut, "whole state file"),
        (_changed, "other bytes in"),
        (_of_another_version, "version 7"),
        (_no_state_file, "another kind of file"),
        (Path.unlink, "no such file"),
    ],
)
def test_bad_state_files_are_refused_by_all(
    spoil, says: str, toy_folder: Path, state: Path, tmp_path: Path
) -> None:
    path = tmp_path / "a.tvstate"
    shutil.copy(state, path)
    spoil(path)
    assert_refused(called("ask", path, "What?", "--model", toy_folder), says=says)
    assert_refused(called("info", path, "--verify"), says=says)


def test_another_model_is_refused_with_its_difference(
    toy_folder: Path, state: Path, tmp_path: Path
) -> None:
    other = toy_engine("drop-only", context=512)
    save_model(other.model.float(), tmp_path / "other")
    other.processor.save(tmp_path / "other")
    assert_refused(called("ask", state, "What?", "--model", tmp_path / "other"), says="config")


def test_wishes_that_make_no_sense_are_refused(video: Path, state: Path, tmp_path: Path) -> None:
    out = tmp_path / "a.tvstate"
    assert_refused(called("encode", video), says="neither -o nor --cache")
    assert_refused(called("encode", video, "-o", video), says="something else")
    assert_refused(called("encode", state, "-o", out), says="encoded already")
    assert_refused(called("encode", video, "-o", out, "--compress", "zip"), says="none, bf16, fp8")
    assert_refused(called("encode", video, "-o", out, "--start", "soon"), says="--start")
    assert_refused(called("encode", tmp_path / "none.mp4", "-o", out), says="does not exist")
    cache = ("--cache", tmp_path / "cache", "--cache-gb")
    assert_refused(called("encode", video, "-o", out, *cache, "0"), says="--cache-gb")
    assert not out.exists()


# The program itself, which may write no file larger than told, and says when it reads.
_PROGRAM = """
import resource, sys
limit = int(sys.argv.pop(1))
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, limit))
from timeviper.cli.main import app
from timeviper.inference.engine import Engine
encode = Engine.encode
def told(*args, **options):
    print("reading", flush=True)
    return encode(*args, **options)
Engine.encode = told
app()
"""


def _program(limit: int, *words: object) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", _PROGRAM, str(limit), *map(str, words)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"NO_COLOR": "1", "OMP_NUM_THREADS": "1"},
    )


def test_a_full_disk_is_told_before_a_frame_is_read(
    toy_folder: Path, video: Path, tmp_path: Path
) -> None:
    ran = _program(4096, "encode", video, "-o", tmp_path / "a.tvstate", "--model", toy_folder)
    out, err = ran.communicate(timeout=60)
    assert ran.returncode == 2, err
    assert out == ""
    assert "File too large" in err
    assert list(tmp_path.iterdir()) == []


def test_cancelled_encoding_leaves_nothing_behind(toy_folder: Path, tmp_path: Path) -> None:
    long = write_video(tmp_path / "long.mp4", noise(900, side=32))
    out = tmp_path / "out"
    out.mkdir()
    (out / "a.tvstate").touch()
    ran = _program(0, "encode", long, "-o", out / "a.tvstate", "--model", toy_folder)
    assert ran.stdout is not None
    assert ran.stdout.readline() == "reading\n"
    ran.send_signal(signal.SIGINT)
    _, err = ran.communicate(timeout=60)
    assert ran.returncode == 130, err
    assert "Traceback" not in err
    assert [path.name for path in out.iterdir()] == ["a.tvstate"]
    assert (out / "a.tvstate").stat().st_size == 0


def test_the_tiny_model_answers_from_a_file_as_from_the_video(tmp_path: Path) -> None:
    video = write_video(tmp_path / "a.mp4", noise(10, side=96))
    path = tmp_path / "a.tvstate"
    record = called("encode", video, "-o", path, "--json").json
    assert json.dumps(record)
    question = "When does the cat appear?"
    assert _answer(path, question) == _answer(video, question)
