"""Threads that read frames ahead, each with its own reader, while results come out in order."""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Generator, Sequence

import numpy as np
from numpy.typing import NDArray

from timeviper.video.base import FrameReader, Pixels

Item = tuple[int, Pixels]


class _Lanes:
    """What the threads share: the next job, a lane of results for each job, and the end.

    Args:
        jobs: pieces of work, in order.
        capacity: frames that may wait for the job being consumed.
        ahead: frames that may wait for all others together.
    """

    def __init__(self, jobs: Sequence[NDArray[np.int64]], *, capacity: int, ahead: int) -> None:
        self._jobs, self._capacity, self._ahead = jobs, capacity, ahead
        lock = threading.RLock()
        self._lock, self._ready = lock, threading.Condition(lock)
        # One for each worker that waits: woken all at every frame, sixteen of them would keep
        # Python's lock from the thread that feeds a GPU.
        self._room: dict[int, threading.Condition] = {}
        self._lanes: list[deque[Item]] = [deque() for _ in jobs]
        self._finished = [False] * len(jobs)
        self._next_job = self._head = self._waiting = 0
        self._stopped = False
        self._failure: BaseException | None = None

    def stopped(self) -> bool:
        """Nobody wants results any more."""
        return self._stopped

    def stop(self) -> None:
        """Wake everyone and let them end."""
        with self._lock:
            self._stopped = True
            self._ready.notify_all()
            self._wake_workers()

    def fail(self, failure: BaseException) -> None:
        """Hand a worker's failure to the consumer and end the others."""
        with self._lock:
            self._failure = self._failure or failure
            self.stop()

    def take(self) -> int | None:
        """The next job, or None when there is none left."""
        with self._lock:
            job = self._next_job
            if self._stopped or job == len(self._jobs):
                return None
            self._next_job = job + 1
            return job

    def put(self, job: int, item: Item) -> None:
        """Add a result; wait while too many wait. The job being consumed never waits for others."""
        with self._lock:
            if not (self._stopped or self._has_room(job)):
                room = self._room[job] = threading.Condition(self._lock)
                room.wait_for(lambda: self._stopped or self._has_room(job))
                del self._room[job]
            self._lanes[job].append(item)
            if job == self._head:
                self._ready.notify()
            else:
                self._waiting += 1

    def finish(self, job: int) -> None:
        """Say that a job has no more results."""
        with self._lock:
            self._finished[job] = True
            if job == self._head:
                self._ready.notify()

    def get(self, job: int) -> list[Item]:
        """All results of a job that are there, waiting for at least one; empty when it is over."""
        with self._lock:
            if job != self._head:
                self._head = job
                self._waiting -= len(self._lanes[job])
                self._wake_workers()
            lane = self._lanes[job]
            self._ready.wait_for(lambda: lane or self._finished[job] or self._stopped)
            if self._failure is not None:
                raise self._failure
            items = list(lane)
            lane.clear()
            if job in self._room:
                self._room[job].notify()
            return items

    def _wake_workers(self) -> None:
        for room in self._room.values():
            room.notify()

    def _has_room(self, job: int) -> bool:
        if job == self._head:
            return len(self._lanes[job]) < self._capacity
        return self._waiting < self._ahead


def run_in_order(
    jobs: Sequence[NDArray[np.int64]],
    open_reader: Callable[[], FrameReader],
    *,
    workers: int,
    capacity: int,
) -> Generator[Item, None, None]:
    """Read jobs in parallel and give their frames in order.

    Args:
        jobs: ascending frame numbers, cut where reading can start afresh.
        open_reader: makes a reader for one worker.
        workers: threads.
        capacity: frames a worker that may wait for the consumer: so many of the job at the head,
            and of later jobs so many for each other worker; none stops for a slow head.

    Yields:
        Number and pixels of each frame that could be decoded.

    Raises:
        Exception: whatever a worker failed with.
    """
    lanes = _Lanes(jobs, capacity=capacity, ahead=capacity * max(1, workers - 1))

    def work() -> None:
        try:
            reader = open_reader()
            try:
                while (job := lanes.take()) is not None:
                    for item in reader.read(jobs[job], lanes.stopped):
                        lanes.put(job, item)
                    lanes.finish(job)
            finally:
                reader.close()
        # Whatever it is, the consumer raises it again.
        except BaseException as failure:
            lanes.fail(failure)

    # Daemons: an abandoned generator must not keep the interpreter from ending.
    threads = [threading.Thread(target=work, daemon=True) for _ in range(workers)]
    for thread in threads:
        thread.start()
    try:
        for job in range(len(jobs)):
            while items := lanes.get(job):
                yield from items
    finally:
        lanes.stop()
        for thread in threads:
            thread.join()
