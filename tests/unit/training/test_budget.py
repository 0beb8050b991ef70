"""What a run will take, reckoned without a weight."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.toy_engine import toy_config, toy_model
from tests.unit.training.journey import write_run
from tests.unit.training.test_run import config_of
from timeviper.core.precision import Precision
from timeviper.model.presets import nano_9b_transv
from timeviper.training.budget import forecast
from timeviper.training.optimizer import build_optimizers
from timeviper.training.run import TrainConfig, prepare


@pytest.fixture
def config(tmp_path) -> TrainConfig:
    return config_of(write_run(tmp_path))


def held(config: TrainConfig, number: int) -> tuple[int, int, int]:
    """Bytes of weights, gradients and moments of a real model after a real step."""
    stage = config.stages[number]
    model = prepare(toy_model(toy_config("transv"), dtype=torch.float32), stage, config)
    optimizers = build_optimizers(model, stage.optimizer)
    learns = [p for p in model.parameters() if p.requires_grad]
    for parameter in learns:
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in optimizers:
        optimizer.step()
    moments = [
        value
        for optimizer in optimizers
        for state in optimizer.state.values()
        for name, value in state.items()
        if name != "step"
    ]
    sizes = ([p.data for p in model.parameters()], [p.grad for p in learns], moments)
    return tuple(sum(t.numel() * t.element_size() for t in tensors) for tensors in sizes)


@pytest.mark.parametrize("number", [0, 1])
@pytest.mark.parametrize("changes", [{}, {"compute": Precision.BFLOAT16}])
@pytest.mark.parametrize("muon", [False, True])
def test_the_state_is_what_a_real_step_holds(
    config: TrainConfig, number: int, changes: dict, muon: bool
) -> None:
    stages = tuple(replace(stage, muon=muon) for stage in config.stages)
    config = replace(config, stages=stages, **changes)
    found = forecast(toy_config("transv"), config.stages[number], config, ranks=1)
    want = held(config, number)
    assert (found.weight_bytes, found.gradient_bytes, found.moment_bytes) == want


def test_tokens_count_processes_and_packs(config: TrainConfig) -> None:
    stage = config.stages[1]
    found = forecast(toy_config("transv"), stage, config, ranks=4)
    assert found.tokens_per_step == 260 * 2 * 4
    assert found.tokens == found.tokens_per_step * stage.steps


def test_shards_and_running_again_take_less(config: TrainConfig) -> None:
    whole = forecast(nano_9b_transv(), config.stages[1], config, ranks=8)
    split = forecast(nano_9b_transv(), config.stages[1], replace(config, sharded=True), ranks=8)
    again = forecast(nano_9b_transv(), config.stages[1], replace(config, recompute=True), ranks=8)
    assert split.moment_bytes == whole.moment_bytes // 8
    assert split.total_bytes < whole.total_bytes / 3
    assert again.activation_bytes < whole.activation_bytes
    # Eight bytes of moments for each number that learns.
    assert whole.moment_bytes == 8 * whole.trained


def test_a_running_mean_takes_a_copy(config: TrainConfig) -> None:
    stage = config.stages[1]
    plain = forecast(toy_config("transv"), stage, config, ranks=1)
    mean = forecast(toy_config("transv"), replace(stage, average=0.9), config, ranks=1)
    assert mean.moment_bytes - plain.moment_bytes == 4 * plain.trained
