"""Folders of pictures and frames in memory are videos like any other."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from tests.unit.video.files import Recipe, encode, picture, png_of
from timeviper.core.errors import ConfigError, MediaError
from timeviper.video.clips import iterate_clips
from timeviper.video.sampling import SamplingPolicy, sample_times
from timeviper.video.source import open_video
from timeviper.video.still_sources import ArraySource, FolderSource, natural_key


def frames_of(source: ArraySource | FolderSource, times: list[float]) -> np.ndarray:
    return np.concatenate([clip.frames for clip in iterate_clips(source, times)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for number in (2, 10, 1):
        png_of(tmp_path / f"frame{number}.png", (12, 16)).read_bytes()
        encode_number(tmp_path / f"frame{number}.png", number)
    (tmp_path / "notes.txt").write_text("not a frame")
    (tmp_path / "more.png").mkdir()
    return tmp_path


def encode_number(path: Path, number: int) -> None:
    recipe = Recipe(codec="png", pixels="rgb24", count=1, size=(12, 16 + number), options={})
    encode(path, recipe)


def test_pictures_come_in_natural_order_one_a_second(folder: Path) -> None:
    source = FolderSource(folder)
    assert source.info.num_frames == 3
    assert source.info.duration_seconds == 3.0
    assert (source.info.width, source.info.height) == (17, 12)
    assert source.frame_times.tolist() == [0.0, 1.0, 2.0]
    assert [file.name for file in source._files] == ["frame1.png", "frame2.png", "frame10.png"]


def test_pictures_are_read_exactly(folder: Path) -> None:
    got = frames_of(FolderSource(folder), [0.5])
    np.testing.assert_array_equal(got[0], picture(0, (12, 17)))


def test_a_rate_of_ones_own(folder: Path) -> None:
    source = open_video(folder, fps=4)
    assert source.frame_times.tolist() == [0.0, 0.25, 0.5]
    assert source.info.duration_seconds == 0.75
    moments = sample_times(source.info.duration_seconds, SamplingPolicy(fps=4.0)).times
    assert len(moments) == 3


def test_a_folder_without_pictures_is_refused(tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("nothing")
    with pytest.raises(MediaError, match="without a picture"):
        FolderSource(tmp_path)


def test_a_broken_picture_is_named(folder: Path) -> None:
    (folder / "frame2.png").write_bytes(b"not a png at all, but long enough to look at")
    with pytest.raises(MediaError, match=r"frame2\.png"):
        frames_of(FolderSource(folder), [0.0, 1.0, 2.0])


@pytest.mark.parametrize("fps", [0, -1.0, float("nan")])
def test_a_rate_that_gives_no_times_is_refused(folder: Path, fps: float) -> None:
    with pytest.raises(ConfigError, match=f"fps={fps}"):
        FolderSource(folder, fps=fps)
    with pytest.raises(ConfigError, match=f"fps={fps}"):
        open_video(np.zeros((2, 4, 4, 3), np.uint8), fps=fps)


def test_names_sort_like_people_do() -> None:
    names = ["b1", "a10", "a2", "A1", "2", "10"]
    assert sorted(names, key=natural_key) == ["2", "10", "A1", "a2", "a10", "b1"]


def test_arrays_keep_their_pixels_and_times() -> None:
    frames = np.stack([picture(number, (8, 10)) for number in range(4)])
    source = ArraySource(frames, [10.0, 10.5, 12.0, 13.0])
    assert source.info.time_origin == 10.0
    assert source.info.duration_seconds == 4.0
    np.testing.assert_array_equal(frames_of(source, [0.4, 0.5, 2.9, 9.0]), frames[[0, 1, 2, 3]])


def test_a_list_of_frames_is_a_video() -> None:
    source = open_video([picture(number, (8, 10)) for number in range(3)], fps=2)
    assert source.info.duration_seconds == 1.5
    assert source.frame_times.tolist() == [0.0, 0.5, 1.0]


def test_arrays_scale_like_files() -> None:
    frames = np.stack([picture(number, (8, 10)) for number in range(2)])
    (clip,) = iterate_clips(ArraySource(frames, [0.0, 1.0]), [0.0, 1.0], size=(5, 3))
    assert clip.frames.shape == (2, 5, 3, 3)


@pytest.mark.parametrize(
    ("frames", "times"),
    [
        (np.zeros((0, 4, 4, 3), np.uint8), []),
        (np.zeros((2, 4, 4), np.uint8), [0.0, 1.0]),
        (np.zeros((2, 4, 4, 4), np.uint8), [0.0, 1.0]),
        (np.zeros((2, 0, 4, 3), np.uint8), [0.0, 1.0]),
        ([np.zeros((4, 4, 3), np.uint8), np.zeros((4, 5, 3), np.uint8)], [0.0, 1.0]),
        (np.zeros((2, 4, 4, 3), np.uint8), [0.0]),
        (np.zeros((2, 4, 4, 3), np.uint8), [1.0, 1.0]),
        (np.zeros((2, 4, 4, 3), np.uint8), [0.0, float("nan")]),
    ],
)
def test_arrays_that_are_no_video_are_refused(frames: np.ndarray, times: list[float]) -> None:
    with pytest.raises(MediaError):
        ArraySource(frames, times)
