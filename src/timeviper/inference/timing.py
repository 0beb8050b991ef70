"""Where the seconds of an answer go, stage by stage."""

from __future__ import annotations

import time
from collections.abc import Generator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from typing import Literal, final

import torch

StageName = Literal["decode", "encode", "prefill", "answer"]


@dataclass(frozen=True, kw_only=True)
class Timing:
    """Wall-clock seconds; stages do not overlap, so their sum is the time a caller waited.

    Args:
        decode: waiting for frames of the video; decoding that hides behind the model costs none.
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
