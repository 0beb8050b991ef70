"""A live video end to end: real files, pipes and a real server that goes away and returns."""

from __future__ import annotations

import os
import threading
import time
from pathlib import Path

import numpy as np
import pytest

from tests.live_server import FPS, camera, film
from tests.toy_engine import noise, write_video
from tests.unit.video.files import sound_only
from timeviper.core.errors import ConfigError, MediaError
from timeviper.video.clips import iterate_clips
from timeviper.video.live import LiveOptions, LiveVideo, check_live
from timeviper.video.live_place import find_place
from timeviper.video.live_player import MomentGrid
from timeviper.video.live_queue import LiveFrame, WhenFull
from timeviper.video.sampling import SamplingPolicy, sample_times
from timeviper.video.source import open_video


def _all(live: LiveVideo) -> list[LiveFrame]:
    frames: list[LiveFrame] = []
    while not live.ended:
        frames += live.take()
    return frames


def _until(live: LiveVideo, done, *, within: float = 20.0) -> tuple[list[LiveFrame], list[str]]:
    """Frames and news until `done` says so."""
    frames: list[LiveFrame] = []
    news: list[str] = []
    ends = time.monotonic() + within
    while not done(frames, news):
        assert time.monotonic() < ends, (len(frames), news)
        frames += live.take(timeout=0.05)
        news += live.news()
    return frames, news


