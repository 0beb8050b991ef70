"""Files are known by their first bytes, and nothing else reaches FFmpeg."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import av
import pytest

from tests.unit.video.files import RECIPES, Recipe, encode, png_of, sound_only
from timeviper.core.errors import MediaError
from timeviper.video.formats import (
    MOST_PIXELS,
    check_pixels,
    open_container,
    recognise,
    regular_file,
    video_stream,
)

Videos = Callable[[str], Path]


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_videos_are_known_whatever_they_are_called(
    video: Videos, name: str, tmp_path: Path
) -> None:
    disguised = tmp_path / "holiday.txt"
    disguised.write_bytes(video(name).read_bytes())
    suffix = name.rpartition(".")[2]
    assert recognise(disguised).name == {"mkv": "matroska", "webm": "matroska"}.get(suffix, suffix)


@pytest.mark.parametrize(
    ("codec", "pixels", "suffix"),
    [("png", "rgb24", "png"), ("mjpeg", "yuvj420p", "jpeg"), ("bmp", "bgr24", "bmp")],
)
def test_pictures_are_known(codec: str, pixels: str, suffix: str, tmp_path: Path) -> None:
    recipe = Recipe(codec=codec, pixels=pixels, count=1, options={})
    path = encode(tmp_path / f"picture.{suffix}", recipe)
    assert (recognise(path).name, recognise(path).is_picture) == (suffix, True)


@pytest.mark.parametrize(
    "content",
    [
        b"just words, no pictures at all",
        b"#EXTM3U\n#EXTINF:1,\nmovie.mp4\n",
        b"ffconcat version 1.0\nfile movie.mp4\n",
        b"RIFF\x24\0\0\0WAVEfmt ",
        b"\0",
        b"GIF",
    ],
)
def test_other_files_and_playlists_are_refused(content: bytes, tmp_path: Path) -> None:
    path = tmp_path / "movie.mp4"
    path.write_bytes(content)
    with pytest.raises(MediaError, match=r"movie\.mp4, which starts with"):
        recognise(path)


def test_an_empty_file_is_called_empty(tmp_path: Path) -> None:
    path = tmp_path / "movie.mp4"
    path.touch()
    with pytest.raises(MediaError, match=r"movie\.mp4, an empty file"):
        recognise(path)


def test_errors_name_the_file_but_not_where_it_lies(tmp_path: Path) -> None:
    path = tmp_path / "movie.mp4"
    path.write_bytes(b"nothing to see here, move along")
    with pytest.raises(MediaError) as caught:
        recognise(path)
    assert str(tmp_path) not in str(caught.value)


@pytest.mark.parametrize(
    ("head", "name"),
    [
        (b"\x89PNG\r\n\x1a\n\0\0\0\rIHDR" + (16384).to_bytes(4, "big") * 2, "p.png"),
        (b"GIF89a" + (16384).to_bytes(2, "little") * 2, "p.gif"),
        (b"BM" + bytes(16) + (16384).to_bytes(4, "little") * 2, "p.bmp"),
    ],
)
def test_a_huge_picture_is_refused_by_its_header_with_numbers(
    head: bytes, name: str, tmp_path: Path
) -> None:
    path = tmp_path / name
    path.write_bytes(head.ljust(64, b"\0"))
    with pytest.raises(MediaError, match="16384 x 16384 = 268,435,456 pixels"):
        recognise(path)


def test_the_ceiling_itself_is_allowed() -> None:
    check_pixels(MOST_PIXELS // 4, 4, "film")
    with pytest.raises(MediaError, match=r"67,108,868 pixels in film"):
        check_pixels(MOST_PIXELS // 4 + 1, 4, "film")


def test_only_regular_files_that_exist(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(MediaError, match="regular file"):
        regular_file(tmp_path / "pipe")
    with pytest.raises(MediaError, match="does not exist"):
        regular_file(tmp_path / "nothing.mp4")
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(MediaError, match="does not exist"):
        regular_file(tmp_path / "loop")


def test_a_link_is_followed_to_its_file(tmp_path: Path) -> None:
    (tmp_path / "real.mp4").touch()
    (tmp_path / "link.mp4").symlink_to("real.mp4")
    assert regular_file(tmp_path / "link.mp4") == (tmp_path / "real.mp4").resolve()


def test_a_name_that_looks_like_a_protocol_stays_a_name(video: Videos, tmp_path: Path) -> None:
    path = tmp_path / "concat:a|b"
    path.write_bytes(video("h264.mp4").read_bytes())
    path = regular_file(path)
    with open_container(path, recognise(path)) as container:
        assert len(container.streams.video) == 1


def test_a_file_without_its_index_is_damaged(video: Videos, tmp_path: Path) -> None:
    path = tmp_path / "half.mp4"
    whole = video("h264.mp4").read_bytes()
    path.write_bytes(whole[: whole.index(b"moov") - 4])
    with pytest.raises(MediaError, match=r"half\.mp4"):
        open_container(path, recognise(path))


def test_sound_alone_is_refused(tmp_path: Path) -> None:
    path = sound_only(tmp_path / "song.mp4")
    with (
        open_container(path, recognise(path)) as container,
        pytest.raises(MediaError, match="audio only"),
    ):
        video_stream(container, "song.mp4")


def test_a_cover_picture_is_not_a_video(tmp_path: Path) -> None:
    cover = png_of(tmp_path / "cover.png", (8, 8))
    path = tmp_path / "song.mp4"
    with (
        av.open(str(sound_only(tmp_path / "plain.mp4"))) as sound,
        av.open(str(cover)) as picture,
        av.open(str(path), "w") as out,
    ):
        audio = out.add_stream_from_template(sound.streams.audio[0])
        image = out.add_stream_from_template(picture.streams.video[0])
        image.disposition = av.stream.Disposition.attached_pic
        for source, target in ((sound, audio), (picture, image)):
            for packet in source.demux():
                if packet.size:
                    packet.stream = target
                    out.mux(packet)
    with (
        open_container(path, recognise(path)) as container,
        pytest.raises(MediaError, match="video stream"),
    ):
        video_stream(container, "song.mp4")
