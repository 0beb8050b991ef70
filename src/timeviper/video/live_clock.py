"""When the frames of a live stream were seen: by its own stamps while they can be believed."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

# So often may stamps jump or stand still before they are no longer believed, unless so many good
# ones lie between.
MOST_FAULTS, FORGIVEN_AFTER = 3, 100
# A stamp this much further on than the clock on the wall is a jump, not a pause of the camera;
# where there is no such clock, one that is this much further on.
_JUMP_SECONDS, _LONGEST_JUMP_SECONDS = 5.0, 3600.0
# A stream that delivers as time goes by is judged over this much time and these many frames.
_JUDGED_SECONDS, _JUDGED_FRAMES = 5.0, 8
# It lies when its clock runs this many times slower; or faster, with frames this far apart (a
# server that first hands out what it had stored is faster too, but its frames lie close).
_LYING_FACTOR, _FAR_APART_SECONDS = 4.0, 1.0
# Frames never share a moment.
_TICK_SECONDS = 1e-6


@dataclass(frozen=True, kw_only=True)
class Pace:
    """How frames reach us.

    Args:
        real_time: as they are taken, so that the clock on the wall can replace their stamps.
        rate: frames a second that the stream claims, or None; replaces stamps where frames come
            as fast as we read.
    """

    real_time: bool
    rate: float | None = None


@final
class StreamClock:
    """Times of the frames of one connection.

    Args:
        pace: how frames reach us.
        start: seconds at which the first frame was seen.

    Law: times ascend, whatever the stamps are.
    """

    def __init__(self, pace: Pace, *, start: float = 0.0) -> None:
        self._pace = pace
        self._now = start
        self._stamp: float | None = None
        self._wall: float | None = None
        self._faults = self._good = 0
        self._distrust: str | None = None
        # Since when stamps and wall are compared: stamp, wall, frames.
        self._since: tuple[float, float, int] | None = None

    @property
    def distrust(self) -> str | None:
        """Why the stream's own stamps are no longer used, as a sentence for the user; or None."""
        return self._distrust

    @property
    def now(self) -> float:
        """Time of the newest frame."""
        return self._now

    def time_of(self, stamp: float | None, wall: float) -> float:
        """Seconds at which the next frame was seen.

        Args:
            stamp: the frame's own presentation time in seconds, or None where it has none.
            wall: seconds of a clock that never goes back, at its arrival.

        Returns:
            Seconds on the clock of the whole live video.
        """
        first = self._wall is None
        step = 0.0 if self._wall is None else max(wall - self._wall, 0.0)
        self._wall = wall
        by_stamp = self._by_stamp(stamp, wall, step) if self._distrust is None else None
        if not first:
            self._now += max(self._stride(step) if by_stamp is None else by_stamp, _TICK_SECONDS)
        return self._now

    def _stride(self, step: float) -> float:
        """Seconds since the frame before, without its stamp."""
        if self._pace.real_time or not self._pace.rate:
            return step
        return 1 / self._pace.rate

    def _by_stamp(self, stamp: float | None, wall: float, step: float) -> float | None:
        """Seconds since the frame before by its stamp; None when that makes no sense."""
        if stamp is None:
            self._blame("frames without times")
            return None
        before, self._stamp = self._stamp, stamp
        if before is None:
            self._since = (stamp, wall, 1)
            return 0.0
        ahead = stamp - before
        if ahead <= 0:
            return self._fault("times that stand still or go back", stamp, wall)
        if ahead > (step + _JUMP_SECONDS if self._pace.real_time else _LONGEST_JUMP_SECONDS):
            return self._fault("times that jump", stamp, wall)
        if self._lies(stamp, wall):
            self._blame("times that do not go as time does")
            return None
        self._good += 1
        if self._good >= FORGIVEN_AFTER:
            self._faults = 0
        return ahead

    def _fault(self, what: str, stamp: float, wall: float) -> None:
        self._faults, self._good = self._faults + 1, 0
        self._since = (stamp, wall, 1)
        if self._faults >= MOST_FAULTS:
            self._blame(what)

    def _lies(self, stamp: float, wall: float) -> bool:
        if not self._pace.real_time or self._since is None:
            return False
        first_stamp, first_wall, frames = self._since
        self._since = (first_stamp, first_wall, frames + 1)
        claimed, passed = stamp - first_stamp, wall - first_wall
        if passed < _JUDGED_SECONDS or frames < _JUDGED_FRAMES:
            return False
        # What lies longer ago has been judged already.
        self._since = (stamp, wall, 1)
        if claimed * _LYING_FACTOR < passed:
            return True
        return claimed > passed * _LYING_FACTOR and claimed / frames > _FAR_APART_SECONDS

    def _blame(self, what: str) -> None:
        by_wall = self._pace.real_time or not self._pace.rate
        instead = "the time at which they arrive" if by_wall else f"{self._pace.rate:g} a second"
        self._distrust = f"the stream gives {what}: its frames are timed by {instead}"
