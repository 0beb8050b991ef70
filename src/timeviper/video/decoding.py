"""Decode chosen frames of one file: from the nearest entry on, converting only what is wanted."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import final

import numpy as np
from av.error import FFmpegError
from av.packet import Packet
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from timeviper.video.base import FrameReader, Pixels
from timeviper.video.codecs import codec_rules
from timeviper.video.formats import (
    MOST_PIXELS,
    Format,
    open_container,
    video_stream,
)
from timeviper.video.packets import MISSING, PacketTable
from timeviper.video.scaling import FrameScaler


@final
class FileReader(FrameReader):
    """Reads frames of one file with a container and a decoder of its own.

    Three things make it fast and change no pixel: it starts at the last entry before a wanted
    frame, stops at the last packet that matters, and lets the decoder leave out frames that are
    neither wanted nor referred to.

    Args:
        path: the file.
        kind: its row of the format table.
        table: its timeline.
        scaler: converts the frames wanted.
        threads: threads of the decoder.
    """

    def __init__(
        self, path: Path, kind: Format, table: PacketTable, scaler: FrameScaler, threads: int = 1
    ) -> None:
        self._path, self._kind, self._table = path, kind, table
        self._scaler, self._threads = scaler, threads
        self._open()

    def read(
        self, indices: NDArray[np.int64], cancelled: Callable[[], bool]
    ) -> Iterator[tuple[int, Pixels]]:
        """Deliver frames; see `FrameReader.read`."""
        entries = np.searchsorted(self._table.entry_frames, indices, side="right") - 1
        for entry in np.unique(entries):
            yield from self._read_group(int(entry), indices[entries == entry], cancelled)

    def close(self) -> None:
        """Release the file and the decoder."""
        self._container.close()

    def _open(self) -> None:
        self._container = open_container(self._path, self._kind)
        self._stream = video_stream(self._container, self._path.name)
        self._decoder = self._stream.codec_context
        self._decoder.options = {"max_pixels": str(MOST_PIXELS)}
        self._decoder.thread_count = self._threads
        self._can_skip = codec_rules(self._decoder.name).can_skip and not self._table.counted
        self._packets = self._container.demux(self._stream)
        self._pending: Packet[VideoStream] | None = None
        self._next_packet = 0

    def _read_group(
        self, entry: int, indices: NDArray[np.int64], cancelled: Callable[[], bool]
    ) -> Iterator[tuple[int, Pixels]]:
        """Frames that are decoded from one entry."""
        table = self._table
        match = _Matcher(table, indices, int(table.entry_frames[entry]))
        for frame in self._decode(entry, table.packets[indices], cancelled):
            number = match.number(frame)
            if number is not None:
                yield number, self._scaler.convert(frame)
            if match.complete:
                break

    def _decode(
        self, entry: int, packets: NDArray[np.int64], cancelled: Callable[[], bool]
    ) -> Iterator[VideoFrame]:
        """Frames in order of presentation, from an entry to the last packet wanted."""
        wanted = frozenset(packets.tolist())
        last = self._last_packet(entry) if self._table.counted else max(wanted)
        self._move_to(int(self._table.entry_packets[entry]))
        skipping = False
        while self._next_packet <= last and not cancelled():
            number = self._next_packet
            packet = self._read_packet()
            if packet is None:
                break
            skip = self._can_skip and number not in wanted
            if skip != skipping:
                self._decoder.skip_frame = "NONREF" if skip else "DEFAULT"
                skipping = skip
            yield from self._feed(packet)
        yield from self._feed(None)

    def _last_packet(self, entry: int) -> int:
        """The packet before the next entry: a counted frame may sit in any packet up to there."""
        later = self._table.entry_packets[entry + 1 :]
        return int(later[0] if len(later) else len(self._table.packet_pts)) - 1

    def _feed(self, packet: Packet[VideoStream] | None) -> list[VideoFrame]:
        """Hand a packet to the decoder; a damaged one gives no frames."""
        try:
            return self._decoder.decode(packet)
        except FFmpegError:
            return []

    def _read_packet(self) -> Packet[VideoStream] | None:
        """The next packet, or None where the file ends or is damaged."""
        packet, self._pending = self._pending, None
        if packet is None:
            packet = self._demux()
        if packet is not None:
            self._next_packet += 1
        return packet

    def _demux(self) -> Packet[VideoStream] | None:
        try:
            packet = next(self._packets, None)
        except FFmpegError:
            return None
        return packet if packet is not None and packet.size else None

    def _move_to(self, number: int) -> None:
        """Make `number` the next packet, with a decoder that remembers nothing."""
        self._decoder.skip_frame = "DEFAULT"
        self._decoder.flush_buffers()
        if number != self._next_packet and not self._seek(number):
            self._container.close()
            self._open()
        while self._next_packet < number and self._read_packet() is not None:
            pass

    def _seek(self, number: int) -> bool:
        """Jump to packet `number` or one before it; False when the container cannot."""
        entries = self._table.entry_packets
        at = int(np.searchsorted(entries, number, side="right")) - 1
        # Demuxers seek by storage order or by presentation: where one lands too late, the entry
        # before lands early enough.
        for entry in reversed(entries[max(at - 2, 0) : at + 1].tolist()):
            pts = int(self._table.packet_pts[entry])
            if pts == MISSING:
                return False
            try:
                self._container.seek(pts, stream=self._stream)
            except FFmpegError:
                return False
            self._packets = self._container.demux(self._stream)
            self._pending = self._demux()
            landed = self._number_of(self._pending)
            if landed is not None and landed <= number:
                self._next_packet = landed
                return True
        return False

    def _number_of(self, packet: Packet[VideoStream] | None) -> int | None:
        """Number of a packet met after a jump, told by its stamp; None when that is ambiguous."""
        if packet is None or packet.pts is None:
            return None
        matches = np.flatnonzero(self._table.packet_pts == packet.pts)
        return int(matches[0]) if len(matches) == 1 else None


class _Matcher:
    """Tells which of the decoder's frames are the wanted ones."""

    def __init__(self, table: PacketTable, indices: NDArray[np.int64], first_frame: int) -> None:
        self._counted = table.counted
        self._next_frame = first_frame
        keys = indices if table.counted else table.pts[indices]
        self._left = dict(zip(keys.tolist(), indices.tolist(), strict=True))

    @property
    def complete(self) -> bool:
        """All wanted frames have been seen."""
        return not self._left

    def number(self, frame: VideoFrame) -> int | None:
        """Number of a frame when it is wanted, else None; call once for each frame, in order."""
        key = self._next_frame if self._counted else frame.pts
        self._next_frame += 1
        return None if key is None else self._left.pop(key, None)
