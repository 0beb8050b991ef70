"""What each codec promises about its packets: where decoding may start, what may be left out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from av.packet import Packet
from av.video.stream import VideoStream

_H264_IDR, _H264_SEI = 5, 6
_SEI_RECOVERY_POINT = 6
# recovery_frame_cnt = 0 ("1") and exact_match_flag = 1: every frame shown from here on is exact.
_RECOVERS_AT_ONCE = 0b11000000


@dataclass(frozen=True)
class CodecRules:
    """Promises of one codec.

    Args:
        keyframes_are_entries: a packet flagged as keyframe starts decoding afresh. False where the
            flag can be set on a packet that needs earlier ones (GIF keeps a canvas).
        can_skip: the decoder itself can tell frames that nothing refers to, and leaves them out
            without touching any other frame.
        reorders: packets may be stored in another order than they are shown.
    """

    keyframes_are_entries: bool = True
    can_skip: bool = False
    reorders: bool = False


_CAUTIOUS = CodecRules(keyframes_are_entries=False, reorders=True)
_RULES = {
    "h264": CodecRules(can_skip=True, reorders=True),
    "hevc": CodecRules(reorders=True),
    "mpeg4": CodecRules(can_skip=True),
    "vp8": CodecRules(),
    "vp9": CodecRules(),
    "av1": CodecRules(),
    "libdav1d": CodecRules(),
    "mjpeg": CodecRules(),
    "png": CodecRules(),
    "ffv1": CodecRules(),
    "rawvideo": CodecRules(),
}


def codec_rules(name: str) -> CodecRules:
    """Look up what is known of a codec.

    Args:
        name: FFmpeg's name of the decoder.

    Returns:
        Its promises; for a codec not in the table none, so that it is decoded from the start.
    """
    return _RULES.get(name, _CAUTIOUS)


def is_entry(codec: str, data: memoryview, extradata: bytes | None) -> bool:
    """Tell whether decoding may really start at a packet that is flagged as a keyframe.

    Args:
        codec: FFmpeg's name of the decoder.
        data: the packet.
        extradata: the stream's decoder configuration.

    Returns:
        True when the packet needs no earlier one. H.264 flags the start of a gradual refresh as a
        keyframe too: there only an IDR picture or an immediate, exact recovery point counts.
    """
    if codec != "h264":
        return codec_rules(codec).keyframes_are_entries
    for unit in h264_units(data, extradata):
        kind = unit[0] & 31 if len(unit) else 0
        if kind == _H264_IDR or (kind == _H264_SEI and _recovers_at_once(bytes(unit[1:]))):
            return True
    return False


def is_hidden(codec: str, packet: Packet[VideoStream]) -> bool:
    """Tell whether a packet decodes to a frame that is only referred to and never shown.

    Args:
        codec: FFmpeg's name of the decoder.
        packet: not empty.

    Returns:
        True for VP8's alternate reference frames (show_frame, bit 4 of the first byte, is 0).
    """
    return codec == "vp8" and not memoryview(packet)[0] & 0x10


def h264_units(data: memoryview, extradata: bytes | None) -> Iterator[memoryview]:
    """Cut an H.264 packet into its NAL units.

    Args:
        data: the packet, with length prefixes (MP4, MKV) or start codes (AVI).
        extradata: decoder configuration; its first byte is 1 where lengths are used.

    Yields:
        The units without prefix. A damaged length ends the walk.
    """
    if not extradata or len(extradata) < 5 or extradata[0] != 1:
        raw = bytes(data)
        starts = _start_codes(raw)
        for start, end in zip(starts, [*starts[1:], len(raw) + 3], strict=True):
            yield data[start : end - 3]
        return
    width = (extradata[4] & 3) + 1
    at = 0
    while at + width < len(data):
        length = int.from_bytes(data[at : at + width], "big")
        yield data[at + width : at + width + length]
        at += width + length


def _start_codes(raw: bytes) -> list[int]:
    found: list[int] = []
    at = raw.find(b"\0\0\1")
    while at >= 0:
        found.append(at + 3)
        at = raw.find(b"\0\0\1", at + 3)
    return found


def _recovers_at_once(payload: bytes) -> bool:
    """Walk the messages of an SEI unit (H.264 section 7.3.2.3.1) to the recovery point."""
    at = 0
    # The last byte holds the trailing bits.
    while at + 2 < len(payload):
        sizes = [0, 0]
        for part in range(2):
            while at < len(payload) and payload[at] == 255:
                sizes[part] += 255
                at += 1
            if at >= len(payload):
                return False
            sizes[part] += payload[at]
            at += 1
        kind, length = sizes
        if kind == _SEI_RECOVERY_POINT and at < len(payload):
            return payload[at] & _RECOVERS_AT_ONCE == _RECOVERS_AT_ONCE
        at += length
    return False
