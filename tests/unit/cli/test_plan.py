"""`timeviper plan`: what it prints, for people and machines, and what it refuses."""

from __future__ import annotations

import io
import json

import pytest
from rich.console import Console
from typer.testing import CliRunner

from timeviper.cli.main import app
from timeviper.cli.plan_picture import bar, show
from timeviper.core.errors import TimeviperError

RUN = CliRunner()


def _plan(*words: str) -> dict:
    found = RUN.invoke(app, ["plan", "--json", *words])
    assert found.exit_code == 0, found.output
    return json.loads(found.stdout)


def test_machines_get_bytes_by_part_and_one_verdict() -> None:
    record = _plan("--model", "tiny-transv", "--frames", "64", "--gpu-gib", "1")
    assert record["device"] == "cuda"
    assert record["limit_bytes"] == 2**30
    assert record["fits"] is (record["device_bytes"] <= 2**30) is True
    assert record["prefill_peak"] == sum(record["prefill"].values())
    assert record["question_peak"] == sum(record["question"].values())
    assert record["largest_frames"] > 64
    assert record["seconds"]["stages"] == {}
    assert "--calibrate" in record["seconds"]["from"]


def test_hours_are_frames_and_what_does_not_fit_gets_advice() -> None:
    words = ("--model", "tiny-transv", "--hours", "1", "--fps", "0.5", "--no-transv")
    record = _plan(*words, "--gpu-gib", "0.8")
    assert (record["frames"], record["hours"]) == (1800, 1.0)
    assert record["prefill"]["parked tokens"] == 0
    assert record["fits"] is False
    assert record["largest_frames"] < 1800
    assert all(one["saves"] > 0 for one in record["advice"])


@pytest.mark.parametrize(
    ("words", "error"),
    [
        ((), "either --frames or --hours"),
        (("--frames", "3", "--hours", "1"), "either --frames or --hours"),
        (("--hours", "0"), "at least one frame"),
        (("--hours", "nan"), "at least one frame"),
        (("--hours", "1", "--fps", "inf"), "at least one frame"),
        (("--frames", "3", "--gpu-gib", "-3"), "memory of a GPU above 0 GiB"),
        (("--frames", "3", "--gpu-gib", "nan"), "memory of a GPU above 0 GiB"),
        (("--frames", "3", "--precision", "fp3"), "a precision among float32"),
        (("--frames", "3", "--model", "no-such"), "a model among"),
        (("--frames", "3", "--keys-in-host"), "a GPU for --keys-in-host"),
    ],
)
def test_wishes_that_make_no_sense(words: tuple[str, ...], error: str) -> None:
    found = RUN.invoke(app, ["--debug", "plan", *words])
    assert isinstance(found.exception, TimeviperError)
    assert error in found.exception.want


def test_bars_are_as_long_as_their_share() -> None:
    assert bar(1.0, 10) == "█" * 10
    assert bar(0.5, 10) == "█" * 5
    assert bar(0.0, 10) == ""
    assert len(bar(1e-9, 10)) == 1
    assert bar(7.0, 10) == bar(1.0, 10)


def test_people_get_a_bar_for_each_part() -> None:
    record = {
        "model": "a-model",
        "frames": 100,
        "vision_tokens": 1600,
        "batch": 2,
        "chunk": 1024,
        "precision": "bfloat16",
        "device": "cuda",
        "limit_bytes": 8 * 2**30,
        "fits": False,
        "prefill": {"weights": 6 * 2**30, "keys and values": 2**30, "parked tokens": 0},
        "prefill_peak": 7 * 2**30,
        "question": {"weights": 6 * 2**30, "question's work": 3 * 2**30},
        "question_peak": 9 * 2**30,
        "allocated": 9 * 2**30,
        "reserved": 10 * 2**30,
        "device_bytes": 11 * 2**30,
        "host_bytes": 3 * 2**30,
        "largest_frames": 40,
        "advice": [{"change": "smaller chunks", "saves": 2**31, "fits": False}],
        "seconds": {"from": "measured", "stages": {"tower": 12.5, "token": 0.0071, "video": None}},
    }
    out = io.StringIO()
    show(record, Console(file=out, width=120))
    text = out.getvalue()
    for words in (
        "2 videos of 100 frames",
        "while a question is answered",
        "question's work",
        "does not fit; up to 40 frames would",
        "not enough alone",
        "in host memory beside it",
        "0.007",
    ):
        assert words in text
    # Only the higher moment is drawn, and nothing that takes nothing.
    assert "keys and values" not in text
    assert "parked" not in text
    assert "decode the file" not in text


def test_keys_in_host_memory_are_reckoned_beside_the_device() -> None:
    there = _plan("--model", "tiny", "--frames", "4000", "--gpu-gib", "1", "--keys-in-host")
    assert there["host_bytes"] > 4 * there["prefill"]["keys and values"]
    assert not any("host memory" in one["change"] for one in there["advice"])
