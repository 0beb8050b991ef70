"""SynthReel as a data set: worlds drawn when their pack is built, questions with exact answers."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray

from timeviper.core.errors import ConfigError
from timeviper.core.seeding import stream, torch_stream
from timeviper.processing.messages import Message, TextPart, VideoPart
from timeviper.synth.asking import Asking, Question
from timeviper.synth.canvas import degrade
from timeviper.synth.choices import as_choices, choice_answer
from timeviper.synth.draw import Painter, atlas_tensor
from timeviper.synth.footage import Footage, load_footage
from timeviper.synth.questions import ask
from timeviper.synth.sample import SHORTEST, Setting, sample_worlds
from timeviper.synth.tasks import Task
from timeviper.synth.world import Worlds
from timeviper.training.data.samples import Opener, Origin, Sample
from timeviper.video.base import FrameReader, Pixels, Size, VideoInfo, VideoSource

_ITEMS = 1024
# Frames drawn at once: 64 of 192 x 96 are 14 MB of floats.
_AT_ONCE = 64
_SHOWN = "reel"
# Rows and columns that footage is kept at.
_CLIP = (108, 192)


@dataclass(frozen=True, kw_only=True)
class ReelConfig:
    """Which reels are drawn.

    Args:
        frames: lengths in seconds, drawn evenly.
        tasks: what is asked, drawn evenly among those that a world carries.
        questions: turns of each conversation.
        choices: share of questions with options, where the task has some.
        seed: of all reels; keep it apart from the seeds that are evaluated.
        count: reels before the first comes again.
        footage: video files that worlds are shown before, besides drawn backgrounds.
    """

    frames: tuple[int, ...] = (64,)
    tasks: tuple[Task, ...] = tuple(Task)
    questions: int = 1
    choices: float = 0.2
    seed: int = 0
    count: int = 1 << 20
    footage: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        """Refuse lengths and counts that mean nothing."""
        lengths = (*self.frames, *self.tasks)
        if not lengths or not self.tasks or min(self.frames, default=0) < SHORTEST:
            raise ConfigError(
                want=f"tasks, and lengths of at least {SHORTEST} frames",
                got=f"{self.tasks} and {self.frames}",
                do="name some",
            )
        if min(self.questions, self.count) < 1 or not 0 <= self.choices <= 1:
            raise ConfigError(
                want="questions and count of at least 1, choices from 0 to 1",
                got=f"{self.questions}, {self.count}, {self.choices}",
                do="correct the config",
            )


@final
class ReelDataset:
    """Reels as `Samples`: each is a function of the config and its number.

    Args:
        config: which reels.
        name: in cursors and reports.
    """

    def __init__(self, config: ReelConfig, *, name: str = "synthreel") -> None:
        self.config = config
        self._name = name

    @property
    def name(self) -> str:
        """Names the data set in cursors and reports."""
        return self._name

    @property
    def parts(self) -> int:
        """Runs of neighbouring numbers; reels need no order, a cursor needs parts."""
        return -(-self.config.count // _ITEMS)

    @property
    def identity(self) -> str:
        """The config says it all."""
        return repr(self.config)

    def length(self, part: int) -> int:
        """Reels of a part."""
        return min(_ITEMS, self.config.count - part * _ITEMS)

    def read(self, part: int, item: int) -> Sample:
        """One reel; it is drawn when its medium is opened."""
        number, config = part * _ITEMS + item, self.config
        rng = stream(config.seed, "reels", number)
        frames = int(config.frames[int(rng.integers(len(config.frames)))])
        worlds = sample_worlds(rng, 1, frames, Setting(clips=len(config.footage)))
        turns: list[Message] = []
        asked: Question | None = None
        for question in self._questions(worlds, rng):
            words, answer = question.question, question.answer
            if question.options and rng.random() < config.choices:
                rotation = int(rng.integers(len(question.options)))
                words, answer = as_choices(question, rotation), choice_answer(question, rotation)
            shown = () if turns else (VideoPart(source=_SHOWN),)
            turns.append(Message(role="user", parts=(*shown, TextPart(words))))
            turns.append(Message(role="assistant", parts=(TextPart(answer),)))
            asked = asked or question
        reel: Opener = DrawnReel(
            worlds, self._clips, f"{self.identity}:{number}", (config.seed, number)
        )
        return Sample(
            turns=tuple(turns),
            origin=Origin(self._name, number),
            form=self._name,
            # The moment of one question; several have none in common.
            start_seconds=asked.start_seconds if asked and config.questions == 1 else None,
            end_seconds=asked.end_seconds if asked and config.questions == 1 else None,
            openers={_SHOWN: reel},
        )

    @cached_property
    def _clips(self) -> Footage | None:
        paths = [Path(path) for path in self.config.footage]
        return load_footage(paths, height=_CLIP[0], width=_CLIP[1]) if paths else None

    def _questions(self, worlds: Worlds, rng: np.random.Generator) -> Iterator[Question]:
        world, order, left = worlds.world(0), list[str](), self.config.questions
        tried = 0
        while left:
            # A world may not carry every task: each round tries all of them once.
            order = order or rng.permutation(self.config.tasks).tolist()
            tried += 1
            question = ask(world, Task(order.pop()), rng, Asking())
            if question is not None:
                left -= 1
                yield question
            elif tried > 100 * len(self.config.tasks):
                raise ConfigError(
                    want=f"a task that worlds of {worlds.num_frames} frames carry",
                    got=", ".join(self.config.tasks),
                    do="name more tasks or longer worlds",
                )


@final
@dataclass(frozen=True, eq=False)
class DrawnReel:
    """A world that can be opened like a video.

    Args:
        worlds: one world.
        footage: that it may be shown before.
        identity: names its pixels.
        names: seed and number, of its grain.
    """

    worlds: Worlds
    footage: Footage | None
    identity: str
    names: tuple[int, int]

    @contextmanager
    def open(self) -> Generator[VideoSource]:
        """The world at a frame a second."""
        yield WorldSource(Painter.of(self.worlds, _atlas(), self.footage), self.worlds, self.names)


@final
class WorldSource(VideoSource):
    """Frames of a world, drawn at the size that is asked for and degraded as cameras and codecs do.

    Args:
        painter: of one world.
        worlds: that world.
        names: of the grain.
    """

    def __init__(self, painter: Painter, worlds: Worlds, names: tuple[int, int]) -> None:
        self._painter, self._names = painter, names
        count = worlds.num_frames
        self._times = np.arange(count, dtype=np.float64)
        self._info = VideoInfo(
            path=None,
            width=320,
            height=180,
            duration_seconds=float(count),
            average_fps=1.0,
            num_frames=count,
            codec="drawn",
            container="drawn",
        )

    @property
    def info(self) -> VideoInfo:
        """Facts about the video."""
        return self._info

    @property
    def frame_times(self) -> NDArray[np.float64]:
        """Whole seconds."""
        return self._times

    @property
    def entry_frames(self) -> NDArray[np.int64]:
        """Every frame stands alone."""
        return np.arange(len(self._times), dtype=np.int64)

    def open_reader(self, size: Size, *, threads: int = 1) -> FrameReader:
        """Make a reader; see `VideoSource.open_reader`."""
        return _Drawing(self._painter, size, self._names)


@final
class _Drawing(FrameReader):
    def __init__(self, painter: Painter, size: Size, names: tuple[int, int]) -> None:
        self._painter, self._size, self._names = painter, size, names

    def read(
        self, indices: NDArray[np.int64], cancelled: Callable[[], bool]
    ) -> Iterator[tuple[int, Pixels]]:
        """Deliver frames; see `FrameReader.read`."""
        height, width = self._size
        for start in range(0, len(indices), _AT_ONCE):
            if cancelled():
                return
            some = indices[start : start + _AT_ONCE]
            number = torch.zeros(len(some), dtype=torch.int64)
            seconds = torch.from_numpy(some).float()
            # Drawn wider and squeezed, as a 16:9 file would be.
            wide = self._painter.draw(number, seconds, height=height, width=2 * width)
            clean = F.avg_pool2d(wide, (1, 2)).split(1)
            # A stream for each frame: it looks the same whatever is read beside it.
            frames = torch.cat(
                [
                    degrade(frame, torch_stream(self._names[0], "grain", self._names[1], index))
                    for frame, index in zip(clean, some.tolist(), strict=True)
                ]
            )
            pixels = frames.mul(255).round().byte().permute(0, 2, 3, 1).contiguous().numpy()
            yield from zip(some.tolist(), pixels, strict=True)

    def close(self) -> None:
        """Nothing to release."""


@lru_cache(maxsize=1)
def _atlas() -> torch.Tensor:
    return atlas_tensor()
