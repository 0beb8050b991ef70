"""From a sample to tokens and frames: what it will cost, told by its media's facts, and the rest.

Planning needs only durations; frames are decoded where a pack is built.
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from enum import StrEnum
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from timeviper.core.errors import ConfigError, MediaError, RequestError
from timeviper.core.layout import SpanKind
from timeviper.inference.fitting import decode_size
from timeviper.inference.media import open_media
from timeviper.inference.request import AskOptions
from timeviper.processing.conversation import Lesson, Shown
from timeviper.processing.messages import ImagePart, VideoPart
from timeviper.processing.processor import Processor
from timeviper.training.data.durations import Durations
from timeviper.training.data.samples import Reason, Sample, SampleError
from timeviper.video.base import VideoSource
from timeviper.video.clips import iterate_clips
from timeviper.video.sampling import sample_times

# A container may round a duration; an annotation may count the last second as whole.
_SLACK_SECONDS = 1.0


class TooLong(StrEnum):
    """What happens to a sample of more tokens than the budget."""

    # It is a bad sample.
    REPORT = "report"
    # Its videos are looked at with fewer frames, evenly spread, until it fits.
    CUT = "cut"


@dataclass(frozen=True, kw_only=True)
class Grounding:
    """Which grounding targets are worth learning, as in the paper's cleaning.

    Args:
        most_seconds: longest target.
        most_share: longest target as a share of its video.
    """

    most_seconds: float = 30.0
    most_share: float = 1 / 3


@dataclass(frozen=True, kw_only=True)
class ReadingConfig:
    """How samples are looked at.

    Args:
        budget: most tokens of a sample; packs are filled up to it.
        fps: frames a second of videos; None leaves it to the model.
        max_frames: most frames of a video; None leaves it to the model.
        too_long: what happens to longer samples.
        grounding: which targets are kept; None keeps all that lie inside their video.
    """

    budget: int
    fps: float | None = None
    max_frames: int | None = None
    too_long: TooLong = TooLong.REPORT
    grounding: Grounding | None = None

    def __post_init__(self) -> None:
        """Check the budget; the rest is checked where it is used."""
        if self.budget < 1:
            raise ConfigError(want="a budget of tokens", got=self.budget, do="give 1 or more")


@dataclass(frozen=True, eq=False, kw_only=True)
class Example:
    """A sample ready for the model.

    Args:
        lesson: its tokens and what is taught.
        pixels: its frames, prepared, or None.
        times: moment of each frame, seconds.
    """

    lesson: Lesson
    pixels: Float[Tensor, "frame 3 height width"] | None
    times: NDArray[np.float64]


@final
class SampleReader:
    """Measures samples and loads them; what was opened to be measured is not opened so again.

    Args:
        processor: of the model that learns.
        config: how samples are looked at.
        durations: of media that were opened before, in this process or another.
    """

    def __init__(
        self, processor: Processor, config: ReadingConfig, durations: Durations | None = None
    ) -> None:
        self.processor = processor
        self.config = config
        self._look = AskOptions(fps=config.fps, max_frames=config.max_frames)
        self.durations = Durations() if durations is None else durations

    def measure(self, sample: Sample) -> Lesson:
        """The tokens of a sample; its frames are not decoded.

        Raises:
            SampleError: a medium is missing or unreadable, or the sample is too long.
        """
        return self._lesson(sample)[0]

    def load(self, sample: Sample) -> Example:
        """The sample with its frames; the tokens are those of `measure`.

        Raises:
            SampleError: as `measure`, or no frame of a video can be decoded.
        """
        lesson, shown = self._lesson(sample)
        frames = [
            self._frames(sample, part, seen.times)
            for part, seen in zip(sample.media, shown, strict=True)
        ]
        times = np.concatenate([np.zeros(0), *(seen.times for seen in shown)])
        return Example(lesson=lesson, pixels=torch.cat(frames) if frames else None, times=times)

    def check_media(self, sample: Sample) -> None:
        """Open every medium, pictures too.

        Raises:
            SampleError: one is missing or unreadable.
        """
        for part in sample.media:
            self._check_there(sample, part)
            self._remember(sample, part)

    def _lesson(self, sample: Sample) -> tuple[Lesson, list[Shown]]:
        seconds = [self._duration(sample, part) for part in sample.media]
        self._check_target(sample, seconds)
        caps: Sequence[int | None] = [None] * len(seconds)
        while True:
            shown = self._shown(sample, seconds, caps)
            try:
                lesson = self.processor.lesson(sample.turns, shown)
            except RequestError as error:
                raise SampleError.of(error, Reason.CONVERSATION, sample.origin) from None
            if len(lesson.tokens) <= self.config.budget:
                return lesson, shown
            caps = self._caps(sample, shown, lesson)

    def _shown(
        self, sample: Sample, seconds: Sequence[float], caps: Sequence[int | None]
    ) -> list[Shown]:
        """Moments of every medium."""
        shown: list[Shown] = []
        for part, duration, cap in zip(sample.media, seconds, caps, strict=True):
            if isinstance(part, ImagePart):
                shown.append(Shown(np.zeros(1), duration))
                continue
            policy = self._look.look(self.processor.config, part)
            if cap is not None:
                policy = replace(policy, max_frames=cap)
            try:
                times = sample_times(duration, policy).times
            except (RequestError, MediaError) as error:
                raise SampleError.of(error, Reason.RANGE, sample.origin) from None
            shown.append(Shown(times, duration))
        return shown

    def _caps(self, sample: Sample, shown: Sequence[Shown], lesson: Lesson) -> list[int | None]:
        """Fewer frames for each video, in proportion, for a lesson that is too long."""
        counts = [
            len(seen.times) if isinstance(part, VideoPart) else 0
            for part, seen in zip(sample.media, shown, strict=True)
        ]
        frames, videos = sum(counts), sum(count > 0 for count in counts)
        kinds, still = lesson.tokens.kinds, len(counts) - videos
        spent = int(np.isin(kinds, (SpanKind.VISION.code, SpanKind.TIMESTAMP.code)).sum())
        spent -= still * self.processor.config.tokens_per_frame
        excess = len(kinds) - self.config.budget
        left = frames - math.ceil(excess * frames / spent) if frames else 0
        if self.config.too_long is TooLong.REPORT or left < max(videos, 1):
            raise sample.error(
                Reason.TOO_LONG,
                want=f"at most {self.config.budget:,} tokens, the budget of a pack",
                got=f"{len(kinds):,} tokens with {frames:,} video frames",
                do="raise the budget, lower fps or max_frames, or let long videos be cut (--cut)",
            )
        return [max(1, count * left // frames) if count else None for count in counts]

    def _duration(self, sample: Sample, part: VideoPart | ImagePart) -> float:
        """Seconds of a medium; opened once a process."""
        self._check_there(sample, part)
        if isinstance(part, ImagePart):
            return 1.0
        return self._remember(sample, part)

    def _remember(self, sample: Sample, part: VideoPart | ImagePart) -> float:
        identity = _identity(sample, part)
        seconds = self.durations.get(identity)
        if seconds is None:
            with self._opened(sample, part) as source:
                seconds = source.info.duration_seconds
            self.durations.put(identity, seconds)
        return seconds

    def _check_there(self, sample: Sample, part: VideoPart | ImagePart) -> None:
        missing = [path for path in _paths(sample, part) if not Path(path).exists()]
        if missing:
            raise sample.error(
                Reason.MISSING,
                want="a video, picture or folder of frames that is there",
                got=missing[0],
                do="fetch it, or correct the path or the media root",
            )

    def _check_target(self, sample: Sample, seconds: Sequence[float]) -> None:
        videos = [
            length
            for part, length in zip(sample.media, seconds, strict=True)
            if isinstance(part, VideoPart)
        ]
        if sample.start_seconds is None or sample.end_seconds is None:
            return
        start, end, rule = sample.start_seconds, sample.end_seconds, self.config.grounding
        if len(videos) != 1 or start >= videos[0] or end > videos[0] + _SLACK_SECONDS:
            raise sample.error(
                Reason.RANGE,
                want="one video that holds the moment from start_seconds to end_seconds",
                got=f"{start:g} to {end:g} s for videos of {videos} s",
                do="correct the times",
            )
        most = 0.0 if rule is None else min(rule.most_seconds, rule.most_share * videos[0])
        if rule is not None and end - start > most:
            raise sample.error(
                Reason.RANGE,
                want=f"a moment of at most {most:g} s in a video of {videos[0]:g} s",
                got=f"{end - start:g} s",
                do="leave the sample out, or set grounding to none",
            )

    @contextmanager
    def _opened(self, sample: Sample, part: VideoPart | ImagePart) -> Generator[VideoSource]:
        """A medium of a sample.

        Raises:
            SampleError: it cannot be read.
        """
        try:
            if isinstance(part.source, str) and part.source in sample.openers:
                with sample.openers[part.source].open() as source:
                    yield source
            else:
                yield open_media(part, self.processor, self._look)[0]
        except MediaError as error:
            raise SampleError.of(error, Reason.UNREADABLE, sample.origin) from None
        except RequestError as error:
            raise SampleError.of(error, Reason.RANGE, sample.origin) from None

    def _frames(
        self, sample: Sample, part: VideoPart | ImagePart, times: NDArray[np.float64]
    ) -> Float[Tensor, "frame 3 height width"]:
        with self._opened(sample, part) as source:
            size = decode_size(source.info, self.processor.image)
            # One thread a pack: packs are built side by side.
            clips = iterate_clips(source, times, size=size, workers=1)
            return torch.cat([self.processor.pixels(clip.frames) for clip in clips])


def _paths(sample: Sample, part: VideoPart | ImagePart) -> tuple[str, ...]:
    names = (part.source,) if isinstance(part.source, str) else part.source
    return tuple(name for name in names if name not in sample.openers)


def _identity(sample: Sample, part: VideoPart | ImagePart) -> str:
    """Names what a medium holds; another file at the same path is another medium."""
    if isinstance(part.source, str) and part.source in sample.openers:
        return sample.openers[part.source].identity
    stats = [(path, Path(path).stat()) for path in _paths(sample, part)]
    # Frames given one by one last as long as the rate says.
    rate = part.fps if isinstance(part, VideoPart) else None
    return " ".join(f"{path}:{s.st_size}:{s.st_mtime_ns}:{rate}" for path, s in stats)
