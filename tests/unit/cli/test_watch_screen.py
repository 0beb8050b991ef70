"""What `timeviper watch` shows: lines for people, JSON for machines, nothing that steers either."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console

from timeviper.cli.watch_screen import JsonScreen, TextScreen, status_line
from timeviper.inference.request import Answer
from timeviper.inference.standing import Change, Status
from timeviper.video.live_player import LiveInfo

INFO = LiveInfo(width=640, height=360, codec="h264", rate=25.0, real_time=True)
CHANGE = Change(
    question="When?",
    answer=Answer(text="from 00:03\x1b[2J to 00:07", start_seconds=3.0, end_seconds=7.0),
    before="never",
    seconds=70.0,
)
STATUS = Status(seconds=70.0, frames=1234, waiting=3, dropped=2, lag_seconds=1.25, nbytes=2_500_000)
END = {
    "interrupted": False, "seconds": 70.0, "frames": 70, "dropped": 2, "changes": 4,
    "state_bytes": 2_500_000, "saved": "gate.tvstate",
}  # fmt: skip


def _lines(capsys: pytest.CaptureFixture[str]) -> list[dict[str, object]]:
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_machines_get_one_object_a_line(capsys: pytest.CaptureFixture[str]) -> None:
    screen = JsonScreen()
    screen.opened("rtsp://gate", INFO)
    screen.changed(CHANGE)
    screen.noted("gone", 71.0)
    screen.status(STATUS)
    # Less than a second later: not again.
    screen.status(STATUS)
    screen.ended(END)
    lines = _lines(capsys)
    assert [line["event"] for line in lines] == ["open", "answer", "note", "status", "end"]
    assert lines[0] | {"source": "rtsp://gate", "real_time": True, "rate": 25.0} == lines[0]
    assert (lines[1]["start_seconds"], lines[1]["before"]) == (3.0, "never")
    assert (lines[1]["seconds"], lines[1]["question"]) == (70.0, "When?")
    assert (lines[3]["dropped"], lines[3]["lag_seconds"]) == (2, 1.25)
    assert lines[4] == {"event": "end", **END}


def test_people_get_answers_on_stdout_and_the_rest_on_stderr(
    capsys: pytest.CaptureFixture[str],
) -> None:
    with TextScreen() as screen:
        screen.opened("gate", INFO)
        screen.changed(CHANGE)
        screen.noted("the gate was away", 71.0)
        screen.status(STATUS)
        screen.ended(END)
    told = capsys.readouterr()
    assert told.out == "01:10  When?  from 00:03 [2J to 00:07\n"
    assert "640x360 h264, as it plays" in told.err
    assert "note: the gate was away" in told.err
    assert "70 frames of 01:10 · 4 answers told · 2 frames dropped · 2.5 MB" in told.err
    assert "timeviper ask gate.tvstate" in told.err
    assert "behind" not in told.err, "a status is for a terminal"


def test_a_terminal_gets_a_status_that_stays_below(monkeypatch: pytest.MonkeyPatch) -> None:
    drawn = io.StringIO()
    console = Console(file=drawn, force_terminal=True, width=120, color_system=None)
    for name in ("messages", "results"):
        monkeypatch.setattr(f"timeviper.cli.watch_screen.{name}", lambda: console)
    with TextScreen() as screen:
        screen.status(STATUS)
        screen.changed(CHANGE)
    assert "01:10 · 1,234 frames · 2.5 MB remembered · 1.2 s behind · 3 waiting" in drawn.getvalue()
    assert "from 00:03" in drawn.getvalue()


def test_nothing_is_said_of_what_did_not_happen() -> None:
    calm = Status(seconds=5.0, frames=5, waiting=0, dropped=0, lag_seconds=0.0, nbytes=10)
    assert status_line(calm).plain == "00:05 · 5 frames · 10 B remembered · 0.0 s behind"
    assert status_line(STATUS).plain.endswith("3 waiting · 2 dropped")
