"""Laws of decoding: whatever the way through a file, the frames are those of a full decode."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.unit.video.conftest import video  # noqa: F401 - a fixture
from tests.unit.video.files import RECIPES, SMALL
from timeviper.video.clips import iterate_clips
from timeviper.video.reference import decode_all
from timeviper.video.sampling import SamplingPolicy, sample_times
from timeviper.video.source import open_video

Videos = Callable[[str], Path]


def oracle_indices(times: np.ndarray, moments: np.ndarray) -> list[int]:
    """The frame on screen at each moment, found by looking at every frame."""
    return [max((i for i, t in enumerate(times) if t <= m + 1e-6), default=0) for m in moments]


def decoded(path: Path, moments: np.ndarray, **options: int) -> tuple[np.ndarray, np.ndarray]:
    clips = list(iterate_clips(open_video(path), moments, size=SMALL, **options))
    assert not any(clip.notes for clip in clips)
    frames = np.concatenate([clip.frames for clip in clips])
    return frames, np.concatenate([clip.times for clip in clips])


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_law_sampled_frames_are_those_of_a_full_decode(video: Videos, name: str) -> None:  # noqa: F811
    path = video(name)
    want, want_times = decode_all(path, SMALL)
    assert open_video(path).frame_times.tolist() == want_times.tolist()

    @settings(max_examples=12)
    @given(
        moments=st.lists(st.floats(-0.2, want_times[-1] + 0.5), min_size=1, max_size=12),
        clip_frames=st.integers(1, 9),
        workers=st.integers(1, 3),
    )
    def check(moments: list[float], clip_frames: int, workers: int) -> None:
        asked = np.sort(np.array(moments))
        frames, times = decoded(path, asked, clip_frames=clip_frames, workers=workers)
        indices = oracle_indices(want_times, asked)
        assert times.tolist() == want_times[indices].tolist()
        np.testing.assert_array_equal(frames, want[indices])

    check()


@pytest.mark.parametrize("name", sorted(RECIPES))
def test_law_all_frames_in_any_number_of_workers(video: Videos, name: str) -> None:  # noqa: F811
    path = video(name)
    want, times = decode_all(path, SMALL)
    for workers in (1, 2, 4):
        frames, got_times = decoded(path, times, workers=workers, clip_frames=7)
        assert got_times.tolist() == times.tolist()
        np.testing.assert_array_equal(frames, want)


@settings(max_examples=25)
@given(
    fps=st.none() | st.floats(0.5, 60),
    count=st.none() | st.integers(1, 70),
    most=st.none() | st.integers(1, 40),
    start=st.floats(0, 1.5),
    length=st.none() | st.floats(0.01, 3),
)
def test_law_any_policy_gives_the_frames_on_screen(
    law_file: Path,
    fps: float | None,
    count: int | None,
    most: int | None,
    start: float,
    length: float | None,
) -> None:
    want, times = decode_all(law_file, SMALL)
    policy = SamplingPolicy(
        fps=fps if count is None else None,
        num_frames=count,
        max_frames=most,
        start=start,
        end=None if length is None else start + length,
    )
    duration = open_video(law_file).info.duration_seconds
    moments = sample_times(duration, policy).times
    frames, _ = decoded(law_file, moments)
    np.testing.assert_array_equal(frames, want[oracle_indices(times, moments)])


@pytest.fixture(scope="module")
def law_file(video: Videos) -> Path:  # noqa: F811
    return video("h264.mp4")
