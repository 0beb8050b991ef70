"""Decode what plays, give each frame its time, and keep those on screen when the model looks."""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import final

from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream

from timeviper.core.errors import ConfigError, MediaError
from timeviper.video.base import Size
from timeviper.video.file_source import orientation_of
from timeviper.video.formats import check_pixels, video_stream
from timeviper.video.live_clock import Pace, StreamClock
from timeviper.video.live_place import Connection
from timeviper.video.live_queue import LiveFrame
from timeviper.video.orientation import Orientation
from timeviper.video.scaling import FrameScaler

# A camera's frame that stays longer than this stood still, and was not what there was to see.
_LONGEST_SECONDS = 10.0
_LIKELY_RATE, _FASTEST_RATE = 25.0, 1000.0
_SLACK_SECONDS = 1e-6


@dataclass(frozen=True, kw_only=True)
class LiveInfo:
    """What a connection turned out to be.

    Args:
        width: columns as shown.
        height: rows as shown.
        codec: FFmpeg's name of the codec.
        rate: frames a second that it claims, or None.
        real_time: it plays whether somebody looks or not.
    """

    width: int
    height: int
    codec: str
    rate: float | None
    real_time: bool


@final
class MomentGrid:
    """The moments k / fps at which the model looks, each given out once.

    Args:
        fps: moments a second.

    Raises:
        ConfigError: not a number above 0.
    """

    def __init__(self, fps: float | int) -> None:
        if not (math.isfinite(fps) and fps > 0):
            raise ConfigError(want="fps above 0", got=fps, do="give frames per second, such as 1")
        self._fps, self._next = fps, 0

    def before(self, seconds: float | int) -> Iterator[float]:
        """Moments before a second that were not given out yet, ascending."""
        while (moment := self._next / self._fps) < seconds - _SLACK_SECONDS:
            self._next += 1
            yield moment

    def skip_to(self, seconds: float | int) -> None:
        """Give out no moment before a second any more."""
        self._next = max(self._next, math.ceil((seconds - _SLACK_SECONDS) * self._fps))


@final
class Player:
    """Plays one connection.

    Args:
        link: open.
        grid: moments at which to look, shared by all connections of one video.
        fit: rows and columns to deliver, from rows and columns as shown.
        start: seconds at which its first frame was seen.
    """

    def __init__(
        self, link: Connection, grid: MomentGrid, *, fit: Callable[[Size], Size], start: float
    ) -> None:
        self._link, self._grid, self._fit = link, grid, fit
        self._stream: VideoStream = video_stream(link.container, "the stream")
        rate = float(self._stream.average_rate or self._stream.guessed_rate or 0)
        self._rate = rate if 0 < rate <= _FASTEST_RATE else None
        self._clock = StreamClock(Pace(real_time=link.real_time, rate=self._rate), start=start)
        self._scalers: dict[tuple[int, int, Orientation], FrameScaler] = {}
        self._shown: VideoFrame | None = None
        self._step = 1 / (self._rate or _LIKELY_RATE)
        self._distrusted = False
        self.frames = 0

    @property
    def now(self) -> float:
        """Time of the newest frame."""
        return self._clock.now

    def play(self, wanted: Callable[[], bool]) -> Iterator[LiveInfo | LiveFrame | str]:
        """Play to the end of the connection.

        Args:
            wanted: asked before each packet whether to go on.

        Yields:
            First what the connection is, then frames at the moments of the grid, and between them
            sentences for the user.
        """
        for frame in self._decoded(wanted):
            before = self._clock.now
            stamp = None if frame.time is None else float(frame.time)
            now = self._clock.time_of(stamp, time.monotonic())
            self.frames += 1
            if self._shown is None:
                yield self._info(frame)
                # What was asked while nobody was there to answer stays unanswered.
                self._grid.skip_to(now)
            else:
                yield from self._between(before, now)
            self._shown = frame
            if self._clock.distrust is not None and not self._distrusted:
                self._distrusted = True
                yield self._clock.distrust
        if self._shown is not None and wanted():
            yield from self._looks(self._clock.now + self._step)

    def _between(self, before: float, now: float) -> Iterator[LiveFrame | str]:
        """What the model saw of the frame that was on screen until now."""
        if self._link.real_time and now - before > _LONGEST_SECONDS:
            yield from self._looks(before + self._step)
            self._grid.skip_to(now)
            yield f"nothing came from {before:.1f} s to {now:.1f} s"
            return
        yield from self._looks(now)

    def _looks(self, until: float) -> Iterator[LiveFrame]:
        moments = list(self._grid.before(until))
        if not moments or self._shown is None:
            return
        pixels = self._scaler(self._shown).convert(self._shown)
        for moment in moments:
            yield LiveFrame(pixels, moment)

    def _scaler(self, frame: VideoFrame) -> FrameScaler:
        orientation = orientation_of(frame)
        key = (frame.height, frame.width, orientation)
        if key not in self._scalers:
            # A camera may change its size while it plays.
            check_pixels(frame.width, frame.height, "the stream")
            size = self._fit(orientation.stored_size((frame.height, frame.width)))
            self._scalers = {key: FrameScaler(size, orientation)}
        return self._scalers[key]

    def _info(self, frame: VideoFrame) -> LiveInfo:
        rows, columns = orientation_of(frame).stored_size((frame.height, frame.width))
        return LiveInfo(
            width=columns,
            height=rows,
            codec=self._stream.codec_context.name,
            rate=self._rate,
            real_time=self._link.real_time,
        )

    def _decoded(self, wanted: Callable[[], bool]) -> Iterator[VideoFrame]:
        """Frames until the connection ends or breaks; damaged packets give none."""
        packets = self._link.container.demux(self._stream)
        while wanted():
            try:
                packet = next(packets, None)
            except FFmpegError:
                return
            if packet is None:
                return
            try:
                yield from packet.decode()
            except FFmpegError:
                continue


def check_seen(frames: int, name: str) -> None:
    """Refuse a place that shows nothing.

    Raises:
        MediaError: no frame was seen.
    """
    if frames == 0:
        raise MediaError(
            want="a video that decodes",
            got=f"not one frame from {name}",
            do="play it with another program to see whether it is a video",
        )
