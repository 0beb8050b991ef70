"""Laws of training: it reads what inference reads, and what it calls right would be answered."""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor, nn

from tests.tolerances import TOL, close
from tests.unit.training.toys import listen, maker, mix
from timeviper.core.layout import SpanKind
from timeviper.core.seeding import stream
from timeviper.inference.engine import Engine
from timeviper.model.tokens import Tokens
from timeviper.model.vlm import TimeViper
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.messages import VideoPart
from timeviper.synth.draw import Painter, atlas_tensor
from timeviper.synth.questions import Question
from timeviper.synth.world import Worlds
from timeviper.training import episodes
from timeviper.training.episodes import Episodes
from timeviper.training.loop import LoopConfig, Outcome, Report, train
from timeviper.training.objective import QuestionRows, answer_loss
from timeviper.training.optimizer import OptimizerConfig
from timeviper.training.source import Steps

SECONDS = 16


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The model that ships."""
    return Engine.load("tiny", device="cpu", threads=1)


def frames_of(worlds: Worlds, number: int) -> np.ndarray:
    """One frame a second of a world, as an engine is given them."""
    seconds = torch.arange(float(worlds.num_frames))
    index = torch.full((worlds.num_frames,), number)
    drawn = Painter.of(worlds, atlas_tensor(48)).draw(index, seconds, height=96, width=96)
    return (drawn.permute(0, 2, 3, 1) * 255).round().byte().numpy()


def overheard(engine: Engine, monkeypatch: pytest.MonkeyPatch) -> list[PromptTokens]:
    """Every token that the model is given from here on, call by call."""
    heard: list[PromptTokens] = []
    embed = TimeViper.embed

    def listening(self, token_ids, vision, layout):
        heard.append(PromptTokens(token_ids.numpy(), layout.kinds))
        return embed(self, token_ids, vision, layout)

    monkeypatch.setattr(TimeViper, "embed", listening)
    return heard


def episode_at_zero(step: Callable[[int], Episodes], heard: list) -> tuple[Episodes, int]:
    """The first episode with a clock that starts at 0, and the video that has it."""
    for number in range(9):
        heard.clear()
        found = step(number)
        for place, (_, _, offset) in enumerate(heard):
            if offset == 0:
                return found, found.questions.videos[place]
    raise AssertionError("half of all clocks should start at 0")


def plainly(monkeypatch: pytest.MonkeyPatch) -> list:
    """What is heard of questions that are asked as they are: no letters, none without a video."""
    monkeypatch.setattr(episodes, "CHOICES", 0.0)
    monkeypatch.setattr(episodes, "BLIND", 0.0)
    return listen(monkeypatch)


def test_training_reads_the_tokens_that_the_engine_reads(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = plainly(monkeypatch)
    found, video = episode_at_zero(maker(mix(SECONDS, 3, 6)), asked)
    ends = np.cumsum(found.video_lengths)
    own = slice(ends[video] - found.video_lengths[video], ends[video])

    heard = overheard(engine, monkeypatch)
    encoded = engine.encode(frames_of(found.worlds, video))
    read = PromptTokens.join(heard)
    np.testing.assert_array_equal(read.ids, found.video.ids[own])
    np.testing.assert_array_equal(read.kinds, found.video.kinds[own])

    rows = found.questions
    ids = np.split(rows.tokens.ids, np.cumsum(rows.lengths)[:-1])
    kinds = np.split(rows.tokens.kinds, np.cumsum(rows.lengths)[:-1])
    for number, (_, question, _) in enumerate(asked):
        if rows.videos[number] != video:
            continue
        heard.clear()
        answer = engine.ask(encoded, question.question)
        # The first call reads the question, each later one a word of the answer; so the row has
        # the question's tokens, and after them nothing but the answer's.
        asked_for = len(heard[0])
        np.testing.assert_array_equal(heard[0].ids, ids[number][:asked_for])
        np.testing.assert_array_equal(heard[0].kinds, kinds[number][:asked_for])
        assert set(kinds[number][asked_for:]) == {SpanKind.ANSWER.code}
        if answer.text == question.answer:
            said = PromptTokens.join(heard[1:])
            end = asked_for + len(said)
            np.testing.assert_array_equal(said.ids, ids[number][asked_for:end])
            np.testing.assert_array_equal(said.kinds, kinds[number][asked_for:end])


def rows_of(engine: Engine, question: Question, answers: list[str]) -> QuestionRows:
    """A question once with each of the answers."""
    plan = engine.processor.plan_question(question.question, video=VideoPart(source="drawn"))
    rows = [
        PromptTokens.join([plan.suffix(), engine.processor.answer_tokens(answer)])
        for answer in answers
    ]
    lengths = tuple(len(row) for row in rows)
    return QuestionRows(PromptTokens.join(rows), lengths, (0,) * len(rows), ("",) * len(rows))


@torch.no_grad()
def test_what_training_calls_right_is_what_the_engine_answers(
    engine: Engine, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = plainly(monkeypatch)
    found, video = episode_at_zero(maker(mix(SECONDS, 3, 9)), asked)
    frames = frames_of(found.worlds, video)
    ends = np.cumsum(found.video_lengths)
    own = slice(ends[video] - found.video_lengths[video], ends[video])
    prompt = PromptTokens(found.video.ids[own], found.video.kinds[own])
    model = engine.model
    seen = model.encode_frames(engine.processor.pixels(frames))
    tokens = Tokens.of(
        model.embed(torch.from_numpy(prompt.ids), seen, prompt.layout), prompt.layout
    )
    encoded = engine.encode(frames)
    flags: list[bool] = []
    for place, (_, question, _) in enumerate(list(asked)):
        if found.questions.videos[place] != video:
            continue
        answer = engine.ask(encoded, question.question)
        # What the engine says is an answer too, unless it was cut short.
        said = [] if answer.notes else [answer.text]
        answers = [*question.options, question.answer, *said]
        rows = rows_of(engine, question, answers)
        got = answer_loss(model.decoder, tokens, rows, torch.from_numpy(rows.tokens.ids)).right
        assert got.bool().tolist() == [words == answer.text for words in answers], question
        flags += got.bool().tolist()
    # Both kinds occurred, so that the law was put to the test.
    assert any(flags)
    assert not all(flags)


CONFIG = OptimizerConfig(steps=9, warmup=2, learning_rate=1e-2)


def losses(folder: Path, breaks: list[int]) -> list[float]:
    """Losses of a run that breaks off at those steps and is started anew each time."""
    lines: list[Report] = []
    for broken in [*breaks, -1]:
        torch.manual_seed(0)
        model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))

        def make(step: int, broken: int = broken) -> Tensor:
            if step == broken:
                raise KeyboardInterrupt
            return torch.from_numpy(stream(3, step).normal(size=(5, 4)).astype(np.float32))

        def step(batch: Tensor, model: nn.Module = model):
            return Outcome(loss=(model(batch) - batch).square().mean())

        config = LoopConfig(folder=folder, optimizer=CONFIG, log_every=1, save_every_seconds=0.0)
        with suppress(KeyboardInterrupt):
            train(model, Steps(make=make), step, config, tell=lines.append)
    return [line["loss"] for line in lines]


@settings(max_examples=8, deadline=None)
@given(st.sets(st.integers(0, CONFIG.steps - 1), max_size=4))
def test_breaks_at_any_steps_change_nothing(breaks: set[int]) -> None:
    # Waiting for a disk proves nothing here; `test_killed` waits.
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as home:
        patch.setattr(os, "fsync", lambda handle: None)
        whole = losses(Path(home) / "whole", [])
        assert len(whole) == CONFIG.steps
        assert losses(Path(home) / "cut", sorted(breaks)) == whole


def learned(folder: Path, sizes: list[int]) -> tuple[list[Tensor], list[Report]]:
    """Weights and log after steps over the same twelve rows, cut into batches of these sizes."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(4, 6), nn.GELU(), nn.Linear(6, 4))
    edges = np.cumsum([0, *sizes])

    def make(number: int) -> Tensor:
        turn, part = divmod(number, len(sizes))
        rows = stream(3, turn).normal(size=(12, 4)).astype(np.float32)
        return torch.from_numpy(rows[edges[part] : edges[part + 1]])

    def step(batch: Tensor) -> Outcome:
        loss = (model(batch) - batch.roll(1, 1)).square().mean()
        return Outcome(loss=loss, weight=float(len(batch)))

    # AdamW alone: Muon rounds to bfloat16, which hides a wrong mean.
    optimizer = OptimizerConfig(steps=4, warmup=2, learning_rate=1e-2, muon=False)
    config = LoopConfig(folder=folder, optimizer=optimizer, accumulate=len(sizes), log_every=1)
    lines: list[Report] = []
    train(model, Steps(make=make), step, config, tell=lines.append)
    return list(model.parameters()), lines


@settings(max_examples=8, deadline=None)
@given(st.sets(st.integers(1, 11), max_size=4))
def test_any_cutting_of_a_step_into_batches_learns_the_same(cuts: set[int]) -> None:
    sizes = np.diff([0, *sorted(cuts), 12]).tolist()
    with pytest.MonkeyPatch.context() as patch, TemporaryDirectory() as home:
        patch.setattr(os, "fsync", lambda handle: None)
        want, told = learned(Path(home) / "whole", [12])
        got, found = learned(Path(home) / "cut", sizes)
    for key in ("loss", "gradient_norm"):
        close(key, got=[r[key] for r in found], want=[r[key] for r in told], tol=1e-4)
    for a, b in zip(got, want, strict=True):
        close("weights", got=a, want=b, tol=TOL.training.f32)
