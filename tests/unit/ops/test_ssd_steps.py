"""Step sizes: bias, softplus and limits in their order."""

from __future__ import annotations

import math

import pytest
import torch

from tests.tolerances import close
from timeviper.ops.ssd_steps import step_sizes

INF = math.inf


def test_bias_comes_before_softplus() -> None:
    dt, bias = torch.tensor([[0.5, -3.0]]).double(), torch.tensor([1.0, -2.0]).double()
    steps = step_sizes(dt, bias, softplus=True, limit=(0.0, INF))
    want = [[math.log1p(math.exp(1.5)), math.log1p(math.exp(-5.0))]]
    close("steps", got=steps, want=want, tol=1e-12)


@pytest.mark.parametrize(
    ("softplus", "limit", "want"),
    [
        (False, (0.0, INF), [0.0, 0.2, 3.0]),
        (False, (0.5, 2.0), [0.5, 0.5, 2.0]),
        (True, (0.5, 2.0), [0.5, 0.798138869, 2.0]),
        (True, (0.0, 1.0), [0.126928, 0.798138869, 1.0]),
    ],
)
def test_limits_come_last(softplus: bool, limit: tuple[float, float], want: list[float]) -> None:
    dt = torch.tensor([[-2.0, 0.2, 3.0]]).double()
    steps = step_sizes(dt, None, softplus=softplus, limit=limit)
    close("steps", got=steps[0], want=want, tol=1e-6)


def test_a_step_at_its_limit_has_no_gradient() -> None:
    dt = torch.tensor([[0.2, 1.0, 3.0]], requires_grad=True)
    step_sizes(dt, None, softplus=False, limit=(0.5, 2.0)).sum().backward()
    assert dt.grad is not None
    assert dt.grad.tolist() == [[0.0, 1.0, 0.0]]


def test_large_steps_do_not_overflow() -> None:
    steps = step_sizes(torch.tensor([[500.0]]), None, softplus=True, limit=(0.0, INF))
    assert steps.item() == 500.0
