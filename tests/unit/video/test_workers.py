"""Threads that read ahead: in order, bounded, and gone when nobody listens."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from typing import final

import numpy as np
import pytest

from timeviper.video.base import FrameReader, Pixels
from timeviper.video.workers import (
    _Lanes,  # pyright: ignore[reportPrivateUsage]
    run_in_order,
)


class Tape:
    """Counts what its readers do."""

    def __init__(self, pause: float = 0.0, broken: int | None = None) -> None:
        self.pause, self.broken = pause, broken
        self.read: list[int] = []
        self.opened = self.closed = 0

    def open(self) -> FrameReader:
        self.opened += 1
        return TapeReader(self)


@final
class TapeReader(FrameReader):
    def __init__(self, tape: Tape) -> None:
        self.tape = tape

    def read(
        self, indices: np.ndarray, cancelled: Callable[[], bool]
    ) -> Iterator[tuple[int, Pixels]]:
        for index in indices.tolist():
            if cancelled():
                return
            time.sleep(self.tape.pause)
            if index == self.tape.broken:
                raise ZeroDivisionError(f"frame {index}")
            self.tape.read.append(index)
            yield index, np.full((1, 1, 3), index % 256, np.uint8)

    def close(self) -> None:
        self.tape.closed += 1


def jobs_of(count: int, length: int) -> list[np.ndarray]:
    return list(np.arange(count * length).reshape(count, length))


@pytest.mark.parametrize("workers", [1, 2, 5])
@pytest.mark.parametrize("capacity", [1, 3, 100])
def test_results_come_in_order(workers: int, capacity: int) -> None:
    tape = Tape()
    results = run_in_order(jobs_of(9, 7), tape.open, workers=workers, capacity=capacity)
    assert [index for index, _ in results] == list(range(63))
    assert (tape.opened, tape.closed) == (workers, workers)


def test_uneven_jobs_do_not_block_each_other() -> None:
    jobs = [np.arange(50), np.arange(50, 51), np.arange(51, 51), np.arange(51, 99)]
    results = run_in_order(jobs, Tape().open, workers=3, capacity=2)
    assert [index for index, _ in results] == list(range(99))


def test_no_jobs_no_results() -> None:
    assert list(run_in_order([], Tape().open, workers=0, capacity=1)) == []


def test_no_worker_waits_for_the_head() -> None:
    """All later jobs are read while nobody consumes, as long as there is room a worker."""
    tape = Tape()
    results = run_in_order(jobs_of(5, 10), tape.open, workers=5, capacity=10)
    next(results)
    deadline = time.monotonic() + 10.0
    while len(tape.read) < 50 and time.monotonic() < deadline:
        time.sleep(0.01)
    assert sorted(tape.read) == list(range(50))
    results.close()


def test_workers_that_wait_are_not_woken_for_every_frame(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who has no room is asked when the head changes, not when a frame comes or goes."""
    asked: list[int] = []
    has_room = _Lanes._has_room

    def counted(lanes: _Lanes, job: int) -> bool:
        asked.append(job)
        return has_room(lanes, job)

    monkeypatch.setattr(_Lanes, "_has_room", counted)
    results = run_in_order(jobs_of(16, 100), Tape().open, workers=8, capacity=10)
    assert [index for index, _ in results] == list(range(1600))
    # Once for each frame, and for each of eight that wait at each of sixteen heads; a lane that
    # was emptied wakes its own worker.
    assert len(asked) < 1600 + 16 * 8 + 1600


def test_what_waits_is_bounded() -> None:
    tape = Tape()
    results = run_in_order(jobs_of(20, 10), tape.open, workers=3, capacity=8)
    next(results)
    time.sleep(0.2)
    # Eight of the job at the head are taken at once and eight more may wait, sixteen of later
    # jobs, and each worker holds one.
    assert 3 + 16 <= len(tape.read) <= 8 + 8 + 16 + 3
    results.close()


def test_workers_read_ahead_while_the_consumer_is_busy() -> None:
    tape = Tape()
    results = run_in_order(jobs_of(20, 10), tape.open, workers=2, capacity=16)
    next(results)
    time.sleep(0.2)
    assert len(tape.read) >= 20
    results.close()


def test_closing_stops_the_threads_at_once() -> None:
    before = threading.active_count()
    tape = Tape(pause=0.01)
    results = run_in_order(jobs_of(4, 1000), tape.open, workers=4, capacity=64)
    next(results)
    assert threading.active_count() == before + 4
    began = time.monotonic()
    results.close()
    assert time.monotonic() - began < 1
    assert threading.active_count() == before
    assert (tape.opened, tape.closed) == (4, 4)
    assert len(tape.read) < 1000


def test_a_failure_reaches_the_consumer_and_ends_all() -> None:
    before = threading.active_count()
    tape = Tape(pause=0.001, broken=25)
    results = run_in_order(jobs_of(10, 10), tape.open, workers=3, capacity=4)
    with pytest.raises(ZeroDivisionError, match="frame 25"):
        list(results)
    assert threading.active_count() == before
    assert tape.opened == tape.closed


def test_a_reader_that_cannot_open_is_a_failure() -> None:
    def fail() -> FrameReader:
        raise FileNotFoundError("gone")

    with pytest.raises(FileNotFoundError, match="gone"):
        list(run_in_order(jobs_of(2, 2), fail, workers=2, capacity=4))


def test_readers_work_side_by_side() -> None:
    tape = Tape(pause=0.01)
    began = time.monotonic()
    list(run_in_order(jobs_of(8, 5), tape.open, workers=8, capacity=64))
    # One after another it takes 0.4 s.
    assert time.monotonic() - began < 0.3
