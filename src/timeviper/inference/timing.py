"""Where the seconds of an answer go, stage by stage."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal, final

import torch

StageName = Literal["decode", "encode", "prefill", "answer"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Seconds of each stage; their sum is the time a caller waited.

    Args:
        decode: waiting for frames of the video; decoding that hides behind the model costs none.
            On a GPU, all time in which it did none of the other stages.
        encode: vision tower and projector.
        prefill: the decoder over everything up to the end of the video.
        answer: the question's own tokens and the tokens of the answer.
    """

    decode: float = 0.0
    encode: float = 0.0
    prefill: float = 0.0
    answer: float = 0.0

    def __add__(self, other: Timing) -> Timing:
        """Stage by stage."""
        return Timing(
            decode=self.decode + other.decode,
            encode=self.encode + other.encode,
            prefill=self.prefill + other.prefill,
            answer=self.answer + other.answer,
        )

    def to_dict(self) -> dict[str, float]:
        """Seconds of each stage, rounded to milliseconds."""
        return {name: round(seconds, 3) for name, seconds in asdict(self).items()}


@final
class Stopwatch:
    """Adds up the seconds of stages.

    Args:
        device: where the work runs; a GPU is waited for at the end of each stage.
    """

    def __init__(self, device: torch.device) -> None:
        self._device = device
        self._seconds: dict[StageName, float] = {}

    @contextmanager
    def stage(self, name: StageName) -> Generator[None, None, None]:
        """Count the time inside the `with` block."""
        start = time.perf_counter()
        try:
            yield
        finally:
            if self._device.type == "cuda":
                torch.cuda.synchronize(self._device)
            spent = time.perf_counter() - start
            self._seconds[name] = self._seconds.get(name, 0.0) + spent

    @property
    def timing(self) -> Timing:
        """What was counted so far."""
        seconds = self._seconds
        return Timing(
            decode=seconds.get("decode", 0.0),
            encode=seconds.get("encode", 0.0),
            prefill=seconds.get("prefill", 0.0),
            answer=seconds.get("answer", 0.0),
        )


@final
class Pacer:
    """Counts the seconds of stages that a GPU works off on its own, and keeps it from falling back.

    On a CPU stages are counted as they run. A GPU is told what to do ahead of time: there events
    between its work count, and `pace` waits until all but the newest chunk is done.

    Args:
        device: where the work runs.
    """

    def __init__(self, device: torch.device) -> None:
        self._stages = Stopwatch(torch.device("cpu"))
        self._device, self._is_cuda = device, device.type == "cuda"
        self._began, self._ended = time.perf_counter(), time.perf_counter()
        self._marks: deque[tuple[StageName, torch.cuda.Event, torch.cuda.Event]] = deque()
        self._seconds: dict[StageName, float] = {}
        self._newest: torch.cuda.Event | None = None

    @contextmanager
    def stage(self, name: StageName) -> Generator[None, None, None]:
        """Count the work that begins inside the `with` block."""
        if not self._is_cuda:
            with self._stages.stage(name):
                yield
            return
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record(torch.cuda.current_stream(self._device))
        try:
            yield
        finally:
            end.record(torch.cuda.current_stream(self._device))
            self._marks.append((name, begin, end))

    def pace(self, *, last: bool) -> None:
        """Say that a chunk was given to the device; wait for the one before, or for all of them.

        Args:
            last: no chunk follows.
        """
        if self._is_cuda:
            event = torch.cuda.Event()
            event.record(torch.cuda.current_stream(self._device))
            (event if last or self._newest is None else self._newest).synchronize()
            self._newest = event
        self._ended = time.perf_counter()

    @property
    def timing(self) -> Timing:
        """What is done so far."""
        if not self._is_cuda:
            return self._stages.timing
        while self._marks and self._marks[0][2].query():
            name, begin, end = self._marks.popleft()
            spent = begin.elapsed_time(end) / 1000
            self._seconds[name] = self._seconds.get(name, 0.0) + spent
        encode, prefill = (self._seconds.get(name, 0.0) for name in ("encode", "prefill"))
        waited = self._ended - self._began - encode - prefill
        return Timing(decode=max(0.0, waited), encode=encode, prefill=prefill)
