"""The timeline of a file, learned from its packets without decoding: header values are hints."""

from __future__ import annotations

from array import array
from dataclasses import dataclass, field
from fractions import Fraction

import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.stream import VideoStream
from numpy.typing import NDArray

from timeviper.core.errors import MediaError
from timeviper.video.codecs import codec_rules, is_entry, is_hidden

MISSING = -(2**63)
_FASTEST_FPS = 1000.0


@dataclass(kw_only=True)
class Columns:
    """What the packets of a stream say, in storage order.

    Args:
        base: seconds of one tick.
        rate: frames per second that the stream claims; None when it claims none.
        stored_order: stamps follow the order of storage although frames are shown in another.
        pts: presentation stamp of each packet in ticks, `MISSING` where there is none.
        dts: decoding stamp, likewise.
        durations: ticks for which the frame is shown; 0 when unknown.
        shown: whether the packet holds a frame that is shown.
        entries: numbers of the packets at which decoding can start.
        ended_early: the file stops in the middle of a packet or with an error.
    """

    base: Fraction
    rate: Fraction | None
    stored_order: bool = False
    pts: array[int] = field(default_factory=lambda: array("q"))
    dts: array[int] = field(default_factory=lambda: array("q"))
    durations: array[int] = field(default_factory=lambda: array("q"))
    shown: array[int] = field(default_factory=lambda: array("b"))
    entries: list[int] = field(default_factory=list[int])
    ended_early: bool = False


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
            packets do not say which frame is meant: AVI stores none, others may repeat.
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


def scan_packets(container: InputContainer, stream: VideoStream) -> Columns:
    """Read all packets of a stream, decoding none.

    Args:
        container: open, at its start.
        stream: the video stream of it.

    Returns:
        What they say. Damage ends the walk: what came before is still a video.
    """
    codec, extradata = stream.codec_context.name, stream.codec_context.extradata
    rate = stream.average_rate or stream.guessed_rate
    columns = Columns(
        base=Fraction(stream.time_base or Fraction(1, 1000)),
        rate=Fraction(rate) if rate else None,
        # FFmpeg fills in what AVI does not store.
        stored_order=container.format.name == "avi" and codec_rules(codec).reorders,
    )
    try:
        for number, packet in enumerate(container.demux(stream)):
            if not packet.size:
                break
            columns.ended_early |= packet.is_corrupt
            columns.pts.append(MISSING if packet.pts is None else packet.pts)
            columns.dts.append(MISSING if packet.dts is None else packet.dts)
            columns.durations.append(packet.duration or 0)
            hidden = is_hidden(codec, packet)
            columns.shown.append(not (hidden or packet.is_discard or packet.is_corrupt))
            if packet.is_keyframe and is_entry(codec, memoryview(packet), extradata):
                columns.entries.append(number)
    except FFmpegError:
        columns.ended_early = True
    return columns


def lay_out(columns: Columns, name: str) -> PacketTable:
    """Order the frames of a stream in time.

    Args:
        columns: what its packets say.
        name: of the file, for messages.

    Returns:
        The timeline. Where stamps are missing, frame k is shown at k / rate.

    Raises:
        MediaError: no frame at all, or no usable time for the frames.
    """
    shown = np.flatnonzero(np.array(columns.shown, np.int8)).astype(np.int64)
    if not len(shown):
        raise MediaError(
            want="at least one frame", got=f"no complete frame in {name}", do="check the file"
        )
    stamps, base, counted = _stamps(columns, shown, name)
    order = np.argsort(stamps, kind="stable")
    pts = stamps[order]
    # Counting follows the order in which the decoder gives frames, whatever their stamps.
    packets = shown if counted else shown[order]
    times = (pts - pts[0]) * base.numerator / base.denominator
    packet_pts = np.array(columns.pts, np.int64)
    starts = np.array(columns.entries, np.int64)
    frames = np.searchsorted(shown, starts) if counted else np.searchsorted(pts, packet_pts[starts])
    entry_frames, entry_packets = _entries(starts, frames, len(pts))
    last = columns.durations[int(packets[-1])] * float(columns.base)
    return PacketTable(
        times=times,
        pts=pts,
        packets=packets,
        entry_frames=entry_frames,
        entry_packets=entry_packets,
        packet_pts=packet_pts,
        counted=counted,
        origin=float(int(pts[0]) * base),
        duration=_duration(times, last, columns.rate, name),
        ended_early=columns.ended_early,
    )


def _stamps(
    columns: Columns, shown: NDArray[np.int64], name: str
) -> tuple[NDArray[np.int64], Fraction, bool]:
    """Stamps of the shown packets, their unit in seconds, and whether frames must be counted."""
    pts = np.array(columns.pts, np.int64)[shown]
    if (pts != MISSING).all():
        different = len(np.unique(pts))
        if 2 * different < len(pts):
            raise _unusable(f"{len(pts)} frames with {different} different times in {name}")
        return pts, columns.base, columns.stored_order or different < len(pts)
    dts = np.array(columns.dts, np.int64)[shown]
    if (dts != MISSING).all() and (np.diff(dts) > 0).all():
        return dts, columns.base, True
    if columns.rate is None:
        raise _unusable(f"{len(pts)} frames without times and 0 frames per second in {name}")
    return np.arange(len(shown), dtype=np.int64), 1 / columns.rate, True


def _entries(
    starts: NDArray[np.int64], frames: NDArray[np.int64], count: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Frames and packets where decoding can start; the start of the file always counts as one."""
    inside = (starts > 0) & (frames > 0) & (frames < count)
    # Entries out of order in time (a damaged file) cannot bound one another.
    ascending = np.maximum.accumulate(frames) == frames
    keep = np.flatnonzero(inside & ascending)
    _, first = np.unique(frames[keep], return_index=True)
    keep = keep[first]
    return np.append(0, frames[keep]).astype(np.int64), np.append(0, starts[keep]).astype(np.int64)


def _duration(
    times: NDArray[np.float64], last_seconds: float, rate: Fraction | None, name: str
) -> float:
    """From the first frame to the end of the last one."""
    span, gaps = float(times[-1]), len(times) - 1
    if gaps and (span <= 0 or gaps / span > _FASTEST_FPS):
        raise _unusable(f"{gaps + 1} frames within {span:.6f} s in {name}")
    if last_seconds > 0:
        return span + last_seconds
    if gaps:
        return span + span / gaps
    return float(1 / rate) if rate else 1.0


def _unusable(got: str) -> MediaError:
    return MediaError(
        want="frames that are shown one after another",
        got=got,
        do="its times are unusable; give it new ones: ffmpeg -r 25 -i FILE video.mp4",
    )
