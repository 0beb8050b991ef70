"""A bounded queue between a camera and a model that may be slower: what is dropped is counted."""

from __future__ import annotations

import threading
import time
from collections import deque
from dataclasses import dataclass
from enum import StrEnum
from typing import final

from timeviper.video.base import Pixels


class WhenFull(StrEnum):
    """What happens to a frame for which there is no room."""

    # The frame that waited longest goes: what the model sees stays fresh.
    DROP_OLDEST = "drop-oldest"
    # The new frame goes: what the model sees stays without gaps while it lasts.
    DROP_NEWEST = "drop-newest"
    # Whoever delivers it waits: for what can wait, as files and pipes can.
    WAIT = "wait"


@dataclass(frozen=True, eq=False)
class LiveFrame:
    """One frame and the moment at which it was on screen.

    Args:
        pixels: uint8 (row, column, channel) RGB.
        seconds: since the first frame.
    """

    pixels: Pixels
    seconds: float


@final
class FrameQueue:
    """Frames that wait for the model, at most so many.

    Args:
        capacity: most frames.
        when_full: what happens then.
    """

    def __init__(self, capacity: int, when_full: WhenFull) -> None:
        self._capacity, self._when_full = capacity, when_full
        self._changed = threading.Condition()
        self._frames: deque[LiveFrame] = deque()
        self._over = False
        self._dropped = 0

    @property
    def dropped(self) -> int:
        """Frames that found no room so far."""
        return self._dropped

    @property
    def waiting(self) -> int:
        """Frames in the queue."""
        return len(self._frames)

    def put(self, frame: LiveFrame) -> bool:
        """Bring a frame, which waits or drops one when the queue is full.

        Returns:
            False when nobody wants frames any more.
        """
        with self._changed:
            if self._when_full is WhenFull.WAIT:
                self._changed.wait_for(lambda: self._over or len(self._frames) < self._capacity)
            if self._over:
                return False
            if len(self._frames) < self._capacity:
                self._frames.append(frame)
            else:
                self._dropped += 1
                if self._when_full is WhenFull.DROP_OLDEST:
                    self._frames.popleft()
                    self._frames.append(frame)
            self._changed.notify_all()
            return True

    def take(self, most: int, timeout: float | int) -> list[LiveFrame]:
        """Frames in order.

        Args:
            most: at most so many.
            timeout: seconds to wait for the first of them.

        Returns:
            What is there; nothing when none came in time, or none will come.
        """
        ends = time.monotonic() + timeout
        with self._changed:
            # In short steps: a thread that waits long does not hear Ctrl-C on every platform.
            while not self._frames and not self._over and (left := ends - time.monotonic()) > 0:
                self._changed.wait(min(left, 0.2))
            taken = [self._frames.popleft() for _ in range(min(most, len(self._frames)))]
            self._changed.notify_all()
            return taken

    def finish(self) -> None:
        """No frame will come any more, or none is wanted; what waits can still be taken."""
        with self._changed:
            self._over = True
            self._changed.notify_all()

    @property
    def ended(self) -> bool:
        """No frame waits and none will come."""
        with self._changed:
            return self._over and not self._frames
