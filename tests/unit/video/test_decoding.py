"""Shortcuts of decoding: each is taken, and none changes a pixel."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest

from tests.unit.video.files import SMALL, X264, Recipe, encode
from timeviper.video.decoding import FileReader
from timeviper.video.file_source import FileSource
from timeviper.video.reference import decode_all

Videos = Callable[[str], Path]


def never() -> bool:
    return False


def reader_of(path: Path, threads: int = 1) -> FileReader:
    return FileSource(path).open_reader(SMALL, threads=threads)


def frames_of(reader: FileReader, indices: list[int]) -> dict[int, np.ndarray]:
    got = list(reader.read(np.array(indices, np.int64), never))
    assert [index for index, _ in got] == indices
    return {index: np.array(pixels) for index, pixels in got}


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "open_gop.mp4", "mpeg4.mp4", "hevc.mp4"])
@pytest.mark.parametrize("threads", [1, 3])
def test_every_frame_alone_is_bit_identical(video: Videos, name: str, threads: int) -> None:
    want, _ = decode_all(video(name), SMALL)
    reader = reader_of(video(name), threads)
    for index in [*range(47, -1, -5), *range(0, 48, 7)]:
        np.testing.assert_array_equal(frames_of(reader, [index])[index], want[index])
    reader.close()


@pytest.mark.parametrize("name", ["h264.mp4", "mpeg4.mp4", "one_gop.mp4"])
def test_frames_that_nothing_needs_are_not_decoded(video: Videos, name: str) -> None:
    reader = reader_of(video(name))
    decoded = list(reader._decode(0, np.array([10]), never))
    # With B-frames, at least a third of the frames before are referred to by none.
    assert len(decoded) <= 8
    reader.close()


def test_where_nothing_may_be_left_out_nothing_is(video: Videos) -> None:
    reader = reader_of(video("hevc.mp4"))
    assert len(list(reader._decode(0, np.array([8]), never))) == 9
    reader.close()


def test_decoding_stops_at_the_last_packet_that_matters(video: Videos) -> None:
    reader = reader_of(video("h264.mp4"))
    frames_of(reader, [13, 14])
    # The GOP has packets 12 to 23.
    assert 13 <= reader._next_packet <= 18
    reader.close()


@pytest.mark.parametrize("name", ["h264.mp4", "h264.mkv", "h264.avi", "vp9.webm", "hevc.mp4"])
def test_seeking_reads_no_packet_in_vain(video: Videos, name: str) -> None:
    reader = reader_of(video(name))
    for target in reader._table.entry_packets.tolist():
        assert reader._seek(target)
        assert target - 12 <= reader._next_packet <= target
    reader.close()


def test_a_container_that_cannot_seek_is_read_from_the_start(
    video: Videos, monkeypatch: pytest.MonkeyPatch
) -> None:
    want, _ = decode_all(video("h264.mp4"), SMALL)
    reader = reader_of(video("h264.mp4"))
    monkeypatch.setattr(FileReader, "_seek", lambda self, number: False)
    for index in (40, 3, 30):
        np.testing.assert_array_equal(frames_of(reader, [index])[index], want[index])
    reader.close()


def test_going_back_works(video: Videos) -> None:
    want, _ = decode_all(video("frames.gif"), SMALL)
    reader = reader_of(video("frames.gif"))
    for index in (40, 3, 30):
        np.testing.assert_array_equal(frames_of(reader, [index])[index], want[index])
    reader.close()


def test_cancelling_ends_within_a_packet(video: Videos) -> None:
    reader = reader_of(video("one_gop.mp4"))
    asked = 0

    def after_five() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    assert list(reader.read(np.array([47], np.int64), after_five)) == []
    assert reader._next_packet == 5
    reader.close()


def test_damage_costs_one_group_of_pictures(video: Videos, tmp_path: Path) -> None:
    path = encode(tmp_path / "fast.mp4", Recipe(options={**X264, "x264-params": "annexb=0"}))
    table = FileSource(path)._table
    # Of this very file: x264 may write another that looks a little different.
    want, _ = decode_all(path, SMALL)
    data = bytearray(path.read_bytes())
    start = data.index(b"mdat") + 4
    # The second quarter of the pictures' bytes: the groups before and behind stay whole.
    size = int.from_bytes(data[start - 8 : start - 4], "big")
    data[start + size // 4 : start + size // 2] = bytes(size // 2 - size // 4)
    path.write_bytes(data)
    reader = FileSource(path).open_reader(SMALL)
    got = dict(reader.read(np.arange(len(table.times), dtype=np.int64), never))
    assert set(range(36, 48)) <= set(got)
    np.testing.assert_array_equal(got[47], want[47])
    np.testing.assert_array_equal(got[0], want[0])
    reader.close()


def test_frames_of_changing_size_come_out_in_one_size(tmp_path: Path) -> None:
    small = encode(tmp_path / "a.mkv", Recipe(codec="mjpeg", pixels="yuvj420p", options={}))
    large = encode(
        tmp_path / "b.mkv",
        Recipe(codec="mjpeg", pixels="yuvj420p", options={}, size=(96, 128)),
    )
    path = joined(tmp_path / "both.mkv", [small, large])
    reader = reader_of(path)
    got = frames_of(reader, [0, 47, 48, 95])
    want, _ = decode_all(large, SMALL)
    np.testing.assert_array_equal(got[48], want[0])
    reader.close()


def joined(path: Path, parts: list[Path]) -> Path:
    """Put the packets of several files of one codec behind each other."""
    with av.open(str(path), "w") as out:
        stream, offset = None, 0
        for part in parts:
            with av.open(str(part)) as source:
                stream = stream or out.add_stream_from_template(source.streams.video[0])
                for packet in source.demux(video=0):
                    if packet.size:
                        packet.pts += offset
                        packet.dts = packet.pts
                        packet.stream = stream
                        out.mux(packet)
                offset += 2000
    return path
