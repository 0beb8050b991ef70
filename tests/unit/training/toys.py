"""Rows of random questions on random videos, and the shipped model's processor for real ones."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cache

import numpy as np
import torch

from tests.unit.model.toys import HIDDEN, one, toy
from timeviper.core.inputs import ModelInputs
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.config import ProjectorConfig, TimeViperConfig, TransferSite, VisionConfig
from timeviper.model.tokens import Tokens
from timeviper.model.vlm import TimeViper
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.conversation import IGNORED
from timeviper.processing.processor import Processor
from timeviper.synth import questions as asking
from timeviper.training import episodes
from timeviper.training.episodes import EpisodeMaker, Mix, Phase
from timeviper.training.objective import QuestionRows
from timeviper.weights.loader import resolve

VOCAB = 24


@cache
def processor() -> Processor:
    """Of the model that ships."""
    return Processor.load(resolve("tiny"))


def mix(num_frames: int = 16, videos: int = 2, questions: int = 3, **fields) -> Mix:
    return Mix(num_frames=num_frames, videos=videos, questions=questions, plan="on", **fields)


def maker(*mixes: Mix, seed: int = 5, steps: int = 10) -> EpisodeMaker:
    phases = (Phase(until=1.01, mixes=mixes or (mix(),)),)
    return EpisodeMaker(processor(), phases, steps=steps, seed=seed)


def listen(monkeypatch) -> list[tuple[asking.World, asking.Question, int]]:
    """World, question and clock offset of every question that episodes are made of."""
    heard: list[tuple[asking.World, asking.Question, int]] = []

    def ask(world, task, rng, how=None):
        question = asking.ask(world, task, rng, how)
        if question is not None:
            heard.append((world, question, how.offset))
        return question

    monkeypatch.setattr(episodes, "ask", ask)
    return heard


def random_videos(frames: Sequence[int], *, seed: int = 0) -> Tokens:
    """Embedded videos of toy width: two words, then a mark and three vision tokens a frame."""
    layouts = [one(2, [(1, 3)] * count, 0, 0) for count in frames]
    lengths = tuple(layout.total for layout in layouts)
    generator = torch.Generator().manual_seed(seed)
    hidden = torch.randn(sum(lengths), HIDDEN, generator=generator, dtype=torch.float64)
    return Tokens(hidden, np.concatenate([layout.kinds for layout in layouts]), lengths)


def random_rows(shapes: Sequence[tuple[int, int, int]], *, seed: int = 0) -> QuestionRows:
    """Rows of (video, words of the question, words of the answer)."""
    rng = np.random.default_rng(seed)
    rows = [
        PromptTokens.join(
            PromptTokens.of(kind, rng.integers(0, VOCAB, count).tolist())
            for kind, count in ((SpanKind.INSTRUCTION, asked), (SpanKind.ANSWER, answered))
        )
        for _, asked, answered in shapes
    ]
    return QuestionRows(
        PromptTokens.join(rows),
        tuple(len(row) for row in rows),
        tuple(video for video, _, _ in shapes),
        tuple(f"task {number % 2}" for number in range(len(rows))),
    )


def toy_model(sites: Sequence[TransferSite] = (), *, dtype=torch.float32) -> TimeViper:
    """A whole model of toy size: two patches' worth of tower, and the toy decoder."""
    vision = VisionConfig(
        tower="siglip", hidden_size=12, intermediate_size=16, num_layers=2, num_heads=2,
        image_size=8, patch_size=4,
    )  # fmt: skip
    decoder = toy("hybrid", sites, dtype=dtype)
    projector = ProjectorConfig(tokens_per_frame=None)
    model = TimeViper(TimeViperConfig(vision=vision, projector=projector, decoder=decoder.config))
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in [*model.vision.parameters(), *model.projector.parameters()]:
            parameter.copy_(torch.randn(parameter.shape, generator=generator) * 0.2)
    model.decoder = decoder
    return model.to(dtype)


def packed_inputs(layouts: Sequence[TokenLayout], *, seed: int = 0) -> ModelInputs:
    """Samples side by side, with ids and frames of chance; answers are taught."""
    rng = np.random.default_rng(seed)
    layout = TokenLayout.pack(layouts)
    ids = rng.integers(0, VOCAB, layout.total)
    taught = layout.kinds == SpanKind.ANSWER.code
    labels = np.full(layout.total, IGNORED)
    labels[:-1] = np.where(taught[1:], ids[1:], IGNORED)
    frames = sum(layout.count(SpanKind.VISION)) // 4
    pixels = torch.from_numpy(rng.normal(size=(frames, 3, 8, 8)).astype(np.float32))
    return ModelInputs(
        token_ids=torch.from_numpy(ids),
        layout=layout,
        pixels=pixels if frames else None,
        times=np.arange(float(frames)) if frames else None,
        labels=torch.from_numpy(labels),
    )
