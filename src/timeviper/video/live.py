"""Frames of a camera, stream, pipe or file while it plays: read by a thread, sampled, queued."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from types import TracebackType
from typing import final

from timeviper.core.errors import ConfigError, MediaError
from timeviper.video.base import Size
from timeviper.video.live_place import Connection, Place, connect
from timeviper.video.live_player import LiveInfo, MomentGrid, Player, check_seen
from timeviper.video.live_queue import FrameQueue, LiveFrame, WhenFull

_FIRST_PAUSE_SECONDS, _LONGEST_PAUSE_SECONDS = 0.25, 8.0


@dataclass(frozen=True, kw_only=True)
class LiveOptions:
    """How to look at a live video.

    Args:
        fps: frames a second that reach the model.
        capacity: frames that may wait for it.
        when_full: what happens then; None drops the oldest of what plays in real time and lets
            all else wait.
        silence: seconds without data after which a camera counts as gone.
        patience: seconds for which one that was there is called again.
    """

    fps: float | int = 1.0
    capacity: int = 64
    when_full: WhenFull | None = None
    silence: float | int = 5.0
    patience: float | int = 300.0


def check_live(options: LiveOptions) -> LiveOptions:
    """Refuse numbers that make no sense.

    Returns:
        The same options.

    Raises:
        ConfigError: a rate, a number of frames or a time that is not above 0.
    """
    MomentGrid(options.fps)
    if options.capacity < 1:
        raise ConfigError(
            want="room for at least 1 frame", got=options.capacity, do="let some frames wait"
        )
    if options.silence <= 0 or options.patience < 0:
        raise ConfigError(
            want="silence above 0 s and patience of 0 s or more",
            got=f"{options.silence} and {options.patience}",
            do="give seconds",
        )
    return options


@final
class LiveVideo:
    """A video that plays. Use it in a `with` block; `take` frames until `ended`.

    Args:
        place: where it comes from.
        options: how to look at it.
        fit: rows and columns to deliver, from rows and columns as shown; the same if not given.

    Law: of a file that waits, the frames are those of `iterate_clips` at `k / fps`.
    """

    def __init__(
        self,
        place: Place,
        options: LiveOptions | None = None,
        *,
        fit: Callable[[Size], Size] | None = None,
    ) -> None:
        self.place, self.options = place, check_live(options or LiveOptions())
        self._fit = fit or _same
        self._stop = threading.Event()
        self._opened = threading.Event()
        self._news: deque[str] = deque()
        self._queue: FrameQueue | None = None
        self._info: LiveInfo | None = None
        self._failure: BaseException | None = None
        self._newest = 0.0
        self._thread = threading.Thread(target=self._work, name="timeviper-live", daemon=True)

    def __enter__(self) -> LiveVideo:
        """Begin to read."""
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Stop reading."""
        self.close()

    def open(self, cancelled: Callable[[], bool] = lambda: False) -> LiveInfo | None:
        """Wait for the first frame.

        Args:
            cancelled: asked often; True gives up.

        Returns:
            What the place turned out to be; None when given up.

        Raises:
            MediaError: it cannot be read as a video.
        """
        while not self._opened.wait(0.1):
            if cancelled():
                return None
        self._check()
        return self._info

    def take(self, most: int = 16, *, timeout: float | int = 1.0) -> list[LiveFrame]:
        """Frames that came, in order.

        Args:
            most: at most so many.
            timeout: seconds to wait for the first of them.

        Returns:
            Nothing when none came in time, or none will come (`ended`).

        Raises:
            MediaError: the video cannot be read at all.
        """
        if self._queue is None:
            self._opened.wait(timeout)
            self._check()
        return [] if self._queue is None else self._queue.take(most, timeout)

    @property
    def info(self) -> LiveInfo | None:
        """What the newest connection turned out to be; None before the first frame."""
        return self._info

    @property
    def ended(self) -> bool:
        """Every frame was taken and none will come.

        Raises:
            MediaError: the video cannot be read at all.
        """
        over = self._opened.is_set() if self._queue is None else self._queue.ended
        if over:
            self._check()
        return over

    @property
    def dropped(self) -> int:
        """Sampled frames for which there was no room."""
        return 0 if self._queue is None else self._queue.dropped

    @property
    def waiting(self) -> int:
        """Frames that wait to be taken."""
        return 0 if self._queue is None else self._queue.waiting

    @property
    def newest_seconds(self) -> float:
        """Time of the newest frame that arrived, taken or not."""
        return self._newest

    def news(self) -> list[str]:
        """Sentences for the user since the last call: gaps, stamps that lie, an early end."""
        return [self._news.popleft() for _ in range(len(self._news))]

    def stop(self) -> None:
        """Read no further; what waits can still be taken. May be called from anywhere."""
        self._stop.set()

    def close(self) -> None:
        """Stop and release the camera; returns at once, or when its silence was long enough."""
        self._stop.set()
        if self._queue is not None:
            self._queue.finish()
        if self._thread.is_alive():
            self._thread.join(self.options.silence + 1)

    def _check(self) -> None:
        if self._failure is not None:
            raise self._failure

    def _work(self) -> None:
        try:
            self._play()
        # Whatever it is, the consumer raises it again.
        except BaseException as failure:
            self._failure = failure
        finally:
            if self._queue is not None:
                self._queue.finish()
            self._opened.set()

    def _play(self) -> None:
        """Play, and while a camera is away call it again, with longer and longer pauses."""
        grid = MomentGrid(self.options.fps)
        last, lost, pause = 0.0, None, _FIRST_PAUSE_SECONDS
        while not self._stop.is_set():
            link = self._connect(again=lost is not None)
            if link is not None:
                frames, last = self._pump(link, grid, last, lost)
                if not link.real_time:
                    return check_seen(frames, self.place.name)
                if frames:
                    lost, pause = time.monotonic(), _FIRST_PAUSE_SECONDS
            if lost is None:
                return None if self._stop.is_set() else check_seen(0, self.place.name)
            if time.monotonic() - lost > self.options.patience:
                self._news.append(f"{self.place.name} left at {last:.1f} s and did not come back")
                return None
            self._stop.wait(pause)
            pause = min(2 * pause, _LONGEST_PAUSE_SECONDS)
        return None

    def _connect(self, *, again: bool) -> Connection | None:
        try:
            return connect(self.place, self._stop.is_set, silence=self.options.silence)
        except MediaError:
            if again or self._stop.is_set():
                return None
            raise

    def _pump(
        self, link: Connection, grid: MomentGrid, last: float, lost: float | None
    ) -> tuple[int, float]:
        """Play one connection; tell how many frames it showed and when the last one was."""
        start = last + (0.0 if lost is None else time.monotonic() - lost)
        with closing(link):
            player = Player(link, grid, fit=self._fit, start=start)
            for event in player.play(lambda: not self._stop.is_set()):
                if isinstance(event, str):
                    self._news.append(event)
                elif isinstance(event, LiveFrame):
                    if not self._put(event):
                        break
                else:
                    self._begin(event, None if lost is None else (last, start))
                self._newest = player.now
        return player.frames, player.now if player.frames else last

    def _put(self, frame: LiveFrame) -> bool:
        return self._queue is not None and self._queue.put(frame)

    def _begin(self, info: LiveInfo, gap: tuple[float, float] | None) -> None:
        """A connection shows its first frame."""
        self._info = info
        if gap is not None:
            self._news.append(
                f"{self.place.name} was away from {gap[0]:.1f} s to {gap[1]:.1f} s: "
                "nothing in between was seen"
            )
        if self._queue is None:
            usual = WhenFull.DROP_OLDEST if info.real_time else WhenFull.WAIT
            self._queue = FrameQueue(self.options.capacity, self.options.when_full or usual)
            if self._stop.is_set():
                self._queue.finish()
        self._opened.set()


def _same(size: Size) -> Size:
    return size
