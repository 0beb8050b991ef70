"""A run that is stopped and resumed is the run that was never stopped, bit for bit."""

import itertools
import json
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from timeviper.core.errors import ConfigError
from timeviper.core.seeding import stream
from timeviper.training.checkpoint import load_weights, whole_steps
from timeviper.training.loop import LoopConfig, Outcome, Report, train
from timeviper.training.optimizer import (
    OptimizerConfig,
    build_optimizers,
    rate_factor,
)
from timeviper.training.source import Steps

CONFIG = OptimizerConfig(steps=12, warmup=3, learning_rate=1e-2)


def make(step: int) -> Tensor:
    return torch.from_numpy(stream(7, step).normal(size=(4, 6)).astype(np.float32))


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 8), nn.GELU(), nn.Linear(8, 6))


def run(folder: Path, model: nn.Module, *, stop_at: float | None = None) -> list[Report]:
    lines: list[Report] = []

    def step(batch: Tensor):
        loss = (model(batch) - batch).square().mean()
        return Outcome(loss=loss, tokens=len(batch), report=lambda: {"extra": 1.0})

    config = LoopConfig(folder=folder, optimizer=CONFIG, log_every=1, stop_at=stop_at)
    train(model, Steps(make=make), step, config, tell=lines.append)
    return lines


def test_stopped_and_resumed_equals_uninterrupted(tmp_path: Path) -> None:
    whole_model, cut_model = build(), build()
    whole = run(tmp_path / "whole", whole_model)
    lines: list[Report] = []
    for _ in range(CONFIG.steps):
        # A limit in the past stops the run after one step, with a fresh model each time.
        cut_model = build()
        lines += run(tmp_path / "cut", cut_model, stop_at=time.monotonic() - 1)
    assert [line["loss"] for line in lines] == [line["loss"] for line in whole]
    for a, b in zip(whole_model.parameters(), cut_model.parameters(), strict=True):
        assert torch.equal(a, b)


def test_a_source_that_ends_ends_the_run_with_what_it_gave(tmp_path: Path) -> None:
    model = build()
    config = LoopConfig(folder=tmp_path / "run", optimizer=CONFIG, accumulate=2, log_every=100)

    def step(batch: Tensor) -> Outcome:
        return Outcome(loss=(model(batch) - batch).square().mean())

    # Seven batches make three steps of two; the one left over is not learned from.
    assert train(model, Steps(make=make, total=7), step, config, tell=lambda line: None) == 3
    fresh = build()
    assert load_weights(tmp_path / "run", fresh) == 3
    for a, b in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)


def test_weights_gone_bad_unseen_are_not_saved(tmp_path: Path) -> None:
    model = build()
    config = LoopConfig(folder=tmp_path / "run", optimizer=CONFIG, log_every=100)

    def step(batch: Tensor) -> Outcome:
        if torch.equal(batch, make(2)):
            with torch.no_grad():
                model[0].bias.fill_(torch.nan)
        return Outcome(loss=(model(batch) - batch).square().mean())

    with pytest.raises(FloatingPointError, match=r"after step 3: 0\.weight"):
        train(model, Steps(make=make, total=3), step, config, tell=lambda line: None)
    assert whole_steps(tmp_path / "run") == []


@pytest.mark.parametrize("field", ["accumulate", "log_every", "keep"])
def test_counts_of_nothing_are_refused(field: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="at least 1"):
        LoopConfig(folder=tmp_path, optimizer=CONFIG, **{field: 0})


def test_the_mean_of_weights_is_kept_beside_them(tmp_path: Path) -> None:
    def one(folder: Path, **fields) -> nn.Module:
        model = build()
        config = LoopConfig(folder=folder, optimizer=CONFIG, average=0.9, **fields)
        loss = lambda batch: Outcome(loss=(model(batch) - batch).square().mean())  # noqa: E731
        while train(model, Steps(make=make), loss, config, tell=lambda _: None) < CONFIG.steps:
            model.load_state_dict(build().state_dict())
        mean = build()
        assert load_weights(folder, mean, mean=True) == CONFIG.steps
        return mean

    whole = one(tmp_path / "whole")
    cut = one(tmp_path / "cut", stop_at=time.monotonic() - 1)
    last = build()
    load_weights(tmp_path / "whole", last)
    for a, b, c in zip(whole.parameters(), cut.parameters(), last.parameters(), strict=True):
        assert torch.equal(a, b)
        assert not torch.equal(a, c)


def test_log_is_kept_as_json_lines(tmp_path: Path) -> None:
    run(tmp_path / "run", build())
    rows = [json.loads(line) for line in (tmp_path / "run.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, CONFIG.steps + 1))
    assert {
        "gradient_norm",
        "data_wait_percent",
        "steps_per_second",
        "tokens_per_second",
        "extra",
    } <= set(rows[0])


def test_rates_rise_hold_and_fall() -> None:
    config = OptimizerConfig(steps=100, warmup=10, hold=0.5, final=0.1)
    factors = [rate_factor(step, config) for step in range(100)]
    assert factors[0] == pytest.approx(0.1)
    assert factors[9:51] == [1.0] * 42
    assert all(a > b for a, b in itertools.pairwise(factors[50:]))
    assert rate_factor(100, config) == pytest.approx(0.1)


def test_every_parameter_has_one_group_and_norms_never_decay() -> None:
    model = nn.ModuleDict({"layer": nn.Linear(4, 4), "embed": nn.Embedding(5, 4)})
    optimizers = build_optimizers(model, CONFIG)
    groups = [g for o in optimizers for g in o.param_groups]
    placed = [p for g in groups for p in g["params"]]
    assert sorted(map(id, placed)) == sorted(map(id, model.parameters()))
    free = {id(p) for g in groups if g["weight_decay"] == 0 for p in g["params"]}
    assert {id(model["layer"].bias), id(model["embed"].weight)} == free


WORDS = {
    "loss": r"step 6: in the backward pass, first at the gradient of 2\.bias",
    "gradient": r"step 6: in the backward pass, first at the gradient of 2\.bias",
}


@pytest.mark.parametrize("bad", ["loss", "gradient"])
def test_a_number_gone_bad_leaves_the_last_checkpoint(bad: str, tmp_path: Path) -> None:
    folder, model = tmp_path / "run", build()

    def step(batch: Tensor):
        loss = (model(batch) - batch).square().mean()
        if torch.equal(batch, make(5)):
            # Finite, but its slope at zero is not.
            loss = loss * torch.nan if bad == "loss" else loss + (loss - loss.detach()).sqrt()
        return Outcome(loss=loss)

    # No line is due: what is about to be saved is looked at all the same.
    config = LoopConfig(folder=folder, optimizer=CONFIG, log_every=1000, save_every_seconds=0.0)
    with pytest.raises(FloatingPointError, match=WORDS[bad]):
        train(model, Steps(make=make), step, config, tell=lambda line: None)
    fresh = build()
    assert load_weights(folder, fresh) == 5
    assert all(p.isfinite().all() for p in fresh.parameters())
    # Refused before it was applied: the model in memory is the one on disk.
    for a, b in zip(model.parameters(), fresh.parameters(), strict=True):
        assert torch.equal(a, b)
