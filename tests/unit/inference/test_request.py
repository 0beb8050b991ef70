"""Requests are checked before any work; answers say exactly what the program prints."""

from __future__ import annotations

import math

import pytest

from timeviper.core.errors import RequestError
from timeviper.inference.request import Answer, AskOptions, interval_of
from timeviper.inference.timing import Timing
from timeviper.processing.messages import VideoPart
from timeviper.processing.processor import ProcessorConfig

MODEL = ProcessorConfig(template="tiny", tokens_per_frame=4, fps=2.0, max_frames=100)


@pytest.mark.parametrize(
    ("wrong", "told"),
    [
        ({"max_new_tokens": 0}, "max_new_tokens of at least 1"),
        ({"stop": ("",)}, "texts that are not empty"),
        ({"stop": "abc"}, "a tuple of texts"),
        ({"temperature": -1.0}, "temperature"),
        ({"top_p": 0.0}, "top_p"),
        ({"fps": 0.0}, "fps above 0"),
        ({"fps": math.nan}, "fps above 0"),
        ({"fps": 1.0, "num_frames": 3}, "either fps or num_frames"),
        ({"num_frames": 0}, "num_frames of at least 1"),
        ({"max_frames": -5}, "max_frames of at least 1"),
        ({"start": -1.0}, "start in seconds"),
        ({"start": 5.0, "end": 5.0}, "end after start"),
    ],
)
def test_options_without_sense_are_refused_at_once(wrong, told):
    with pytest.raises(RequestError, match=told):
        AskOptions(**wrong)


def test_the_model_fills_in_what_the_request_leaves_open():
    look = AskOptions().look(MODEL)
    assert (look.fps, look.num_frames, look.max_frames) == (2.0, None, 100)
    look = AskOptions(num_frames=7, max_frames=300, start=1.0).look(MODEL)
    assert (look.fps, look.num_frames, look.max_frames, look.start) == (None, 7, 300, 1.0)


def test_a_messages_own_wishes_go_first():
    options = AskOptions(fps=4.0, max_frames=50, start=1.0, end=9.0)
    part = VideoPart(source="a.mp4", num_frames=8, end_seconds=5.0)
    look = options.look(MODEL, part)
    assert (look.fps, look.num_frames, look.max_frames) == (None, 8, 50)
    assert (look.start, look.end) == (1.0, 5.0)
    look = options.look(MODEL, VideoPart(source="a.mp4", max_frames=3))
    assert (look.fps, look.num_frames, look.max_frames) == (4.0, None, 3)


def test_a_message_whose_range_contradicts_the_request_is_refused():
    with pytest.raises(RequestError, match="end after start"):
        AskOptions(start=6.0).look(MODEL, VideoPart(source="a.mp4", end_seconds=5.0))


@pytest.mark.parametrize(("field", "value"), [("fps", 1.0), ("end", 3.0), ("max_frames", 2)])
def test_options_know_whether_they_say_how_to_look(field, value):
    assert AskOptions(**{field: value}).looks
    assert not AskOptions(max_new_tokens=3, temperature=1.0, system="x").looks


def test_an_answer_as_json_has_the_documented_keys():
    answer = Answer(
        text="from 00:02 to 00:04.",
        start_seconds=2.0,
        end_seconds=4.0,
        frames=9,
        duration_seconds=9.5,
        timing=Timing(decode=0.12345, answer=1.0),
        peak_bytes=77,
        notes=("one",),
        tokens=12,
    )
    assert answer.to_dict() == {
        "answer": "from 00:02 to 00:04.",
        "start_seconds": 2.0,
        "end_seconds": 4.0,
        "frames": 9,
        "duration_seconds": 9.5,
        "timing": {"decode": 0.123, "encode": 0.0, "prefill": 0.0, "answer": 1.0},
        "peak_bytes": 77,
        "notes": ["one"],
    }


@pytest.mark.parametrize(
    ("text", "duration", "want"),
    [
        ("from 00:02 to 00:04.", 60.0, (2.0, 4.0)),
        ("from 00:02 to 01:30.", 60.0, (2.0, 60.0)),
        # Named outside the video: no interval of it.
        ("from 02:00 to 03:00.", 60.0, None),
        ("from 01:00 to 01:01.", 60.0, None),
        ("a cat.", 60.0, None),
        ("at 00:07", 60.0, None),
        ("from 00:02 to 00:04.", 0.0, None),
        ("", 60.0, None),
    ],
)
def test_intervals_lie_within_the_video(text, duration, want):
    assert interval_of(text, duration) == want
