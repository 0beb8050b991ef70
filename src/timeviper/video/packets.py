"""The timeline of a file, learned from its packets without decoding them: header values are hints."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from fractions import Fraction
from pathlib import Path

import av
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from timeviper.core.errors import MediaError
from timeviper.video.codecs import codec_rules, is_entry, is_hidden

MISSING = -(2**63)
_FASTEST_FPS = 1000.0
_LIKELY_FPS = Fraction(25)


@dataclass(frozen=True, kw_only=True)
class PacketTable:
    """Where each frame of a file is, and when it is shown.

    Args:
        times: float64 (frame,) seconds from the first frame, ascending.
        pts: int64 (frame,) presentation stamps in ticks of the stream, ascending.
        packets: int64 (frame,) number of the packet that holds the frame, in storage order.
        entry_frames: int64 (entry,) frames at which decoding can start, the first 0.
        entry_packets: int64 (entry,) their packets.
        packet_pts: int64 (packet,) stamps in storage order, `MISSING` where there is none.
        counted: frames are told apart by counting them from an entry, because the stamps of the
            packets do not say when they are shown (AVI) or repeat.
        origin: presentation time of the first frame in the file, seconds.
        duration: seconds from the first frame to the end of the last.
        ended_early: the file stops in the middle of a packet or with an error.
    """

    times: NDArray[np.float64]
    pts: NDArray[np.int64]
    packets: NDArray[np.int64]
    entry_frames: NDArray[np.int64]
    entry_packets: NDArray[np.int64]
    packet_pts: NDArray[np.int64]
    counted: bool
    origin: float
    duration: float
    ended_early: bool


@dataclass
class _Scan:
    """Columns gathered packet by packet, in storage order."""

    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    durations: array[int] = field(default_factory=lambda: array("q"))
    shown: array[int] = field(default_factory=lambda: array("b"))
    entries: list[int] = field(default_factory=list[int])
    ended_early: bool = False


def build_table(container: InputContainer, stream: VideoStream, path: Path) -> PacketTable:
    """Read all packets of a stream and lay out its frames in time.

    Args:
        container: open, at its start.
        stream: the video stream of it.
        path: the file, for messages.

    Returns:
        The timeline. Frames without stamps get them from their number and the frame rate.

    Raises:
        MediaError: no frame at all, or stamps that do not advance.
    """
    scan = _scan(container, stream)
    shown = np.flatnonzero(np.frombuffer(scan.shown, np.int8))
    if not len(shown):
        raise MediaError(
            want="at least one frame", got=f"no complete frame in {path}", do="check the file"
        )
    packet_pts = np.array(scan.pts, np.int64)
    stamps, base, counted = _stamps(scan, shown, stream, container.format.name)
    order = np.argsort(stamps, kind="stable")
    pts = stamps[order]
    # Counting follows the order of output, which is the order of storage packet by packet.
    packets = shown if counted else shown[order]
    numerator, denominator = base.numerator, base.denominator
    times = ((pts - pts[0]) * numerator).astype(np.float64) / denominator
    last_ticks = int(np.frombuffer(scan.durations, np.int64)[packets[-1]])
    table_entries = _entries(scan.entries, packets, pts, packet_pts, counted)
    return PacketTable(
        times=times,
        pts=pts,
        packets=packets,
        entry_frames=table_entries[0],
        entry_packets=table_entries[1],
        packet_pts=packet_pts,
        counted=counted,
        origin=float(int(pts[0]) * base),
        duration=_duration(times, last_ticks * float(base), stream, path),
        ended_early=scan.ended_early,
    )


def _scan(container: InputContainer, stream: VideoStream) -> _Scan:
    scan = _Scan()
    codec = stream.codec_context.name
    extradata = stream.codec_context.extradata
    looks_inside = codec == "vp8"
    try:
        for number, packet in enumerate(container.demux(stream)):
            if not packet.size:
                break
            if packet.is_corrupt:
                scan.ended_early = True
            scan.pts.append(MISSING if packet.pts is None else packet.pts)
            scan.dts.append(MISSING if packet.dts is None else packet.dts)
            scan.durations.append(packet.duration or 0)
            hidden = looks_inside and is_hidden(codec, memoryview(packet))
            scan.shown.append(not (hidden or packet.is_discard or packet.is_corrupt))
            if packet.is_keyframe and is_entry(codec, memoryview(packet), extradata):
                scan.entries.append(number)
    except av.error.FFmpegError:
        # What came before the damage is still a video; the source says where it ends.
        scan.ended_early = True
    return scan


def _stamps(
    scan: _Scan, shown: NDArray[np.intp], stream: VideoStream, container: str
) -> tuple[NDArray[np.int64], Fraction, bool]:
    """Stamps of the shown packets, their unit in seconds, and whether frames must be counted."""
    rules = codec_rules(stream.codec_context.name)
    base = Fraction(stream.time_base or Fraction(1, 1000))
    pts = np.array(scan.pts, np.int64)[shown]
    if (pts != MISSING).all() and len(np.unique(pts)) == len(pts):
        # AVI stores no presentation times: FFmpeg fills in the order of storage.
        return pts, base, container == "avi" and rules.reorders
    dts = np.array(scan.dts, np.int64)[shown]
    if (dts != MISSING).all() and (np.diff(dts) > 0).all():
        return dts, base, True
    rate = Fraction(stream.average_rate or stream.guessed_rate or _LIKELY_FPS)
    return np.arange(len(shown), dtype=np.int64), 1 / rate, True


def _entries(
    entries: list[int],
    packets: NDArray[np.int64],
    pts: NDArray[np.int64],
    packet_pts: NDArray[np.int64],
    counted: bool,
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frames and packets where decoding can start; the start of the file always counts as one."""
    starts = np.array(entries, np.int64)
    if counted:
        frames = np.searchsorted(packets, starts)
    else:
        frames = np.searchsorted(pts, packet_pts[starts])
    later = (starts > packets[0]) & (frames > 0) & (frames < len(packets))
    # Entries out of order in time (a damaged file) cannot bound one another.
    ordered = np.maximum.accumulate(frames) == frames
    keep = later & ordered
    return (
        np.concatenate(([0], frames[keep])).astype(np.int64),
        np.concatenate(([0], starts[keep])).astype(np.int64),
    )


def _duration(
    times: NDArray[np.float64], last_seconds: float, stream: VideoStream, path: Path
) -> float:
    span = float(times[-1])
    count = len(times)
    if count > 1 and (span <= 0 or (count - 1) / span > _FASTEST_FPS):
        raise MediaError(
            want="frames that are shown one after another",
            got=f"{count} frames within {span:.6f} s in {path}",
            do="its timestamps are unusable; re-encode it: ffmpeg -r 25 -i FILE video.mp4",
        )
    if last_seconds > 0:
        return span + last_seconds
    if count > 1:
        return span + span / (count - 1)
    rate = stream.average_rate or stream.guessed_rate
    return float(1 / Fraction(rate)) if rate else 1.0
