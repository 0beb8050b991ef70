"""Facts about files: measured, not believed; and clear words when there is nothing to measure."""

from __future__ import annotations

import struct
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from tests.unit.video.files import RECIPES, Recipe, encode, picture, png_of, sound_only, with_matrix
from timeviper.core.errors import MediaError
from timeviper.video.clips import iterate_clips
from timeviper.video.file_source import FileSource

Videos = Callable[[str], Path]
CODECS = {"libx264": "h264", "libx265": "hevc", "libvpx": "vp8", "libvpx-vp9": "vp9"}


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_facts(video: Videos, name: str) -> None:
    recipe, info = RECIPES[name], FileSource(video(name)).info
    assert (info.height, info.width) == recipe.size
    assert info.num_frames == recipe.count
    assert info.codec == CODECS.get(recipe.codec, recipe.codec)
    assert info.rotation == 0
    assert info.notes == ()
    if recipe.pts is None:
        assert info.duration_seconds == pytest.approx(recipe.count / recipe.rate, abs=2e-3)
        assert info.average_fps == pytest.approx(recipe.rate, rel=1e-3)


def test_time_starts_at_the_first_frame(video: Videos) -> None:
    source = FileSource(video("late.mkv"))
    assert source.info.time_origin == pytest.approx(100 / 24, abs=1e-3)
    assert source.frame_times[0] == 0
    assert source.info.duration_seconds == pytest.approx(2, abs=2e-3)


@pytest.mark.parametrize(
    ("matrix", "degrees"),
    [((0, 1, -1, 0), 270), ((-1, 0, 0, -1), 180), ((0, -1, 1, 0), 90), ((-1, 0, 0, 1), 0)],
)
def test_rotated_files_are_shown_upright(
    video: Videos, tmp_path: Path, matrix: tuple[int, int, int, int], degrees: int
) -> None:
    plain = FileSource(video("h264.mp4"))
    turned = FileSource(with_matrix(video("h264.mp4"), tmp_path / "turned.mp4", matrix))
    assert turned.info.rotation == degrees
    sideways = degrees % 180 == 90
    assert (turned.info.height, turned.info.width) == ((64, 48) if sideways else (48, 64))
    stored = next(iterate_clips(plain, [0.5])).frames[0]
    upright = stored[:, ::-1] if matrix == (-1, 0, 0, 1) else np.rot90(stored, degrees // 90)
    np.testing.assert_array_equal(next(iterate_clips(turned, [0.5])).frames[0], upright)


def test_a_header_that_claims_a_year_is_not_believed(video: Videos, tmp_path: Path) -> None:
    data = bytearray(video("h264.mp4").read_bytes())
    for box in (b"mvhd", b"mdhd"):
        at = data.index(box) + 20
        data[at : at + 4] = struct.pack(">I", 2**31 - 1)
    path = tmp_path / "lie.mp4"
    path.write_bytes(data)
    info = FileSource(path).info
    assert info.duration_seconds == 2.0
    assert info.num_frames == 48


@pytest.mark.parametrize("name", ["h264.mkv", "fast.mp4"])
def test_a_cut_file_gives_what_is_there_and_says_so(
    video: Videos, tmp_path: Path, name: str
) -> None:
    recipe = Recipe(count=96, muxer={"movflags": "faststart"} if name == "fast.mp4" else {})
    whole = encode(tmp_path / name, recipe).read_bytes()
    path = tmp_path / f"cut_{name}"
    path.write_bytes(whole[: len(whole) // 2])
    source = FileSource(path)
    assert 0.5 < source.info.duration_seconds < 3.5
    (note,) = source.info.notes
    assert f"its frames end at {source.info.duration_seconds:.3f} s" in note
    assert "claims 4.0" in note
    shown = np.concatenate([c.frames for c in iterate_clips(source, source.frame_times)])
    want = next(iterate_clips(FileSource(tmp_path / name), [0.5])).frames[0]
    np.testing.assert_array_equal(shown[12], want)


def test_a_picture_is_a_video_of_one_frame(tmp_path: Path) -> None:
    source = FileSource(png_of(tmp_path / "p.png", (20, 30)))
    assert (source.info.num_frames, source.info.duration_seconds) == (1, 1.0)
    shown = next(iterate_clips(source, [0.0, 7.0])).frames
    np.testing.assert_array_equal(shown[1], picture(0, (20, 30)))


def test_a_large_video_is_refused_before_it_is_decoded(
    video: Videos, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("timeviper.video.formats.MOST_PIXELS", 3000)
    with pytest.raises(MediaError, match="64 x 48 = 3,072 pixels"):
        FileSource(video("h264.mp4"))


def test_words_for_sound_alone(tmp_path: Path) -> None:
    with pytest.raises(MediaError) as caught:
        FileSource(sound_only(tmp_path / "song.mp4"))
    assert caught.value.want == "a file with a video stream"


def test_nothing_is_written_to_the_terminal(
    tmp_path: Path, video: Videos, capfd: pytest.CaptureFixture[str]
) -> None:
    data = bytearray(video("h264.mp4").read_bytes())
    at = data.index(b"mdat") + 400
    data[at : at + 500] = bytes(500)
    path = tmp_path / "damaged.mp4"
    path.write_bytes(data)
    source = FileSource(path)
    list(iterate_clips(source, source.frame_times))
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize(
    "name", ["h264.mp4", "h264.mkv", "mpeg4.avi", "vp9.webm", "frames.gif", "hevc.mp4"]
)
def test_any_damage_ends_in_frames_or_in_one_clear_error(
    video: Videos, tmp_path: Path, name: str
) -> None:
    whole = video(name).read_bytes()
    path = tmp_path / name
    rng = np.random.default_rng(7)
    outcomes: set[str] = set()
    for trial in range(30):
        data = bytearray(whole)
        if trial % 3 == 0:
            data = data[: int(rng.integers(len(data)))]
        else:
            reach = min(len(data), 2000) if trial % 3 == 1 else len(data)
            for place in rng.integers(0, reach, 8):
                data[place] = int(rng.integers(256))
        path.write_bytes(data)
        outcomes.add(outcome(path))
    assert outcomes == {"frames", "error"}


def outcome(path: Path) -> str:
    """Read twelve moments of a damaged file."""
    try:
        source = FileSource(path)
        moments = np.linspace(0, source.info.duration_seconds, 12)
        clips = list(iterate_clips(source, moments, size=(4, 4), clip_frames=5, workers=2))
    except MediaError:
        return "error"
    assert sum(len(clip.frames) for clip in clips) == 12
    return "frames"
