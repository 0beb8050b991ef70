"""Where decoding may start is read from the packets themselves."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import av
import pytest

from timeviper.video.codecs import codec_rules, h264_units, is_entry, is_hidden

Videos = Callable[[str], Path]
LENGTHS = b"\x01\x64\x00\x0a\xff"  # four-byte lengths
IDR, SLICE = b"\x65\x88", b"\x41\x9a"


def prefixed(*units: bytes) -> memoryview:
    return memoryview(b"".join(len(unit).to_bytes(4, "big") + unit for unit in units))


def recovery(payload: bytes, before: bytes = b"") -> bytes:
    return b"\x06" + before + b"\x06" + bytes([len(payload)]) + payload + b"\x80"


def test_units_by_length_and_by_start_code() -> None:
    assert [bytes(u) for u in h264_units(prefixed(IDR, SLICE), LENGTHS)] == [IDR, SLICE]
    codes = memoryview(b"\0\0\0\1" + IDR + b"\0\0\1" + SLICE)
    assert [bytes(u).rstrip(b"\0") for u in h264_units(codes, None)] == [IDR, SLICE]


def test_short_lengths() -> None:
    data = memoryview(b"\x02" + IDR + b"\x02" + SLICE)
    assert [bytes(u) for u in h264_units(data, b"\x01\x64\x00\x0a\xfc")] == [IDR, SLICE]


@pytest.mark.parametrize("damage", [b"", b"\xff", b"\xff" * 8, b"\0\0\0\0" * 3, b"\0\0\0\x09\x65"])
def test_damaged_packets_end_the_walk(damage: bytes) -> None:
    assert sum(len(unit) for unit in h264_units(memoryview(damage), LENGTHS)) <= len(damage)
    assert not is_entry("h264", memoryview(damage.replace(b"\x65", b"")), LENGTHS)


@pytest.mark.parametrize(
    ("units", "entry"),
    [
        ((IDR,), True),
        ((b"\x09\xf0", IDR), True),
        ((SLICE,), False),
        # recovery_frame_cnt 0 and exact: ue(0) = "1", then "1".
        ((recovery(b"\xc4"), SLICE), True),
        # Exact only after some frames: ue(3) = "00100".
        ((recovery(b"\x26"), SLICE), False),
        # At once, but only approximately.
        ((recovery(b"\x84"), SLICE), False),
        # Behind another message, with sizes that take two bytes.
        ((recovery(b"\xc4", before=b"\x05\xff\x03" + bytes(258)), SLICE), True),
        ((b"\x06\x06", SLICE), False),
        ((b"\x06\xff\xff\xff", SLICE), False),
    ],
)
def test_entries_of_h264(units: tuple[bytes, ...], entry: bool) -> None:
    assert is_entry("h264", prefixed(*units), LENGTHS) is entry


@pytest.mark.parametrize(("name", "entries"), [("refresh.mkv", 1), ("open_gop.mp4", 4)])
def test_flagged_keyframes_are_checked(video: Videos, name: str, entries: int) -> None:
    with av.open(str(video(name))) as container:
        stream = container.streams.video[0]
        flagged = [p for p in container.demux(stream) if p.is_keyframe]
        assert len(flagged) == 4
        extradata = stream.codec_context.extradata
        assert sum(is_entry("h264", memoryview(p), extradata) for p in flagged) == entries


def test_other_codecs_are_believed_or_not() -> None:
    assert is_entry("vp9", memoryview(b"x"), None)
    assert not is_entry("gif", memoryview(b"x"), None)
    assert not is_entry("a codec of the year 2040", memoryview(b"x"), None)
    assert not codec_rules("a codec of the year 2040").can_skip


@pytest.mark.parametrize(("first", "hidden"), [(0x10, False), (0x01, True), (0x11, False)])
def test_frames_of_vp8_that_are_never_shown(first: int, hidden: bool) -> None:
    packet = av.Packet(bytes([first, 0, 0]))
    assert is_hidden("vp8", packet) is hidden
    assert not is_hidden("vp9", packet)
