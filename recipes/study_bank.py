"""Worlds of the study, drawn and seen once: features, questions and clocks that all variants share.

A bank is a folder. Each split and length has its questions as .npz and, for every number of tokens
a frame, its merged features as .safetensors. The same seed gives the same questions and worlds.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from safetensors.torch import load_file, save_file
from torch import Tensor

from timeviper.core.seeding import stream, torch_stream
from timeviper.model.vlm import TimeViper
from timeviper.ops.merge import tome
from timeviper.processing.messages import VideoPart
from timeviper.processing.processor import Processor
from timeviper.processing.prompt import TimePrompt
from timeviper.synth.asking import Asking, Question
from timeviper.synth.casting import Cast, Role, shuffled
from timeviper.synth.catalogue import ThingKind, ids_of
from timeviper.synth.draw import Painter, atlas_tensor
from timeviper.synth.questions import ask
from timeviper.synth.sample import Setting, room, spread, stage
from timeviper.synth.tasks import Task
from timeviper.synth.world import Worlds
from timeviper.training.pixels import seen_frames
from timeviper.weights.loader import load_model, resolve

# Asked about in the study, and how often a question of each is tried for.
TASKS = {
    Task.WHEN: 4,
    Task.AT_TIME: 3,
    Task.MULTI_KEY: 3,
    Task.ORDERING: 2,
    Task.COUNT: 2,
    Task.FIRST: 2,
}
NAMES = tuple(task.value for task in TASKS)
# Things that worlds of the study show: few, so that naming them is soon learned and the rest of the
# steps goes into when and in which order.
OBJECTS, NUMBERS = 64, 20
# Appearances of a world, at most.
MOST_EVENTS = 8
# Latest second that a training clock starts at: it teaches the digits of the longest evaluation.
LATEST = 1000
TOKENS = (4, 8, 16)
# Worlds that one job draws.
_CHUNK = 50
_DRAWN = VideoPart(source="drawn")


@dataclass(frozen=True, kw_only=True)
class Part:
    """Worlds of one length in one split.

    Args:
        split: `train` or `test`; their seeds differ.
        frames: seconds of each world.
        worlds: how many.
    """

    split: str
    frames: int
    worlds: int

    @property
    def name(self) -> str:
        """Stem of its files."""
        return f"{self.split}-{self.frames}"


def parts(scale: float = 1.0) -> tuple[Part, ...]:
    """The bank's parts; `scale` makes it smaller."""
    counts = {
        ("train", 32): 1200,
        ("train", 64): 2400,
        ("train", 256): 600,
        ("test", 64): 120,
        ("test", 256): 64,
        ("test", 1024): 40,
    }
    return tuple(
        Part(split=split, frames=frames, worlds=max(2, round(count * scale)))
        for (split, frames), count in counts.items()
    )


@dataclass(frozen=True, eq=False, kw_only=True)
class Rows:
    """Questions about the worlds of a part, under one way of telling time.

    Args:
        ids: tokens of all rows, one after another.
        bounds: first token of each row and the end of the last, shape (row + 1,).
        answers: tokens of each row that are its answer, shape (row,).
        worlds: world of each row; rows of a world are neighbours.
        tasks: place of each row's task in `NAMES`.
        offsets: second that each world's clock starts at, shape (world,).
    """

    ids: NDArray[np.int64]
    bounds: NDArray[np.int64]
    answers: NDArray[np.int64]
    worlds: NDArray[np.int64]
    tasks: NDArray[np.int64]
    offsets: NDArray[np.int64]

    def save(self, path: Path) -> None:
        """Write as .npz."""
        np.savez(path, **vars(self))

    @classmethod
    def load(cls, path: Path) -> Rows:
        """Read what `save` wrote."""
        with np.load(path) as data:
            return cls(**{name: data[name] for name in data.files})


