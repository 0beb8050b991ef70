"""`timeviper watch` as a process: a file, a pipe, a camera that goes and returns, and Ctrl-C."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.program import assert_refused, called
from tests.live_server import FPS, camera, film, free_port

QUESTION = "When does the cat appear?"


@contextmanager
def _program(*words: object, **options: Any) -> Iterator[subprocess.Popen[str]]:
    command = [sys.executable, "-m", "timeviper", "watch", *map(str, words)]
    program = subprocess.Popen(
        command,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1", "NO_COLOR": "1"},
        **options,
    )
    try:
        yield program
    finally:
        program.kill()
        program.communicate()


def _events(text: str) -> list[dict[str, Any]]:
    return [json.loads(line) for line in text.splitlines()]


def test_a_file_is_watched_kept_asked_and_gone_on_from(
    toy_folder: Path, video: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.tvstate"
    words = ("watch", video, "--model", toy_folder, "--json")
    first = called(*words, "-q", QUESTION, "--every", "8s", "--save", kept)
    assert first.code == 0, first.err
    events = _events(first.out)
    assert events[0]["event"] == "open"
    answers = [e for e in events if e["event"] == "answer"]
    assert answers[0]["seconds"] == 8.0
    assert answers[0]["question"] == QUESTION
    end = events[-1]
    assert (end["event"], end["frames"], end["seconds"]) == ("end", 12, 12.0)
    assert (end["dropped"], end["interrupted"], end["saved"]) == (0, False, str(kept))
    assert kept.stat().st_size > 1000
    # What was kept is the video: asked, it answers as the last event did.
    asked = called("ask", kept, QUESTION, "--model", toy_folder, "--json").json
    assert asked["answer"] == answers[-1]["answer"]
    assert asked["frames"] == 12
    second = _events(called(*words, "--resume", kept, "--for", "3s").out)
    assert (second[-1]["frames"], second[-1]["seconds"]) == (15, 15.0)


def test_people_get_lines_and_a_summary(toy_folder: Path, video: Path) -> None:
    ran = called("watch", video, "-q", QUESTION, "--for", "6", "--model", toy_folder)
    assert ran.code == 0, ran.err
    assert ran.out.startswith(f"00:06  {QUESTION}  ")
    assert "6 frames of 00:06" in ran.err
    assert len(ran.out.splitlines()) == 1


def test_what_is_piped_in_is_watched_to_its_end(toy_folder: Path) -> None:
    data = b"".join(film(lambda n: n / FPS, frames=80))
    ran = subprocess.run(
        [sys.executable, "-m", "timeviper", "watch", "-", "--model", str(toy_folder), "--json"],
        input=data,
        capture_output=True,
        timeout=100,
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    end = _events(ran.stdout.decode())[-1]
    assert (end["frames"], end["seconds"], end["changes"]) == (4, 4.0, 0)


def test_a_camera_goes_returns_and_ctrl_c_ends_with_a_summary(
    toy_folder: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "gate.tvstate"
    with camera() as one:
        words = (one.address, "-q", QUESTION, "--every", "1", "--fps", 5, "--json", "--save", kept)
        with _program(*words, "--model", toy_folder) as program:
            threading.Timer(100, program.kill).start()
            assert program.stdout is not None
            seen: list[dict[str, Any]] = []
            for line in program.stdout:
                seen.append(json.loads(line))
                kinds = [event["event"] for event in seen]
                if "answer" in kinds and "gone" not in kinds:
                    seen.append({"event": "gone"})
                    one.go()
                    threading.Timer(0.4, one.come).start()
                if "note" in kinds and kinds[-1] == "status":
                    program.send_signal(signal.SIGINT)
                    break
            rest, err = program.communicate(timeout=60)
            assert program.returncode == 130, err
    assert "Traceback" not in err
    assert "interrupted" in err
    note = next(event for event in seen if event["event"] == "note")
    assert "was away from" in note["note"]
    end = _events(rest)[-1]
    assert (end["event"], end["interrupted"], end["saved"]) == ("end", True, str(kept))
    # Nothing that was seen is lost.
    asked = called("info", kept, "--json")
    assert asked.code == 0, asked.err
    assert str(end["frames"]) in asked.out


def test_a_reader_that_leaves_ends_it_and_loses_nothing(
    toy_folder: Path, video: Path, tmp_path: Path
) -> None:
    kept = tmp_path / "kept.tvstate"
    words = (video, "--model", toy_folder, "--every", "2", "-q", QUESTION, "--save", kept)
    with _program(*words, "--json") as program:
        assert program.stdout is not None
        assert json.loads(program.stdout.readline())["event"] == "open"
        program.stdout.close()
        assert program.wait(timeout=60) == 0
        assert program.stderr is not None
        assert "Traceback" not in program.stderr.read()
    assert kept.exists()


BAD: dict[str, tuple[tuple[object, ...], str]] = {
    "missing": (("none.mp4",), "does not exist"),
    "no camera": (("/dev/video77",), "plug the camera in"),
    "other address": (("ftp://door/x",), "ftp://"),
    "every": (("-", "--every", "soon"), "--every"),
    "for": (("-", "--for", "0"), "--for"),
    "rate": (("-", "--fps", "0"), "fps"),
    "buffer": (("-", "--buffer", "0"), "room for at least 1"),
    "policy": (("-", "--when-full", "burn"), "drop-oldest"),
    "no state": (("-", "--resume", "none.tvstate"), "--resume"),
    "no folder": (("-", "--save", "no/such/x.tvstate"), "--save"),
    "empty question": (("-", "-q", " "), "question"),
}


@pytest.mark.parametrize("kind", BAD)
def test_bad_wishes_are_refused_before_a_model_is_loaded(kind: str) -> None:
    words, says = BAD[kind]
    assert_refused(called("watch", *words, "--model", "no-such-model"), says=says)


def test_nobody_there_is_refused(toy_folder: Path) -> None:
    address = f"http://me:secret@127.0.0.1:{free_port()}/x"
    ran = called("watch", address, "--model", toy_folder, "--json")
    assert_refused(ran, says="refused")
    assert "secret" not in ran.err


def test_a_disk_that_fills_is_told_after_the_summary(
    toy_folder: Path, video: Path, tmp_path: Path
) -> None:
    words = (video, "--model", toy_folder, "--json", "--save", tmp_path / "kept.tvstate")
    # No file may grow beyond this: what a full disk says, said by the kernel.
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (4096, before[1]))
    try:
        ran = called("watch", *words)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert ran.code == 2, ran.err
    end = _events(ran.out)[-1]
    assert (end["event"], end["frames"], end["saved"]) == ("end", 12, None)
    assert "room and permission" in ran.err
    assert list(tmp_path.iterdir()) == []


def test_other_files_are_not_overwritten(video: Path, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    os.mkfifo(tmp_path / "pipe")
    for taken in (tmp_path, tmp_path / "notes.txt", tmp_path / "pipe"):
        ran = called("watch", video, "--save", taken, "--model", "no-such-model")
        assert_refused(ran, says="something else")
