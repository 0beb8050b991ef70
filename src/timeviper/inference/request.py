"""What a caller asks and what it gets back, as values; nothing here runs a model."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any

from timeviper.core.errors import ConfigError, RequestError
from timeviper.inference.sampling import TokenPolicy
from timeviper.inference.timing import Timing
from timeviper.processing.messages import VideoPart
from timeviper.processing.processor import ProcessorConfig
from timeviper.processing.timestamps import parse_interval
from timeviper.video.sampling import SamplingPolicy

DEFAULT_MAX_NEW_TOKENS = 64


@dataclass(frozen=True, kw_only=True)
class AskOptions:
    """How to look at a video and how to word the answer.

    Args:
        fps: frames a second; excludes `num_frames`. None leaves it to the model.
        num_frames: frames in all, evenly over the range.
        max_frames: most frames; when it bites, the answer's notes say so. None leaves it to the
            model.
        start: first second of the video that is looked at.
        end: second at which the look ends.
        max_new_tokens: most tokens of an answer.
        temperature: 0 takes the best token always.
        top_p: draws only among the likeliest tokens that together hold this probability.
        seed: of the draws.
        stop: texts that end an answer; they are not part of it.
        system: words to the model before the video.

    Raises:
        RequestError: a value that makes no sense, or two that exclude each other.
    """

    fps: float | None = None
    num_frames: int | None = None
    max_frames: int | None = None
    start: float | None = None
    end: float | None = None
    max_new_tokens: int = DEFAULT_MAX_NEW_TOKENS
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    system: str = ""

    def __post_init__(self) -> None:
        """Refuse what makes no sense, before any work is done."""
        if self.max_new_tokens < 1:
            raise RequestError(
                want="max_new_tokens of at least 1", got=self.max_new_tokens, do="allow one token"
            )
        if isinstance(self.stop, str) or "" in self.stop:
            raise RequestError(
                want="a tuple of texts that are not empty as stop",
                got=repr(self.stop),
                do="pass for example stop=('.',)",
            )
        self._look(self.fps, self.max_frames)
        _ = self.tokens

    @property
    def tokens(self) -> TokenPolicy:
        """How tokens are chosen."""
        return TokenPolicy(temperature=self.temperature, top_p=self.top_p, seed=self.seed)

    @property
    def looks(self) -> bool:
        """Whether anything is said about which frames to take."""
        return any(
            value is not None
            for value in (self.fps, self.num_frames, self.max_frames, self.start, self.end)
        )

    def look(self, model: ProcessorConfig, part: VideoPart | None = None) -> SamplingPolicy:
        """Which frames to take.

        Args:
            model: supplies the rate and the ceiling where the request is silent.
            part: a video inside a message, whose own wishes go first.

        Returns:
            The complete policy.
        """
        if part is not None:
            return self._over(part).look(model)
        fps = model.fps if self.fps is None and self.num_frames is None else self.fps
        most = model.max_frames if self.max_frames is None else self.max_frames
        return self._look(fps, most)

    def _look(self, fps: float | None, max_frames: int | None) -> SamplingPolicy:
        try:
            return SamplingPolicy(
                fps=fps,
                num_frames=self.num_frames,
                max_frames=max_frames,
                start=self.start,
                end=self.end,
            )
        except ConfigError as error:
            raise RequestError(want=error.want, got=error.got, do=error.do) from None

    def _over(self, part: VideoPart) -> AskOptions:
        paced = part.fps is not None or part.num_frames is not None
        return AskOptions(
            fps=part.fps if paced else self.fps,
            num_frames=part.num_frames if paced else self.num_frames,
            max_frames=self.max_frames if part.max_frames is None else part.max_frames,
            start=self.start if part.start_seconds is None else part.start_seconds,
            end=self.end if part.end_seconds is None else part.end_seconds,
        )


DEFAULTS = AskOptions()


@dataclass(frozen=True, kw_only=True)
class Answer:
    """An answer with everything a reader needs to trust it.

    Args:
        text: the model's words.
        start_seconds: start of the interval that the words name, or None.
        end_seconds: its end, or None.
        frames: frames the model saw.
        duration_seconds: length of the video; 0 without one.
        timing: where the time went.
        peak_bytes: highest memory so far, of the device for CUDA, of the process otherwise.
        notes: sentences about caps that bit, damaged files, answers cut short.
        tokens: tokens of the answer, the one that ended it included.
    """

    text: str
    start_seconds: float | None = None
    end_seconds: float | None = None
    frames: int = 0
    duration_seconds: float = 0.0
    timing: Timing = field(default_factory=Timing)
    peak_bytes: int = 0
    notes: tuple[str, ...] = ()
    tokens: int = 0

    def to_dict(self) -> dict[str, Any]:
        """The answer as JSON values, with the keys of `timeviper ask --json`."""
        return {
            "answer": self.text,
            "start_seconds": self.start_seconds,
            "end_seconds": self.end_seconds,
            "frames": self.frames,
            "duration_seconds": self.duration_seconds,
            "timing": self.timing.to_dict(),
            "peak_bytes": self.peak_bytes,
            "notes": list(self.notes),
        }


def interval_of(text: str, duration_seconds: float) -> tuple[float, float] | None:
    """The interval an answer names, cut to the video.

    Args:
        text: the answer.
        duration_seconds: length of the video.

    Returns:
        (start, end) in seconds within the video, or None when the text names none there.
    """
    found = parse_interval(text)
    if found is None or not math.isfinite(found[1]) or found[0] >= duration_seconds:
        return None
    return found[0], min(found[1], duration_seconds)
