"""Clips: the frame on screen at each moment, in bounded pieces."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

from tests.unit.video.files import picture
from timeviper.core.errors import ConfigError, MediaError
from timeviper.video import clips as clips_module
from timeviper.video.base import Pixels
from timeviper.video.clips import Clip, available_cores, cut_jobs, iterate_clips, shown_frames
from timeviper.video.decoding import FileReader
from timeviper.video.source import open_video
from timeviper.video.still_sources import ArraySource

Videos = Callable[[str], Path]


def numbered(count: int) -> ArraySource:
    frames = np.stack([np.full((2, 2, 3), number, np.uint8) for number in range(count)])
    return ArraySource(frames, np.arange(count, dtype=float))


def numbers(clips: list[Clip]) -> list[int]:
    return [int(frame[0, 0, 0]) for clip in clips for frame in clip.frames]


def test_the_frame_on_screen_is_the_last_one_shown_before() -> None:
    moments = np.array([-1.0, 0.0, 0.4, 0.5, 0.9, 7.0])
    assert shown_frames(np.array([0.0, 0.5, 2.0]), moments).tolist() == [0, 0, 0, 1, 1, 2]


def test_rounding_of_a_moment_does_not_miss_its_frame() -> None:
    times = np.arange(1000) / 24
    moments = np.array([7.0 + k / 24 for k in range(800)])
    assert shown_frames(times, moments).tolist() == list(range(168, 968))


def test_clips_carry_frames_times_and_what_was_asked() -> None:
    got = list(iterate_clips(numbered(4), [0.2, 0.9, 1.0, 3.7, 3.8], clip_frames=2))
    assert [len(clip.frames) for clip in got] == [2, 2, 1]
    assert numbers(got) == [0, 0, 1, 3, 3]
    assert [clip.times.tolist() for clip in got] == [[0, 0], [1, 3], [3]]
    assert [clip.asked.tolist() for clip in got] == [[0.2, 0.9], [1.0, 3.7], [3.8]]
    assert all(clip.notes == () for clip in got)


def test_no_moments_no_clips() -> None:
    assert list(iterate_clips(numbered(3), [])) == []


def test_the_native_size_is_the_one_shown(video: Videos) -> None:
    (clip,) = iterate_clips(open_video(video("odd.mp4")), [0.0])
    assert clip.frames.shape == (1, 17, 33, 3)


def test_frames_may_be_kept() -> None:
    frames = np.stack([picture(number, (8, 8)) for number in range(3)])
    source = ArraySource(frames.copy(), [0.0, 1.0, 2.0])
    got = list(iterate_clips(source, [0.0, 1.0, 2.0], clip_frames=1))
    got[0].frames[:] = 0
    np.testing.assert_array_equal(got[1].frames[0], frames[1])
    np.testing.assert_array_equal(next(iterate_clips(source, [0.0])).frames[0], frames[0])


@pytest.mark.parametrize(
    ("times", "options"),
    [
        ([1.0, 0.0], {}),
        ([0.0, float("nan")], {}),
        ([[0.0]], {}),
        ([0.0], {"size": (0, 4)}),
        ([0.0], {"size": (100_000, 100_000)}),
        ([0.0], {"clip_frames": 0}),
        ([0.0], {"workers": 0}),
    ],
)
def test_unusable_requests_are_refused_at_once(times: list, options: dict) -> None:
    with pytest.raises(ConfigError):
        iterate_clips(numbered(2), times, **options)


def test_jobs_follow_the_entries() -> None:
    wanted = np.array([0, 3, 9, 10, 25, 26, 27, 40])
    entries = np.array([0, 10, 20, 30, 40])
    cut = [job.tolist() for job in cut_jobs(wanted, entries, workers=1)]
    assert cut == [[0, 3, 9], [10, 25, 26, 27], [40]] or cut == [
        [0, 3, 9],
        [10],
        [25, 26, 27],
        [40],
    ]
    # Two cores get at least two pieces where there are two entries.
    assert len(cut_jobs(wanted, entries, workers=2)) >= 2


def test_small_jobs_are_joined_and_none_is_lost() -> None:
    wanted = np.arange(10_000)
    jobs = cut_jobs(wanted, wanted, workers=2)
    assert np.concatenate(jobs).tolist() == wanted.tolist()
    assert {len(job) for job in jobs[:-1]} == {32}


def test_one_entry_is_one_job() -> None:
    assert len(cut_jobs(np.arange(500), np.array([0]), workers=4)) == 1


def test_closing_early_stops_the_threads(video: Videos) -> None:
    before = threading.active_count()
    source = open_video(video("h264.mp4"))
    walk = iterate_clips(source, np.linspace(0, 2, 500), clip_frames=1, size=(64, 64), workers=3)
    next(walk)
    began = time.monotonic()
    walk.close()
    assert time.monotonic() - began < 1
    assert threading.active_count() == before


def test_nothing_runs_before_the_first_clip_is_asked_for(video: Videos) -> None:
    before = threading.active_count()
    iterate_clips(open_video(video("h264.mp4")), [0.0, 1.0])
    assert threading.active_count() == before


def test_failures_of_workers_surface(video: Videos, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(self: FileReader, frame: object) -> Pixels:
        raise ZeroDivisionError("scaler")

    monkeypatch.setattr("timeviper.video.scaling.FrameScaler.convert", fail)
    with pytest.raises(ZeroDivisionError, match="scaler"):
        list(iterate_clips(open_video(video("h264.mp4")), [0.0, 1.0]))


class Holes:
    """A reader's `read` that cannot decode some frames."""

    def __init__(self, missing: set[int]) -> None:
        self.missing = missing
        self.whole = clips_module.run_in_order

    def __call__(self, *jobs: object, **options: object) -> Iterator[tuple[int, Pixels]]:
        for number, pixels in self.whole(*jobs, **options):
            if number not in self.missing:
                yield number, pixels


def test_a_frame_that_cannot_be_decoded_is_replaced_and_reported(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(clips_module, "run_in_order", Holes({0, 3, 4, 9}))
    (clip,) = iterate_clips(numbered(10), np.arange(10, dtype=float))
    assert numbers([clip]) == [1, 1, 2, 2, 2, 5, 6, 7, 8, 8]
    # The times are those of the frames really shown.
    assert clip.times.tolist() == [1, 1, 2, 2, 2, 5, 6, 7, 8, 8]
    assert clip.notes == (
        "4 of 10 frames between 0.000 s and 9.000 s could not be decoded; the frame before was "
        "taken",
    )


def test_nothing_decodable_is_an_error(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clips_module, "run_in_order", Holes({0, 1, 2}))
    with pytest.raises(MediaError, match="not one of 3 frames"):
        list(iterate_clips(numbered(3), [0.0, 1.0, 2.0]))


def test_cores_are_at_least_one() -> None:
    assert 1 <= available_cores() <= 16
