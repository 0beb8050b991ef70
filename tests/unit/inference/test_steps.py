"""Answers by buffers that stay: token for token as by the usual call, greedy and drawn."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.tolerances import TOL, close
from tests.toy_engine import toy_config, toy_model
from timeviper.core.errors import TimeviperError
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.inference.graphs import StepRunner
from timeviper.inference.opened import OpenAnswer
from timeviper.inference.sampling import Chooser, TokenPolicy
from timeviper.inference.steps import GraphSteps, Runners, Steps, UsualSteps, next_logits
from timeviper.model.decoder import last_of_each
from timeviper.model.slots import ScanSlots
from timeviper.model.state import DecoderState
from timeviper.model.tokens import Tokens

MODEL = toy_model(toy_config("transv"))


@torch.inference_mode()
def _video(seed: int, vision: int = 6, model=MODEL) -> DecoderState:
    layout = TokenLayout.of((SpanKind.TEXT, 2), (SpanKind.VISION, vision))
    weight = model.decoder.embed_tokens.weight
    generator = torch.Generator().manual_seed(seed)
    x = torch.randn(layout.total, 24, generator=generator, dtype=torch.float64).to(weight)
    return model.decoder.run(Tokens.of(x, layout), more=True)[1]


@torch.inference_mode()
def _opened(state: DecoderState, questions: int = 1, model=MODEL) -> OpenAnswer:
    layout = TokenLayout.pack(
        [TokenLayout.of((SpanKind.INSTRUCTION, 3 + n)) for n in range(questions)]
    )
    weight = model.decoder.embed_tokens.weight
    ids = (torch.arange(layout.total) * 7 % 260).to(weight.device)
    tokens = Tokens.of(model.decoder.embed(ids), layout)
    out, after = model.decoder.run(tokens, state.fork(questions))
    return OpenAnswer(logits=model.decoder.logits(last_of_each(out)), state=after)


def _prompts(model=MODEL) -> list[OpenAnswer]:
    """Two questions on one video, and one on another."""
    video = _video(1, model=model)
    return [_opened(video, 2, model), _opened(_video(2, 9, model), 1, model)]


def _write(steps: Steps, count: int, most: int, temperature: float) -> list[list[int]]:
    """Answers; the middle one ends after four tokens."""
    choosers = [Chooser(TokenPolicy(temperature=temperature, seed=n)) for n in range(count)]
    answers: list[list[int]] = [[] for _ in range(count)]
    alive = list(range(count))
    for number in range(most):
        tokens = steps.choose([choosers[row] for row in alive], last=number + 1 == most)
        for row, token in zip(alive, tokens, strict=True):
            answers[row].append(token)
        going = [p for p, row in enumerate(alive) if row != 1 or len(answers[row]) < 4]
        if len(going) < len(alive):
            alive = [alive[p] for p in going]
            steps.keep(going)
        if number + 1 < most:
            steps.advance([tokens[p] for p in going])
    return answers


def _states(prompts: list[OpenAnswer]) -> list[DecoderState]:
    return [DecoderState(p.state.memories, (None,) * len(p.state.pending)) for p in prompts]


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_answers_are_those_of_the_usual_call(temperature: float) -> None:
    prompts = _prompts()
    runner = StepRunner.of(MODEL.decoder, _states(prompts), steps=9)
    got = _write(GraphSteps(runner, prompts), 3, 9, temperature)
    want = _write(UsualSteps(MODEL, prompts), 3, 9, temperature)
    assert got == want
    assert [len(answer) for answer in got] == [9, 4, 9]
    # A second time: nothing of the prompts was used up.
    runner.load(_states(prompts))
    assert _write(GraphSteps(runner, prompts), 3, 9, temperature) == want


def test_scores_are_those_of_the_usual_call() -> None:
    prompts = _prompts()
    runner = StepRunner.of(MODEL.decoder, _states(prompts), steps=5)
    alone = [s.select([n]) for s in _states(prompts) for n in range(s.sequences or 0)]
    with pytest.raises(RuntimeError, match="no step"):
        _ = runner.logits
    for step in range(5):
        ids = [20 + step, 30, 40 - step]
        runner.step(ids)
        with torch.inference_mode():
            want = [next_logits(MODEL, [i], s) for i, s in zip(ids, alone, strict=True)]
        logits = torch.cat([w for w, _ in want])
        close("scores", got=runner.logits, want=logits, tol=TOL.cuts.f64)
        assert runner.best.tolist() == logits.argmax(-1).tolist()
        alone = [s for _, s in want]


def test_without_tokens_a_step_goes_on_with_the_best() -> None:
    state = _states([_opened(_video(3))])
    one, other = (StepRunner.of(MODEL.decoder, state, steps=4) for _ in range(2))
    one.step([7])
    other.step([7])
    for _ in range(3):
        other.step(other.best.tolist())
        one.step()
        close("scores", got=one.logits, want=other.logits, tol=0.0)


@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_scores_that_are_no_numbers_are_an_error(temperature: float) -> None:
    prompt = _opened(_video(1))
    chooser = [Chooser(TokenPolicy(temperature=temperature))]
    runner = StepRunner.of(MODEL.decoder, _states([prompt]), steps=4)
    bad = replace(prompt, logits=torch.full_like(prompt.logits, torch.nan))
    with pytest.raises(TimeviperError, match="no layer's memory"):
        GraphSteps(runner, [bad]).choose(chooser, last=False)
    runner.load(_states([prompt]))
    steps = GraphSteps(runner, [prompt])
    layer = runner.slots.layers[3]
    assert isinstance(layer, ScanSlots)
    with torch.inference_mode():
        layer.ssm.fill_(torch.nan)
    steps.advance(steps.choose(chooser, last=False))
    with pytest.raises(TimeviperError, match="layer 3"):
        steps.choose(chooser, last=False)


def test_a_runner_is_kept_for_the_next_questions_on_any_video() -> None:
    video, runners = _video(1), Runners()
    prompt = _opened(video, 2)
    first = runners.runner(MODEL.decoder, [prompt], most=9)
    want = _write(GraphSteps(first, [prompt]), 2, 9, 0.0)
    again = runners.runner(MODEL.decoder, [prompt], most=5)
    assert again is first
    assert _write(GraphSteps(again, [prompt]), 2, 5, 0.0) == [answer[:5] for answer in want]
    # It points to the keys of another video, and back.
    other, fresh = _opened(_video(2), 2), Runners()
    alone = _write(GraphSteps(fresh.runner(MODEL.decoder, [other], most=5), [other]), 2, 5, 0.0)
    assert runners.runner(MODEL.decoder, [other], most=5) is first
    assert _write(GraphSteps(first, [other]), 2, 5, 0.0) == alone
    apart = [_opened(_video(2)), prompt]
    assert runners.runner(MODEL.decoder, apart, most=5) is not first
    kept = runners.runner(MODEL.decoder, [prompt], most=5)
    runners.clear()
    assert runners.runner(MODEL.decoder, [prompt], most=5) is not kept


def test_large_buffers_are_not_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    prompt, runners = _opened(_video(1)), Runners()
    monkeypatch.setattr("timeviper.inference.steps._KEPT_BYTES", 1000)
    first = runners.runner(MODEL.decoder, [prompt], most=9)
    assert first.nbytes > 1000
    assert runners.runner(MODEL.decoder, [prompt], most=9) is not first


def test_a_cpu_takes_the_usual_call() -> None:
    assert isinstance(Runners().steps(MODEL, [_opened(_video(1))], most=100), UsualSteps)


@pytest.mark.gpu
@pytest.mark.parametrize("temperature", [0.0, 0.9])
def test_captured_steps_are_the_usual_call(temperature: float) -> None:
    model = toy_model(toy_config("transv"), dtype=torch.float32).to("cuda")
    prompts = _prompts(model)
    steps = Runners().steps(model, prompts, most=9)
    assert isinstance(steps, GraphSteps)
    got = _write(steps, 3, 9, temperature)
    assert got == _write(UsualSteps(model, prompts), 3, 9, temperature)