@pytest.mark.parametrize("fps", [0.7, 1, 3, 25])
def test_law_a_file_that_plays_shows_what_a_file_shows(fps: float, tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4", noise(47, side=32), fps=10)
    source = open_video(path)
    moments = sample_times(source.info.duration_seconds, SamplingPolicy(fps=fps)).times
    want = np.concatenate([clip.frames for clip in iterate_clips(source, moments, size=(16, 20))])
    with LiveVideo(
        find_place(str(path)), LiveOptions(fps=fps, capacity=3), fit=lambda sides: (16, 20)
    ) as live:
        got = _all(live)
        assert live.info is not None
        assert not live.info.real_time
    assert [frame.seconds for frame in got] == moments.tolist()
    assert all(
        np.array_equal(frame.pixels, pixels) for frame, pixels in zip(got, want, strict=True)
    )
    assert (live.dropped, live.news()) == (0, [])


def test_a_pipe_is_read_to_its_end(tmp_path: Path) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    data = b"".join(film(lambda n: n / FPS, frames=50))
    with LiveVideo(find_place(str(pipe)), LiveOptions(fps=4, capacity=2)) as live:
        threading.Thread(target=pipe.write_bytes, args=(data,), daemon=True).start()
        info = live.open()
        got = _all(live)
    assert info is not None
    assert (info.width, info.height, info.codec) == (48, 48, "h264")
    assert [frame.seconds for frame in got] == [n / 4 for n in range(10)]
    assert got[0].pixels.shape == (48, 48, 3)


def test_a_camera_that_goes_and_returns_loses_only_the_gap() -> None:
    with camera() as one, LiveVideo(find_place(one.address), LiveOptions(fps=10)) as live:
        _until(live, lambda frames, _: len(frames) >= 5)
        one.go()
        time.sleep(0.3)
        one.come()
        after, news = _until(live, lambda frames, news: bool(news) and len(frames) >= 5)
        info = live.info
    assert info is not None
    assert info.real_time
    (words,) = news
    assert "was away from" in words
    times = [frame.seconds for frame in after]
    assert times == sorted(set(times))
    gaps = np.diff(times)
    assert gaps.max() >= 0.3
    # On the grid of ten a second before and after.
    assert np.allclose(np.round(np.array(times) * 10), np.array(times) * 10)


def test_a_camera_that_stays_away_is_told() -> None:
    options = LiveOptions(fps=10, patience=0.4)
    with camera() as one, LiveVideo(find_place(one.address), options) as live:
        _until(live, lambda frames, _: len(frames) >= 3)
        one.go()
        _, news = _until(live, lambda _, news: live.ended)
    assert any("did not come back" in words for words in news)


def test_a_camera_that_falls_silent_is_called_again() -> None:
    options = LiveOptions(fps=10, silence=0.5)
    with camera() as one, LiveVideo(find_place(one.address), options) as live:
        _until(live, lambda frames, _: len(frames) >= 3)
        one.silent.set()
        time.sleep(0.8)
        one.silent.clear()
        _, news = _until(live, lambda frames, news: bool(news))
    assert any("was away" in words for words in news)


def test_a_stream_that_lies_about_its_rate_is_timed_by_the_wall() -> None:
    with camera(stamp=lambda n: 30.0 * n) as one:
        began = time.monotonic()
        with LiveVideo(find_place(one.address), LiveOptions(fps=10)) as live:
            frames, news = _until(live, lambda frames, news: news and len(frames) >= 8)
            passed = time.monotonic() - began
    assert any("times that jump" in words for words in news)
    assert frames[-1].seconds <= passed + 0.2


def test_a_model_that_is_too_slow_loses_counted_frames() -> None:
    options = LiveOptions(fps=20, capacity=2)
    with camera() as one, LiveVideo(find_place(one.address), options) as live:
        live.open()
        ends = time.monotonic() + 10
        while live.dropped < 5:
            assert time.monotonic() < ends
            time.sleep(0.05)
        assert live.waiting == 2
        first, *_ = live.take()
        # The oldest went: what is there is fresh.
        assert first.seconds >= 5 / 20
        assert live.newest_seconds >= first.seconds


def test_the_policy_can_be_chosen(tmp_path: Path) -> None:
    path = write_video(tmp_path / "film.mp4", noise(30, side=32), fps=10)
    options = LiveOptions(fps=10, capacity=4, when_full=WhenFull.DROP_NEWEST)
    with LiveVideo(find_place(str(path)), options) as live:
        live.open()
        while live.dropped < 26:
            time.sleep(0.01)
        assert [frame.seconds for frame in _all(live)] == [0.0, 0.1, 0.2, 0.3]


def test_stopping_is_quick_and_leaves_no_thread() -> None:
    before = threading.active_count()
    with camera() as one:
        live = LiveVideo(find_place(one.address), LiveOptions(silence=1.0))
        with live:
            live.open()
            live.stop()
            began = time.monotonic()
        assert time.monotonic() - began < 1.0
        # Silent, so that the reader hangs in a read: it ends when the silence was long enough.
        with LiveVideo(find_place(one.address), LiveOptions(silence=0.6)) as live:
            live.open()
            one.silent.set()
            time.sleep(0.1)
            began = time.monotonic()
        assert time.monotonic() - began < 2.0
        assert not any(t.name == "timeviper-live" for t in threading.enumerate())
    assert threading.active_count() <= before + 4, "threads of the server end by themselves"


def test_giving_up_before_the_first_frame(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    calls = iter([False, False, True])
    with LiveVideo(find_place(str(tmp_path / "pipe"))) as live:
        assert live.take(timeout=0.01) == []
        assert not live.ended
        assert live.open(lambda: next(calls)) is None
    assert live.ended


def test_what_is_no_video_is_told_where_it_is_opened(tmp_path: Path) -> None:
    sound = sound_only(tmp_path / "sound.m4a")
    with LiveVideo(find_place(str(sound))) as live, pytest.raises(MediaError, match="video"):
        live.open()
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    with LiveVideo(find_place(str(pipe))) as live:
        threading.Thread(target=pipe.write_bytes, args=(b"junk" * 999,), daemon=True).start()
        with pytest.raises(MediaError):
            _all(live)


@pytest.mark.parametrize(
    "options",
    [{"fps": 0.0}, {"fps": float("nan")}, {"capacity": 0}, {"silence": 0.0}, {"patience": -1.0}],
)
def test_options_without_sense_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ConfigError):
        check_live(LiveOptions(**options))


def test_the_grid_gives_each_moment_once() -> None:
    grid = MomentGrid(2.0)
    assert list(grid.before(1.0)) == [0.0, 0.5]
    assert list(grid.before(1.0)) == []
    assert list(grid.before(1.2)) == [1.0]
    grid.skip_to(5.1)
    grid.skip_to(2.0)
    assert list(grid.before(6.0)) == [5.5]
