"""Samples become tokens and frames: known before anything is decoded, refused with a reason."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy_engine import KEPT, SIDE, toy_engine
from tests.unit.training.data.toys import BUDGET, chat, llava, reader, varied
from timeviper.core.errors import ConfigError
from timeviper.core.layout import SpanKind
from timeviper.inference.request import AskOptions
from timeviper.training.data.reading import Grounding, ReadingConfig, SampleReader, TooLong
from timeviper.training.data.records import Record, read_record
from timeviper.training.data.samples import Origin, Reason, Sample, SampleError


def sample(media: Path, data: dict) -> Sample:
    return read_record(Record(data=data, origin=Origin("data.jsonl", 3), root=media))


def test_what_is_measured_is_what_is_loaded(media: Path):
    made = reader()
    for data in varied(5):
        one = sample(media, data)
        lesson, example = made.measure(one), made.load(one)
        np.testing.assert_array_equal(example.lesson.tokens.ids, lesson.tokens.ids)
        frames = 0 if example.pixels is None else len(example.pixels)
        assert len(example.times) == frames
        assert lesson.tokens.layout.count(SpanKind.VISION) == (frames * KEPT,)
        assert len(lesson.tokens) <= BUDGET


def test_frames_are_those_that_the_engine_would_see(media: Path):
    engine = toy_engine()
    data = llava("<video>When?", "now.", video="b.mp4", video_start=2, video_end=7)
    example = reader(fps=2.0, max_frames=6).load(sample(media, data))
    options = AskOptions(fps=2.0, max_frames=6, start=2.0, end=7.0)
    encoded = engine.encode(str(media / "b.mp4"), options)
    np.testing.assert_array_equal(example.times, encoded.times)
    assert example.pixels.shape == (6, 3, SIDE, SIDE)
    assert example.pixels.dtype == torch.float32


def test_durations_are_remembered(media: Path, monkeypatch: pytest.MonkeyPatch):
    made = reader()
    one = sample(media, chat("<video>a?", "b", videos=["a.mp4"]))
    first = made.measure(one)
    monkeypatch.setattr(SampleReader, "_opened", None)
    np.testing.assert_array_equal(made.measure(one).tokens.ids, first.tokens.ids)


def test_a_list_of_frames_is_a_video(media: Path):
    part = {"type": "video", "video": ["c.png", "d.jpg", "c.png"], "fps": 2}
    data = chat([part, {"type": "text", "text": "a?"}], "b")
    example = reader().load(sample(media, data))
    np.testing.assert_array_equal(example.times, [0.0, 0.5, 1.0])
    assert torch.equal(example.pixels[0], example.pixels[2])
    assert not torch.equal(example.pixels[0], example.pixels[1])


@pytest.mark.parametrize(
    ("data", "reason", "message"),
    [
        (llava("<video>a?", "b", video="none.mp4"), Reason.MISSING, "none.mp4"),
        (llava("<image>a?", "b", image="none.png"), Reason.MISSING, "none.png"),
        (llava("<video>a?", "b", video="broken.mp4"), Reason.UNREADABLE, "broken.mp4"),
        (
            llava("<video>a?", "b", video="a.mp4", video_start=60),
            Reason.RANGE,
            "a start before the end of the video at 6.000 s",
        ),
        (
            llava("<video>a?", "b", video="a.mp4", start_seconds=7, end_seconds=8),
            Reason.RANGE,
            "7 to 8 s for videos of [6.0] s",
        ),
        (
            llava("a?", "b", start_seconds=7, end_seconds=8),
            Reason.RANGE,
            "one video that holds the moment",
        ),
        (llava("a?", "b" * 400), Reason.TOO_LONG, "with 0 video frames"),
        (
            chat(
                [{"type": "video", "video": "b.mp4", "fps": 24}, {"type": "text", "text": "a"}], "b"
            ),
            Reason.TOO_LONG,
            "at most 160 tokens",
        ),
    ],
)
def test_a_sample_that_cannot_be_used_is_refused(media: Path, data, reason, message):
    (media / "broken.mp4").write_bytes(b"\0\0\0\x18ftypmp42 and no more")
    with pytest.raises(SampleError) as caught:
        reader().measure(sample(media, data))
    assert caught.value.reason is reason
    assert str(caught.value).startswith("data.jsonl:3: ")
    assert message in str(caught.value)


def test_a_broken_picture_shows_when_media_are_checked(media: Path):
    (media / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    one = sample(media, llava("<image>a?", "b", image="broken.png"))
    reader().measure(one)
    for look in (reader().check_media, reader().load):
        with pytest.raises(SampleError) as caught:
            look(one)
        assert caught.value.reason is Reason.UNREADABLE
    gone = sample(media, llava("<image>a?", "b", image="none.png"))
    with pytest.raises(SampleError) as caught:
        reader().check_media(gone)
    assert caught.value.reason is Reason.MISSING


def test_cut_looks_at_fewer_frames_until_it_fits(media: Path):
    made = reader(budget=90, fps=8.0, too_long=TooLong.CUT)
    one = sample(
        media, chat("<video><image><video>a?", "b.", videos=["a.mp4", "b.mp4"], images="c.png")
    )
    example = made.load(one)
    assert 60 < len(example.lesson.tokens) <= 90
    assert (example.lesson.taught).sum() == 3
    # Spread over each video, and the picture stays.
    shown = np.split(example.times, np.flatnonzero(np.diff(example.times) < 0) + 1)
    assert max(shown[0]) > 3
    assert max(shown[-1]) > 4.5
    assert len(made.measure(one).tokens) == len(example.lesson.tokens)
    with pytest.raises(SampleError, match="longer than the budget"):
        reader(budget=20, too_long=TooLong.CUT).measure(one)


def test_targets_of_the_papers_cleaning(media: Path):
    def target(end: float, **config) -> None:
        data = llava("<video>a?", "b", video="b.mp4", start_seconds=0, end_seconds=end)
        reader(**config).measure(sample(media, data))

    target(9)
    target(3, grounding=Grounding())
    with pytest.raises(SampleError, match="a moment of at most 3 s"):
        target(3.5, grounding=Grounding())
    with pytest.raises(SampleError, match="a moment of at most 2 s"):
        target(3, grounding=Grounding(most_seconds=2))


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ConfigError, match="a budget"):
        ReadingConfig(budget=0)
