"""Moments: exact, complete, and honest about caps."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeviper.core.config import from_dict, to_dict
from timeviper.core.errors import ConfigError, MediaError, RequestError
from timeviper.video.sampling import SamplingPolicy, sample_times


def times(duration: float, **options: object) -> list[float]:
    return sample_times(duration, SamplingPolicy(**options)).times.tolist()


def test_one_frame_a_second_unless_told_otherwise() -> None:
    assert times(3.5) == [0.0, 1.0, 2.0, 3.0]


def test_the_end_is_exclusive() -> None:
    assert times(3.0) == [0.0, 1.0, 2.0]


def test_a_video_shorter_than_a_step_gives_its_first_frame() -> None:
    assert times(0.04) == [0.0]


def test_times_do_not_drift() -> None:
    got = sample_times(36_000.0, SamplingPolicy(fps=30)).times
    assert len(got) == 1_080_000
    assert got[-1] == 1_079_999 / 30


def test_rounding_of_the_duration_gains_no_frame() -> None:
    # 3.3 * 10 is 33 in floats only by luck; 0.1 + 0.2 is above 0.3.
    assert len(times(3.3, fps=10)) == 33
    assert len(times(0.1 + 0.2, fps=10)) == 3


def test_start_and_end() -> None:
    assert times(60.0, fps=2, start=10, end=12) == [10.0, 10.5, 11.0, 11.5]


def test_a_number_of_frames_spreads_evenly_from_the_start() -> None:
    assert times(8.0, num_frames=4) == [0.0, 2.0, 4.0, 6.0]
    assert times(8.0, num_frames=2, start=4) == [4.0, 6.0]


def test_a_cap_that_bites_spreads_over_everything_and_says_so() -> None:
    got = sample_times(3600.0, SamplingPolicy(fps=1, max_frames=256))
    assert len(got.times) == 256
    assert got.times[-1] == 255 * 3600 / 256
    assert got.notes == ("asked 3600 frames at 1 fps, used 256 (max_frames): one every 14.1 s",)


def test_a_cap_on_a_number_of_frames_says_so() -> None:
    got = sample_times(10.0, SamplingPolicy(num_frames=100, max_frames=40))
    assert got.notes == ("asked 100 frames, used 40 (max_frames): one every 0.25 s",)


def test_a_cap_that_does_not_bite_is_silent_and_changes_nothing() -> None:
    assert sample_times(10.0, SamplingPolicy(max_frames=10)).notes == ()
    assert times(10.0, max_frames=10) == times(10.0)


def test_an_end_behind_the_video_is_said() -> None:
    got = sample_times(2.0, SamplingPolicy(end=5))
    assert got.times.tolist() == [0.0, 1.0]
    assert got.notes == ("asked up to 5 s, the video ends at 2.000 s",)


@pytest.mark.parametrize(
    "options",
    [
        {"fps": 0},
        {"fps": -1.0},
        {"fps": float("nan")},
        {"fps": float("inf")},
        {"fps": 1.0, "num_frames": 4},
        {"num_frames": 0},
        {"max_frames": 0},
        {"start": -1.0},
        {"start": float("nan")},
        {"end": 0.0},
        {"start": 5.0, "end": 5.0},
        {"start": 5.0, "end": 4.0},
    ],
)
def test_unusable_policies_are_refused_when_made(options: dict) -> None:
    with pytest.raises(ConfigError) as caught:
        SamplingPolicy(**options)
    assert all(str(value) in str(caught.value) for value in options.values() if value)


def test_a_start_behind_the_video_is_refused() -> None:
    with pytest.raises(RequestError, match="start=60"):
        sample_times(60.0, SamplingPolicy(start=60))


@pytest.mark.parametrize("duration", [0.0, -1.0, float("nan"), float("inf")])
def test_a_duration_that_is_none_is_refused(duration: float) -> None:
    with pytest.raises(MediaError):
        sample_times(duration, SamplingPolicy())


def test_absurd_numbers_are_refused_before_anything_is_allocated() -> None:
    with pytest.raises(RequestError, match="10,000,000"):
        sample_times(1e9, SamplingPolicy(fps=1e6))
    assert len(times(1e9, fps=1e6, max_frames=8)) == 8


def test_a_policy_survives_json() -> None:
    policy = SamplingPolicy(num_frames=8, start=1.5)
    assert from_dict(SamplingPolicy, to_dict(policy)) == policy


@given(
    duration=st.floats(0.01, 10_000),
    count=st.integers(1, 300),
    begin=st.floats(0, 0.9),
)
def test_law_a_number_of_frames_is_a_rate(duration: float, count: int, begin: float) -> None:
    start = duration * begin
    by_number = sample_times(duration, SamplingPolicy(num_frames=count, start=start)).times
    by_rate = sample_times(
        duration, SamplingPolicy(fps=count / (duration - start), start=start)
    ).times
    np.testing.assert_allclose(by_number, by_rate, rtol=1e-9)


@given(
    duration=st.floats(0.01, 10_000),
    fps=st.floats(0.01, 60),
    most=st.none() | st.integers(1, 100),
)
def test_law_moments_ascend_and_lie_within_the_video(
    duration: float, fps: float, most: int | None
) -> None:
    got = sample_times(duration, SamplingPolicy(fps=fps, max_frames=most))
    assert got.times[0] == 0
    assert (np.diff(got.times) > 0).all()
    assert got.times[-1] < duration
    assert len(got.times) <= (most or np.inf)
    # Nothing is left out at the end: one more step would leave the video.
    step = duration / len(got.times) if got.notes else 1 / fps
    assert got.times[-1] + step >= duration * (1 - 1e-9)
