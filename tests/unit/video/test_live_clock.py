"""Times of live frames: honest stamps are used, and no lie is believed for long."""

from __future__ import annotations

import math
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeviper.video.live_clock import FORGIVEN_AFTER, Pace, StreamClock

LIVE, RECORDED = Pace(real_time=True), Pace(real_time=False, rate=10.0)


def _times(clock: StreamClock, stamps, walls) -> list[float]:
    return [clock.time_of(stamp, wall) for stamp, wall in zip(stamps, walls, strict=True)]


def test_honest_stamps_are_the_times_however_late_frames_arrive():
    stamps = [7.0 + n / 20 for n in range(400)]
    # A reader that is held up sees frames in bursts.
    walls = [math.floor(n / 20) + 1.0 for n in range(400)]
    clock = StreamClock(LIVE, start=3.0)
    assert _times(clock, stamps, walls) == pytest.approx([3.0 + n / 20 for n in range(400)])
    assert clock.distrust is None


def test_a_pause_of_the_camera_is_a_pause():
    clock = StreamClock(LIVE)
    assert _times(clock, [0.0, 0.1, 30.1], [50.0, 50.1, 80.1]) == pytest.approx([0, 0.1, 30.1])
    assert clock.distrust is None


def test_one_jump_costs_nothing_but_itself():
    clock = StreamClock(LIVE)
    stamps = [0.0, 0.1, 95_443.7, 95_443.8, 0.5, 0.6]
    times = _times(clock, stamps, [n / 10 for n in range(6)])
    assert times == pytest.approx([0, 0.1, 0.2, 0.3, 0.4, 0.5])
    assert clock.distrust is None


LIES = {
    "stand still": (lambda n: 5.0, "stand still"),
    "go back": (lambda n: -n / 20, "go back"),
    "jump": (lambda n: 10.0 * n, "jump"),
    "ten times too slow": (lambda n: n / 200, "do not go as time does"),
    "thirty times too fast": (lambda n: n * 1.5, "do not go as time does"),
    "none": (lambda n: None, "without times"),
}


@pytest.mark.parametrize("lie", LIES)
def test_a_camera_that_lies_is_timed_by_the_wall(lie):
    stamp, says = LIES[lie]
    clock = StreamClock(LIVE)
    times = _times(clock, [stamp(n) for n in range(400)], [n / 20 for n in range(400)])
    assert clock.distrust is not None
    assert says in clock.distrust
    assert "arrive" in clock.distrust
    # What was believed at first stays as told; from then on a second is a second.
    assert times[-1] - times[-101] == pytest.approx(5.0)
    assert clock.now == times[-1]


@pytest.mark.parametrize("lie", ["stand still", "go back", "none"])
def test_a_recording_that_lies_is_timed_by_the_rate_it_claims(lie):
    stamp, says = LIES[lie]
    clock = StreamClock(RECORDED)
    # Read in no time at all: the wall knows nothing.
    times = _times(clock, [stamp(n) for n in range(50)], [n / 1e5 for n in range(50)])
    assert times == pytest.approx([n / 10 for n in range(50)])
    assert says in (clock.distrust or "")
    assert "10 a second" in (clock.distrust or "")


def test_a_recording_may_be_read_as_fast_as_it_can():
    clock = StreamClock(RECORDED)
    stamps = [4.0 * n for n in range(500)]
    assert _times(clock, stamps, [n / 50 for n in range(500)]) == pytest.approx(stamps)
    assert clock.distrust is None


def test_a_server_that_hands_out_what_it_stored_is_no_liar():
    stamps = [n / 25 for n in range(2000)]
    # Forty seconds in half a second, then as time goes by.
    walls = [min(n, 1000) / 2000 + max(n - 1000, 0) / 25 for n in range(2000)]
    clock = StreamClock(LIVE)
    assert _times(clock, stamps, walls) == pytest.approx(stamps)
    assert clock.distrust is None


def test_faults_far_apart_are_forgiven():
    stamps = [n / 10 for n in range(10 * FORGIVEN_AFTER)]
    for start in range(50, len(stamps), 2 * FORGIVEN_AFTER):
        # A server that begins again at another time: every stamp from here on is another.
        stamps[start:] = [stamp - 77.7 for stamp in stamps[start:]]
    clock = StreamClock(LIVE)
    times = _times(clock, stamps, [n / 10 for n in range(len(stamps))])
    assert clock.distrust is None
    assert times == pytest.approx([n / 10 for n in range(len(stamps))])


@given(
    stamps=st.lists(st.none() | st.floats(-1e9, 1e9), min_size=2, max_size=60),
    steps=st.data(),
    real_time=st.booleans(),
)
def test_law_times_ascend_whatever_the_stamps_are(stamps, steps, real_time):
    walls = steps.draw(
        st.lists(st.floats(0, 100), min_size=len(stamps), max_size=len(stamps)).map(sorted)
    )
    times = _times(StreamClock(Pace(real_time=real_time, rate=25.0)), stamps, walls)
    assert times[0] == 0.0
    assert all(late > early for early, late in pairwise(times))
    assert all(math.isfinite(t) for t in times)
