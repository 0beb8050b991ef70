"""A number gone bad is traced to the layer that made it."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from tests.unit.model.toys import PLANS, one
from tests.unit.training.toys import packed_inputs, toy_model
from timeviper.core.inputs import ModelInputs
from timeviper.training.diagnosis import bad_weights, name_the_layer
from timeviper.training.loop import LoopConfig, Outcome, train
from timeviper.training.objective import packed_loss
from timeviper.training.optimizer import OptimizerConfig
from timeviper.training.source import Steps


class Exploding(nn.Module):
    """Passes on what it gets, until told to explode, forwards or backwards."""

    def __init__(self) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(4))
        self.how = ""

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.bias
        if self.how == "forward":
            return x / 0
        # Finite, with a slope that is not.
        return x + (x - x.detach()).abs().sqrt() if self.how == "backward" else x


def chain() -> nn.Sequential:
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(4, 4), Exploding(), nn.Linear(4, 4), nn.Linear(4, 1))


def test_the_module_whose_output_goes_bad_first_is_named() -> None:
    model = chain()
    model[1].how = "forward"
    assert name_the_layer(model, lambda: model(torch.ones(2, 4))) == (
        "first in the output of 1 (Exploding)"
    )
    # Nothing listens any more.
    assert not any(module._forward_hooks for module in model.modules())


def test_the_module_whose_slope_goes_bad_is_named() -> None:
    model = chain()
    model[1].how = "backward"
    model(torch.ones(2, 4)).sum().backward()
    found = name_the_layer(model, lambda: model(torch.ones(2, 4)))
    assert found == "in the backward pass, first at the gradient of 1.bias"


def test_bad_weights_come_first() -> None:
    model = chain()
    assert bad_weights(model) is None
    with torch.no_grad():
        model[2].weight[0, 0] = torch.inf
    assert name_the_layer(model, lambda: None) == (
        "the weights of 2.weight were not finite before the step"
    )


def test_a_process_without_fault_says_so() -> None:
    assert name_the_layer(chain(), lambda: None) == "not on this process"


@pytest.mark.parametrize("layer", [0, 4])
def test_a_layer_of_the_model_is_named_and_nothing_is_saved(layer: int, tmp_path: Path) -> None:
    model = toy_model(PLANS["paper"])
    inputs = packed_inputs([one(2, [(1, 4)] * 3, 3, 4)])

    def step(number: int) -> Outcome:
        if number == 3:
            # Large weights are finite; what they make is not.
            model.decoder.layers[layer].mixer.get_submodule(
                "in_proj" if layer == 0 else "q_proj"
            ).weight.data.mul_(1e38)
        batch: ModelInputs = inputs
        return Outcome(loss=packed_loss(model, batch).loss)

    config = LoopConfig(
        folder=tmp_path / "run",
        optimizer=OptimizerConfig(steps=9, muon=False),
        log_every=100,
        check_every=1,
    )
    name = rf"at step 4: first in the output of decoder\.layers\.{layer}\.mixer"
    with pytest.raises(FloatingPointError, match=name):
        train(model, Steps(make=int), step, config, tell=lambda line: None)
    assert not (tmp_path / "run").exists()
