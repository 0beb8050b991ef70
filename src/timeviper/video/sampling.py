"""Choose which moments of a video to look at. Arithmetic on times; opens no file."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from timeviper.core.errors import ConfigError, MediaError, RequestError

DEFAULT_FPS = 1.0
# 46 days at 25 fps: beyond any honest request, and 80 MB of times.
MOST_TIMES = 10_000_000
# Counting k with k / fps < span must not gain a frame from the last bit of a float.
_COUNT_SLACK = 1e-9


@dataclass(frozen=True, kw_only=True)
class SamplingPolicy:
    """How many moments to take, and from which part of the video.

    Args:
        fps: moments per second; excludes `num_frames`. 1 when neither is given.
        num_frames: moments in all, evenly over the range; excludes `fps`.
        max_frames: ceiling; when it bites, the moments are spread evenly over the whole range.
        start: first second of the range; 0 when not given.
        end: second at which the range ends (exclusive); the video's duration when not given.

    Raises:
        ConfigError: a value that is not a usable number, or values that exclude each other.
    """

    fps: float | int | None = None
    num_frames: int | None = None
    max_frames: int | None = None
    start: float | int | None = None
    end: float | int | None = None

    def __post_init__(self) -> None:
        if self.fps is not None and self.num_frames is not None:
            raise ConfigError(
                want="either fps or num_frames",
                got=f"fps={self.fps} and num_frames={self.num_frames}",
                do="leave one of them out",
            )
        if self.fps is not None and not (math.isfinite(self.fps) and self.fps > 0):
            raise ConfigError(
                want="fps above 0", got=f"fps={self.fps}", do="give frames per second, such as 1"
            )
        for name, count in (("num_frames", self.num_frames), ("max_frames", self.max_frames)):
            _check_count(name, count)
        _check_range(self.start, self.end)


@dataclass(frozen=True)
class Sampling:
    """Chosen moments, and what has to be said about the choice.

    Args:
        times: float64 (moment,) ascending seconds from the first frame.
        notes: sentences for the user: caps that bit, ranges that were cut.
    """

    times: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def sample_times(duration: float | int, policy: SamplingPolicy) -> Sampling:
    """Choose the moments of a video that a policy asks for.

    Args:
        duration: seconds of video, above 0.
        policy: how many moments, and from which part.

    Returns:
        Ascending times: start + k / fps for every k that stays before the end, exactly and without
        drift; or start + k * range / count where a count or a cap decides.

    Raises:
        MediaError: a duration that is not a positive number.
        RequestError: a range that starts behind the end of the video, or too many moments.

    Law: `num_frames=n` equals `fps=n / range`.
    """
    if not (math.isfinite(duration) and duration > 0):
        raise MediaError(
            want="a video that lasts longer than 0 s",
            got=f"a duration of {duration} s",
            do="use a video with at least one frame that is shown for some time",
        )
    start, end, notes = _resolve_range(float(duration), policy)
    span = end - start
    asked, asked_words = _asked_count(span, policy)
    used = asked if policy.max_frames is None else min(asked, policy.max_frames)
    if used > MOST_TIMES:
        raise RequestError(
            want=f"at most {MOST_TIMES:,} frames",
            got=asked_words,
            do="lower fps or num_frames, set max_frames, or narrow start and end",
        )
    if used < asked:
        notes += (f"asked {asked_words}, used {used} (max_frames): {_pace(span / used)}",)
    steps = np.arange(used, dtype=np.float64)
    if used == asked and policy.num_frames is None:
        return Sampling(start + steps / _rate(policy), notes)
    return Sampling(start + steps * span / used, notes)


def _check_count(name: str, count: int | None) -> None:
    if count is not None and (not isinstance(count, int) or count < 1):
        raise ConfigError(
            want=f"{name} of at least 1", got=f"{name}={count}", do="give a whole number above 0"
        )


def _check_range(start: float | int | None, end: float | int | None) -> None:
    for name, second in (("start", start), ("end", end)):
        if second is not None and not (math.isfinite(second) and second >= 0):
            raise ConfigError(
                want=f"{name} in seconds from the start of the video, 0 or more",
                got=f"{name}={second}",
                do="give a number of seconds",
            )
    if end is not None and end <= (start or 0.0):
        raise ConfigError(
            want="end after start",
            got=f"start={start or 0.0} and end={end}",
            do="give an end in seconds that lies after the start",
        )


def _resolve_range(duration: float, policy: SamplingPolicy) -> tuple[float, float, tuple[str, ...]]:
    start = float(policy.start or 0.0)
    if start >= duration:
        raise RequestError(
            want=f"a start before the end of the video at {duration:.3f} s",
            got=f"start={start}",
            do="give an earlier start",
        )
    if policy.end is None or policy.end <= duration:
        return start, float(duration if policy.end is None else policy.end), ()
    return start, duration, (f"asked up to {policy.end:g} s, the video ends at {duration:.3f} s",)


def _rate(policy: SamplingPolicy) -> float:
    return DEFAULT_FPS if policy.fps is None else float(policy.fps)


def _asked_count(span: float, policy: SamplingPolicy) -> tuple[int, str]:
    if policy.num_frames is not None:
        return policy.num_frames, f"{policy.num_frames} frames"
    rate = _rate(policy)
    exact = span * rate
    count = max(1, math.ceil(exact - _COUNT_SLACK * max(1.0, exact)))
    return count, f"{count} frames at {rate:g} fps"


def _pace(gap: float) -> str:
    return f"one every {gap:.1f} s" if gap >= 1 else f"one every {gap:.3g} s"
