"""SynthReel as a data set: the same number is the same reel, drawn only when it is looked at."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.training.data.toys import reader
from timeviper.core.errors import ConfigError, MediaError
from timeviper.processing.messages import TextPart, VideoPart
from timeviper.synth.tasks import Task
from timeviper.training.data.mixture import Mixture
from timeviper.training.data.packed import PackedSource, PackingConfig
from timeviper.training.data.reels import ReelConfig, ReelDataset
from timeviper.training.data.samples import Sample
from timeviper.video.clips import iterate_clips

SMALL = ReelConfig(frames=(16, 24), count=3000, seed=5)


def words(sample: Sample) -> list[str]:
    return [turn.text for turn in sample.turns]


def test_a_number_is_one_reel_and_others_differ():
    first, again = ReelDataset(SMALL), ReelDataset(SMALL)
    assert (first.parts, first.length(0), first.length(2)) == (3, 1024, 952)
    assert words(first.read(1, 7)) == words(again.read(1, 7))
    many = [first.read(0, item) for item in range(40)]
    assert len({tuple(words(sample)) for sample in many}) > 35
    other = ReelDataset(ReelConfig(frames=(16, 24), count=3000, seed=6))
    assert words(other.read(1, 7)) != words(first.read(1, 7))
    assert other.identity != first.identity
    assert str(first.read(1, 7).origin) == "synthreel:1031"


def test_turns_ask_about_the_video_of_the_first():
    sample = ReelDataset(ReelConfig(frames=(64,), questions=4)).read(0, 0)
    assert [turn.role for turn in sample.turns] == ["user", "assistant"] * 4
    assert [type(part) for part in sample.turns[0].parts] == [VideoPart, TextPart]
    assert len(sample.media) == 1
    assert sample.start_seconds is None


def test_tasks_and_choices_are_as_configured():
    when = ReelDataset(ReelConfig(tasks=(Task.WHEN,), choices=0.0))
    samples = [when.read(0, item) for item in range(20)]
    known = [sample for sample in samples if sample.start_seconds is not None]
    assert known
    for sample in known:
        assert 0 <= sample.start_seconds < sample.end_seconds <= 64
    always = ReelDataset(ReelConfig(tasks=(Task.FIRST,), choices=1.0)).read(0, 3)
    assert "Choose one:" in words(always)[0]


@pytest.mark.parametrize("size", [(24, 24), (16, 40)])
def test_frames_do_not_depend_on_what_is_read_beside_them(size: tuple[int, int]):
    opener = ReelDataset(SMALL).read(0, 1).openers["reel"]
    with opener.open() as source:
        moments = source.frame_times
        assert source.info.duration_seconds == len(moments)
        whole = next(iterate_clips(source, moments, size=size, clip_frames=64, workers=1)).frames
        some = [3, 4, 11]
        few = next(iterate_clips(source, moments[some], size=size, workers=2)).frames
    assert whole.shape == (len(moments), *size, 3)
    assert len(np.unique(whole)) > 20
    # Rounded to whole numbers: a last bit may fall to either side.
    assert np.abs(few.astype(int) - whole[some].astype(int)).max() <= 1


def test_worlds_are_shown_before_footage_too(media: Path):
    clips = tuple(str(media / name) for name in ("a.mp4", "b.mp4"))
    dataset = ReelDataset(ReelConfig(frames=(16,), footage=clips))
    reels = [dataset.read(0, item).openers["reel"] for item in range(12)]
    chosen = {int(reel.worlds.footage[0, 0]) for reel in reels}
    assert chosen == {-1, 0, 1}
    for reel in reels:
        with reel.open() as source:
            clip = next(iterate_clips(source, [0.0, 9.0], size=(16, 16), workers=1))
        assert clip.frames.shape == (2, 16, 16, 3)
    with pytest.raises(MediaError):
        ReelDataset(ReelConfig(frames=(16,), footage=("none.mp4",))).read(0, 0)


def test_reels_are_packed_and_resumed_like_files():
    def source() -> PackedSource:
        mixed = Mixture([ReelDataset(ReelConfig(frames=(16,)))])
        return PackedSource(mixed, reader(budget=600), PackingConfig(workers=0, most_open=2))

    whole = list(islice(source().batches(None, rank=0, ranks=1), 3))
    cursor = whole[0][1]
    rest = list(islice(source().batches(cursor, rank=0, ranks=1), 2))
    for (got, after), (want, end) in zip(rest, whole[1:], strict=True):
        assert after == end
        assert torch.equal(got.inputs.token_ids, want.inputs.token_ids)
        assert torch.equal(got.inputs.pixels, want.inputs.pixels)
        assert got.taught > 0


@pytest.mark.parametrize(
    "config",
    [
        {"frames": ()},
        {"frames": (4,)},
        {"tasks": ()},
        {"questions": 0},
        {"choices": 2.0},
        {"count": 0},
    ],
)
def test_settings_that_mean_nothing_are_refused(config):
    with pytest.raises(ConfigError):
        ReelConfig(**config)


def test_a_world_that_carries_no_task_is_told():
    config = ReelConfig(frames=(8,), tasks=(Task.CHAIN,))
    with pytest.raises(ConfigError, match="worlds of 8 frames carry"):
        ReelDataset(config).read(0, 0)
