"""Seconds of stages: as they run on a CPU; between events of a GPU, one chunk behind the host."""

from __future__ import annotations

import time

import pytest
import torch

from timeviper.inference.timing import Pacer


class Work:
    """A device that takes a second for each thing it is given, and never by itself."""

    def __init__(self) -> None:
        self.given = self.done = 0
        self.waits: list[int] = []


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Work:
    work = Work()

    class Event:
        def __init__(self, *, enable_timing: bool = False) -> None:
            self.at = 0

        def record(self, stream: object) -> None:
            self.at = work.given

        def query(self) -> bool:
            return work.done >= self.at

        def synchronize(self) -> None:
            work.waits.append(self.at)
            work.done = max(work.done, self.at)

        def elapsed_time(self, other: Event) -> float:
            return 1000.0 * (other.at - self.at)

    monkeypatch.setattr(torch.cuda, "Event", Event)
    monkeypatch.setattr(torch.cuda, "current_stream", lambda device: device)
    return work


def test_a_gpu_is_given_one_chunk_ahead_and_counted_when_it_is_done(device: Work) -> None:
    clock = Pacer(torch.device("cuda"))
    for chunk in range(3):
        with clock.stage("encode"):
            device.given += 2
        with clock.stage("prefill"):
            device.given += 3
        clock.pace(last=chunk == 2)
        # Of the chunks given, all but the newest are done; at the end all.
        assert device.done == (15 if chunk == 2 else 5 * max(chunk, 1))
    assert device.waits == [5, 5, 15]
    found = clock.timing
    assert (found.encode, found.prefill, found.decode) == (6.0, 9.0, 0.0)


def test_what_a_gpu_has_not_done_is_not_counted(device: Work) -> None:
    clock = Pacer(torch.device("cuda"))
    with clock.stage("encode"):
        device.given += 2
    assert clock.timing.encode == 0.0
    device.done = 2
    assert clock.timing.encode == 2.0


def test_time_in_which_a_gpu_did_nothing_is_waiting_for_frames(device: Work) -> None:
    clock = Pacer(torch.device("cuda"))
    with clock.stage("decode"):
        time.sleep(0.02)
    clock.pace(last=True)
    assert 0.02 <= clock.timing.decode < 5
    assert clock.timing.encode == 0.0


def test_on_a_cpu_stages_are_counted_as_they_run() -> None:
    clock = Pacer(torch.device("cpu"))
    with clock.stage("decode"):
        time.sleep(0.01)
    with clock.stage("encode"):
        time.sleep(0.03)
    clock.pace(last=False)
    assert 0.01 <= clock.timing.decode < clock.timing.encode
    assert clock.timing.prefill == 0.0
