"""`timeviper ask`: what it prints where as a process, and how it refuses."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file

from tests.e2e.program import assert_refused, called, timeviper
from tests.toy_engine import noise, write_video
from tests.unit.video.files import sound_only

KEYS = {
    "answer", "start_seconds", "end_seconds", "frames", "duration_seconds", "timing",
    "peak_bytes", "notes",
}  # fmt: skip


def test_json_is_alone_on_stdout_and_complete(toy_folder: Path, video: Path) -> None:
    ran = timeviper("ask", video, "What?", "--model", toy_folder, "--json", "--max-frames", 5)
    record = ran.json
    assert set(record) == KEYS
    assert record["frames"] == 5
    assert record["duration_seconds"] == pytest.approx(12)
    assert set(record["timing"]) == {"decode", "encode", "prefill", "answer"}
    assert record["peak_bytes"] > 10**6
    assert any("max_frames" in note for note in record["notes"])


def test_a_pipe_gets_the_words_and_nothing_else(toy_folder: Path, video: Path) -> None:
    words = ("ask", video, "What?", "--model", toy_folder, "--start", "00:02", "--end", "6")
    ran = timeviper(*words)
    assert ran.code == 0
    assert ran.out.strip()
    assert "frames of" not in ran.out
    assert "4 frames of 00:12" in ran.err


def _truncated(folder: Path) -> Path:
    whole = write_video(folder / "whole.mp4", noise(6, side=32))
    (folder / "cut.mp4").write_bytes(whole.read_bytes()[:200])
    return folder / "cut.mp4"


def _empty(folder: Path) -> Path:
    (folder / "empty.mp4").touch()
    return folder / "empty.mp4"


def _text(folder: Path) -> Path:
    (folder / "notes.mp4").write_text("no video at all " * 100)
    return folder / "notes.mp4"


def _huge(folder: Path) -> Path:
    header = b"GIF89a" + (16384).to_bytes(2, "little") * 2 + bytes(100)
    (folder / "huge.gif").write_bytes(header)
    return folder / "huge.gif"


def _bare_folder(folder: Path) -> Path:
    (folder / "readme.txt").write_text("nothing to see")
    return folder


BAD_VIDEOS = {
    "missing": (lambda folder: folder / "none.mp4", "does not exist"),
    "empty": (_empty, "empty"),
    "truncated": (_truncated, "cut.mp4"),
    "audio only": (lambda folder: sound_only(folder / "sound.m4a"), "video"),
    "not a video": (_text, "notes.mp4"),
    "16k": (_huge, "16384"),
    "folder without frames": (_bare_folder, "folder"),
}


@pytest.mark.parametrize("kind", BAD_VIDEOS)
def test_bad_videos_are_refused_before_a_model_is_loaded(kind: str, tmp_path: Path) -> None:
    make, says = BAD_VIDEOS[kind]
    assert_refused(timeviper("ask", make(tmp_path), "What?", "--json", timeout=30), says=says)


def test_a_single_pixel_is_no_crash(toy_folder: Path, tmp_path: Path) -> None:
    Image.fromarray(np.zeros((1, 1, 3), np.uint8)).save(tmp_path / "dot.png")
    ran = called("ask", tmp_path / "dot.png", "What?", "--model", toy_folder, "--json")
    assert ran.code == 0, ran.err
    assert ran.json["frames"] == 1


@pytest.mark.parametrize(
    ("options", "says"),
    [
        (["--fps", "0"], "fps"),
        (["--fps", "nan"], "fps"),
        (["--fps", "1", "--num-frames", "3"], "num_frames"),
        (["--max-frames", "0"], "max_frames"),
        (["--start", "5", "--end", "4"], "end"),
        (["--start", "soon"], "--start"),
        (["--model", "nobody/knows"], "ships"),
    ],
)
def test_bad_options_are_refused(options: list[str], says: str, video: Path) -> None:
    assert_refused(called("ask", video, "What?", *options), says=says)


@pytest.mark.parametrize(("question", "says"), [("  ", "question"), ("why " * 600, "512")])
def test_bad_questions_are_refused(question: str, says: str, toy_folder: Path, video: Path) -> None:
    assert_refused(called("ask", video, question, "--model", toy_folder), says=says)


def _without_a_tensor(folder: Path) -> str:
    tensors = load_file(folder / "model.safetensors")
    del tensors["decoder.norm.weight"]
    save_file(tensors, folder / "model.safetensors")
    return "decoder.norm.weight"


def _with_a_misshaped_tensor(folder: Path) -> str:
    tensors = load_file(folder / "model.safetensors")
    tensors["decoder.norm.weight"] = torch.zeros(7)
    save_file(tensors, folder / "model.safetensors")
    return "decoder.norm.weight"


def _with_an_unknown_key(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    config["decoder"]["colour"] = "blue"
    (folder / "config.json").write_text(json.dumps(config))
    return "colour"


def _with_a_wrong_letter(folder: Path) -> str:
    config = json.loads((folder / "config.json").read_text())
    config["decoder"]["pattern"] = "M-Q*"
    (folder / "config.json").write_text(json.dumps(config))
    return "position 2"


def _with_broken_weights(folder: Path) -> str:
    (folder / "model.safetensors").write_bytes(b"junk")
    return "model.safetensors"


@pytest.mark.parametrize(
    "spoil",
    [
        _without_a_tensor,
        _with_a_misshaped_tensor,
        _with_an_unknown_key,
        _with_a_wrong_letter,
        _with_broken_weights,
    ],
)
def test_bad_checkpoints_are_refused(spoil, toy_folder: Path, video: Path, tmp_path: Path) -> None:
    folder = tmp_path / "spoiled"
    shutil.copytree(toy_folder, folder)
    says = spoil(folder)
    assert_refused(called("ask", video, "What?", "--model", folder), says=says)


def test_ctrl_c_ends_with_130_and_no_traceback(toy_folder: Path, tmp_path: Path) -> None:
    long = write_video(tmp_path / "long.mp4", noise(600, side=32))
    words = ["ask", str(long), "What?", "--model", str(toy_folder), "--fps", "1"]
    program = subprocess.Popen(
        [sys.executable, "-c", f"import sys; sys.argv[1:] = {words}\n" + _ANNOUNCED],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    assert program.stdout is not None
    assert program.stdout.readline() == "reading\n"
    time.sleep(0.2)
    program.send_signal(signal.SIGINT)
    out, err = program.communicate(timeout=60)
    assert program.returncode == 130, err[-2000:]
    assert out == ""
    assert "Traceback" not in err


# The program itself, which says when its engine starts to read.
_ANNOUNCED = """
from timeviper.cli.main import app
from timeviper.inference.engine import Engine
ask = Engine.ask
def told(*args, **options):
    print("reading", flush=True)
    return ask(*args, **options)
Engine.ask = told
app()
"""
