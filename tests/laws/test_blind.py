"""Law: whoever does not see the video answers at chance, so the questions give nothing away."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import torch
import torch.nn.functional as F

from timeviper.core.layout import SpanKind
from timeviper.core.seeding import stream
from timeviper.evaluation.metrics import wilson
from timeviper.inference.engine import Engine
from timeviper.model.tokens import Tokens
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.synth.questions import Asking, Question, Task, ask, chance
from timeviper.synth.world import sample_world

# Neither trained on nor measured with.
SEED, COUNT = 771, 60
# 99 %: the law holds for every model that is trained, and 1 in 20 would be too many to fail.
WIDE = 2.576
TASKS = (Task.FIRST, Task.ABSENT)


@pytest.fixture(scope="module")
def engine() -> Engine:
    """The model that ships."""
    return Engine.load("tiny", device="cpu", threads=1)


def questions(task: Task) -> list[Question]:
    found: list[Question] = []
    index = 0
    while len(found) < COUNT:
        rng = stream(SEED, task, index)
        world = sample_world(SEED, index, int(rng.integers(64, 512))).world(0)
        question = ask(world, task, rng, Asking(missing=0.0))
        found += [question] if question is not None else []
        index += 1
    return found


def talk(question: Question) -> list[dict[str, str]]:
    return [{"role": "user", "content": question.question}]


@torch.no_grad()
def preferred(engine: Engine, asked: Sequence[Question]) -> list[str]:
    """The option of each question that the model finds likeliest a word, without a video."""
    rows: list[PromptTokens] = []
    for question in asked:
        plan = engine.processor.plan_question(question.question, video=None)
        rows += [
            PromptTokens.join([plan.prefix, plan.suffix(), engine.processor.answer_tokens(option)])
            for option in question.options
        ]
    lengths = tuple(len(row) for row in rows)
    packed = PromptTokens.join(rows)
    ids, decoder = torch.from_numpy(packed.ids), engine.model.decoder
    # Without a video nothing is dropped: what comes out is what went in.
    out, _ = decoder.run(Tokens(decoder.embed(ids), packed.kinds, lengths))
    places = torch.from_numpy(np.flatnonzero(packed.kinds == SpanKind.ANSWER.code))
    losses = F.cross_entropy(decoder.logits(out.hidden[places - 1]), ids[places], reduction="none")
    owner = torch.arange(len(rows)).repeat_interleave(torch.tensor(lengths))[places]
    mean = torch.zeros(len(rows)).index_add(0, owner, losses) / torch.bincount(owner)
    best = mean.reshape(len(asked), -1).argmin(1).tolist()
    return [question.options[place] for question, place in zip(asked, best, strict=True)]


def bounds(right: Sequence[bool]) -> tuple[float, float]:
    return wilson(sum(right), len(right), z=WIDE)


@pytest.mark.parametrize("task", TASKS)
def test_choosing_among_the_options_blindly_is_chance(engine: Engine, task: Task) -> None:
    asked = questions(task)
    chosen = preferred(engine, asked)
    right = [option == question.answer for option, question in zip(chosen, asked, strict=True)]
    low, high = bounds(right)
    assert low <= chance(task) <= high


@pytest.mark.parametrize("task", TASKS)
def test_what_is_answered_blindly_is_never_better_than_chance(engine: Engine, task: Task) -> None:
    # It may be worse: a model that was never shown nothing may name what is no option.
    asked = questions(task)
    answers = engine.generate([talk(question) for question in asked])
    right = [a.text == q.answer for a, q in zip(answers, asked, strict=True)]
    assert bounds(right)[0] <= chance(task)


@pytest.mark.parametrize("task", TASKS)
def test_the_law_can_see_a_leak(task: Task) -> None:
    asked = questions(task)
    assert bounds([True for _ in asked])[0] > chance(task)
    # No option is the right one by its place in the list or in the words.
    low, high = bounds([q.options[0] == q.answer for q in asked])
    assert low <= 0.5 <= high
