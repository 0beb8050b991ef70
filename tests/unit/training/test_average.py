"""The running mean of weights: warm at once, forgetful of the first ones, beside the model."""

from __future__ import annotations

import torch
from torch import nn

from tests.tolerances import TOL, close
from timeviper.training.average import Average


def test_it_is_the_exponential_mean_with_a_warm_start() -> None:
    model = nn.Linear(2, 1)
    mean = Average(model, 0.9)
    want = model.weight.detach().clone()
    for step in range(1, 30):
        with torch.no_grad():
            model.weight.copy_(torch.full((1, 2), float(step)))
        mean.update(list(model.parameters()), step=step)
        decay = min(0.9, step / (step + 9))
        want = decay * want + (1 - decay) * step
    close("mean", got=mean.tensors["weight"], want=want, tol=TOL.training.f32)


def test_frozen_weights_are_not_followed_and_those_that_learn_not_touched() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    model[0].requires_grad_(False)
    mean = Average(model, 0.5)
    assert set(mean.tensors) == {"1.weight", "1.bias"}
    with torch.no_grad():
        model[1].bias.add_(1)
    before = model[1].bias.detach().clone()
    mean.update([p for p in model.parameters() if p.requires_grad], step=1)
    assert torch.equal(model[1].bias, before)
    assert not torch.equal(mean.tensors["1.bias"], before)