def study_cast(rng: np.random.Generator, frames: int) -> Cast:
    """Two cards with different numbers, one thing that may come back, others once."""
    space = min(MOST_EVENTS, room(frames))
    objects = ids_of(ThingKind.OBJECT)[:: len(ids_of(ThingKind.OBJECT)) // OBJECTS][:OBJECTS]
    things = [objects[int(i)] for i in rng.permutation(OBJECTS)[:space]]
    numbers = ids_of(ThingKind.NUMBER)
    tags = [numbers[int(i)] for i in rng.permutation(NUMBERS)[:2]]
    roles = [Role(thing=things.pop(), partner=tag) for tag in tags]
    times = int(rng.integers(1, max(2, min(5, space - 2))))
    again = things.pop()
    roles += [Role(thing=again)] * times
    left = space - len(roles)
    alone = int(rng.integers(min(1, left), left + 1)) if left else 0
    roles += [Role(thing=things.pop()) for _ in range(alone)]
    return shuffled(rng, roles)


def draw_worlds(part: Part, chunk: int, seed: int) -> Worlds:
    """Worlds of one chunk of a part; a function of its arguments."""
    rng = stream(seed, "study", part.name, chunk)
    count = min(_CHUNK, part.worlds - chunk * _CHUNK)
    casts = [study_cast(rng, part.frames) for _ in range(count)]
    times = [spread(rng, len(cast), part.frames) for cast in casts]
    return stage(rng, casts, times, num_frames=part.frames, setting=Setting(clip=-1))


def chunks(part: Part) -> range:
    """Numbers of a part's chunks."""
    return range(-(-part.worlds // _CHUNK))


def draw_rows(worlds: Worlds, processor: Processor, part: Part, *, chunk: int, seed: int) -> Rows:
    """Questions about worlds; the same ones whatever tells the time, but for the clock."""
    clocks = stream(seed, "clock", part.name, chunk)
    late = clocks.integers(0, LATEST, len(worlds)) * (clocks.random(len(worlds)) < 0.5)
    # Nothing tells a sentence prompt's model where a clock starts, and files start at 0.
    told = processor.config.time_prompt is TimePrompt.INTERLEAVED and part.split == "train"
    offsets = late if told else np.zeros_like(late)
    return _rows(worlds, processor, offsets, name=f"{part.name}-{chunk}", seed=seed)


def _rows(
    worlds: Worlds, processor: Processor, offsets: NDArray[np.int64], *, name: str, seed: int
) -> Rows:
    ids: list[NDArray[np.int64]] = []
    lengths: list[tuple[int, int, int, int]] = []
    for number in range(len(worlds)):
        world = worlds.world(number)
        how = Asking(paraphrase=False, offset=int(offsets[number]), missing=0.0, clear=True)
        rng = stream(seed, "ask", name, number)
        asked: set[str] = set()
        for place, (task, tries) in enumerate(TASKS.items()):
            for _ in range(tries):
                question = ask(world, task, rng, how)
                if question is None or question.question in asked:
                    continue
                asked.add(question.question)
                row, answer = _tokens(question, processor, worlds.num_frames)
                ids += [row, answer]
                lengths.append((len(row) + len(answer), len(answer), number, place))
    table = np.array(lengths, dtype=np.int64).reshape(-1, 4)
    return Rows(
        ids=np.concatenate(ids),
        bounds=np.concatenate([[0], np.cumsum(table[:, 0])]),
        answers=table[:, 1],
        worlds=table[:, 2],
        tasks=table[:, 3],
        offsets=offsets,
    )


def _tokens(
    question: Question, processor: Processor, frames: int
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    plan = processor.plan_question(question.question, video=_DRAWN)
    suffix = plan.suffix(duration_seconds=float(frames), num_frames=frames)
    return suffix.ids, processor.answer_tokens(question.answer).ids


def join_rows(rows: Iterable[Rows]) -> Rows:
    """Chunks of a part as one."""
    rows = list(rows)
    firsts = np.cumsum([0, *(len(r.offsets) for r in rows)])
    tokens = np.cumsum([0, *(len(r.ids) for r in rows)])
    bounds = [r.bounds[:-1] + t for r, t in zip(rows, tokens, strict=False)]
    return Rows(
        ids=np.concatenate([r.ids for r in rows]),
        bounds=np.concatenate([*bounds, tokens[-1:]]),
        answers=np.concatenate([r.answers for r in rows]),
        worlds=np.concatenate([r.worlds + f for r, f in zip(rows, firsts, strict=False)]),
        tasks=np.concatenate([r.tasks for r in rows]),
        offsets=np.concatenate([r.offsets for r in rows]),
    )


@dataclass(frozen=True)
class _Job:
    """What a worker process makes: worlds of a chunk and their rows under both prompts."""

    marked: Processor
    plain: Processor
    seed: int

    def __call__(self, item: tuple[Part, int]) -> tuple[Worlds, Rows, Rows]:
        part, chunk = item
        worlds = draw_worlds(part, chunk, self.seed)
        first = draw_rows(worlds, self.marked, part, chunk=chunk, seed=self.seed)
        second = draw_rows(worlds, self.plain, part, chunk=chunk, seed=self.seed)
        return worlds, first, second


@dataclass(frozen=True, eq=False, kw_only=True)
class Painting:
    """What turns worlds into features: the frozen tower, the drawings, the seed of the noise."""

    model: TimeViper
    atlas: Float[Tensor, "drawing 4 cell cell"]
    seed: int

    @torch.no_grad()
    def features(self, worlds: Worlds, name: str) -> dict[int, Tensor]:
        """Merged features of every frame, by tokens a frame, shape (world, frame, token, width)."""
        device, length = self.atlas.device, worlds.num_frames
        index = torch.arange(len(worlds), device=device).repeat_interleave(length)
        seconds = torch.arange(length, device=device, dtype=torch.float32).repeat(len(worlds))
        chance = torch_stream(self.seed, "degrade", name, device=device)
        size = self.model.config.vision.image_size
        heads = self.model.config.projector.merge_heads
        found: dict[int, list[Tensor]] = {keep: [] for keep in TOKENS}
        painter = Painter.of(worlds, self.atlas)
        precision = next(self.model.vision.parameters()).dtype
        for pixels in seen_frames(painter, index, seconds, size=size, generator=chance):
            patches = self.model.vision(pixels.to(precision))
            for keep in TOKENS:
                found[keep].append(tome(patches, keep, metric_heads=heads)[0].bfloat16())
        return {k: torch.cat(f).unflatten(0, (len(worlds), length)) for k, f in found.items()}


def processor_for(processor: Processor, time_prompt: TimePrompt) -> Processor:
    """The same processor under another time prompt."""
    config = processor.config.__class__(
        template=processor.config.template,
        tokens_per_frame=processor.config.tokens_per_frame,
        time_prompt=time_prompt,
    )
    return Processor(processor.tokenizer, image=processor.image, config=config)


def build(
    folder: Path, model: str | Path, *, device: torch.device, scale: float, seed: int
) -> None:
    """Write a bank, unless there is a whole one already.

    Args:
        folder: where to.
        model: name or folder of the model whose tower sees.
        device: that draws.
        scale: share of the usual number of worlds.
        seed: of worlds and questions.
    """
    if (folder / "whole").exists():
        return
    folder.mkdir(parents=True, exist_ok=True)
    processor = Processor.load(resolve(model))
    job = _Job(
        processor_for(processor, TimePrompt.INTERLEAVED),
        processor_for(processor, TimePrompt.SENTENCE),
        seed,
    )
    items = [(part, chunk) for part in parts(scale) for chunk in chunks(part)]
    # Forked, which is quick, and safe only before this process holds a GPU.
    with get_context("fork").Pool(min(len(items), _cores())) as pool:
        made = iter(pool.map(job, items, chunksize=1))
    tower = load_model(model, device=device)
    painting = Painting(model=tower, atlas=atlas_tensor(64, device), seed=seed)
    for part in parts(scale):
        _write(folder, part, painting, [next(made) for _ in chunks(part)])
    (folder / "whole").write_text(f"{scale} {seed}\n")


def _write(
    folder: Path, part: Part, painting: Painting, made: list[tuple[Worlds, Rows, Rows]]
) -> None:
    for prompt, place in ((TimePrompt.INTERLEAVED, 1), (TimePrompt.SENTENCE, 2)):
        rows = join_rows(item[place] for item in made)  # type: ignore[misc]
        rows.save(folder / f"{part.name}-{prompt.value}.npz")
    seen = [painting.features(item[0], f"{part.name}-{n}") for n, item in enumerate(made)]
    for keep in TOKENS:
        features = torch.cat([s[keep] for s in seen]).cpu().contiguous()
        save_file({"features": features}, folder / f"{part.name}-{keep}.safetensors")


def _cores() -> int:
    """Processes to draw worlds with."""
    return max(1, min(14, (os.cpu_count() or 2) - 1))


def load_features(folder: Path, name: str, keep: int, device: torch.device) -> Tensor:
    """Features of a part on a device, shape (world, frame, token, width)."""
    return load_file(folder / f"{name}-{keep}.safetensors")["features"].to(device)
