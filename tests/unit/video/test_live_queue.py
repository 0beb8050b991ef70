"""The queue between a camera and a model: bounded, counted, and nobody waits for ever."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from timeviper.video.live_queue import FrameQueue, LiveFrame, WhenFull

PIXELS = np.zeros((1, 1, 3), np.uint8)


def _fill(queue: FrameQueue, count: int) -> None:
    for number in range(count):
        assert queue.put(LiveFrame(PIXELS, float(number)))


def _seconds(frames: list[LiveFrame]) -> list[float]:
    return [frame.seconds for frame in frames]


@pytest.mark.parametrize(
    ("when_full", "left"),
    [(WhenFull.DROP_OLDEST, [4.0, 5.0, 6.0]), (WhenFull.DROP_NEWEST, [0.0, 1.0, 2.0])],
)
def test_a_full_queue_drops_and_counts(when_full: WhenFull, left: list[float]) -> None:
    queue = FrameQueue(3, when_full)
    _fill(queue, 7)
    assert (queue.waiting, queue.dropped) == (3, 4)
    assert _seconds(queue.take(10, 0)) == left
    assert queue.waiting == 0


def test_whoever_can_wait_waits_and_nothing_is_dropped() -> None:
    queue = FrameQueue(2, WhenFull.WAIT)
    thread = threading.Thread(target=_fill, args=(queue, 9))
    thread.start()
    taken: list[float] = []
    while len(taken) < 9:
        taken += _seconds(queue.take(1, 5))
        assert queue.waiting <= 2
    thread.join(5)
    assert taken == [float(n) for n in range(9)]
    assert queue.dropped == 0


def test_one_who_waits_is_let_go_at_the_end() -> None:
    queue = FrameQueue(1, WhenFull.WAIT)
    _fill(queue, 1)
    heard: list[bool] = []
    thread = threading.Thread(target=lambda: heard.append(queue.put(LiveFrame(PIXELS, 1.0))))
    thread.start()
    time.sleep(0.05)
    assert not queue.ended
    queue.finish()
    thread.join(5)
    assert heard == [False]
    assert not queue.ended, "what waits can still be taken"
    assert _seconds(queue.take(5, 0)) == [0.0]
    assert queue.ended
    assert not queue.put(LiveFrame(PIXELS, 2.0))


def test_taking_waits_for_the_first_frame_and_not_longer() -> None:
    queue = FrameQueue(4, WhenFull.DROP_OLDEST)
    began = time.monotonic()
    assert queue.take(4, 0.15) == []
    assert 0.1 < time.monotonic() - began < 2
    threading.Timer(0.1, _fill, args=(queue, 1)).start()
    assert _seconds(queue.take(4, 5)) == [0.0]
    threading.Timer(0.1, queue.finish).start()
    assert queue.take(4, 5) == []
    assert time.monotonic() - began < 3


def test_no_more_is_taken_than_wanted() -> None:
    queue = FrameQueue(8, WhenFull.DROP_OLDEST)
    _fill(queue, 5)
    assert _seconds(queue.take(2, 0)) == [0.0, 1.0]
    assert _seconds(queue.take(9, 0)) == [2.0, 3.0, 4.0]
