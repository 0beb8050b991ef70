"""Muon by shapes is the Muon of torch, matrix by matrix."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn

from tests.tolerances import TOL, close
from timeviper.core.errors import ConfigError
from timeviper.training.muon import Muon, orthogonal

SHAPES = [(8, 8), (6, 12), (12, 6), (6, 12), (8, 8), (6, 12)]


def matrices(*, seed: int = 0) -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(seed)
    return [nn.Parameter(torch.randn(shape, generator=generator)) for shape in SHAPES]


def give_gradients(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(100 + step)
    for parameter in parameters:
        parameter.grad = torch.randn(parameter.shape, generator=generator)


def test_steps_are_those_of_torch() -> None:
    ours, theirs = matrices(), matrices()
    fast = Muon(ours, lr=0.02, weight_decay=0.05)
    slow = torch.optim.Muon(theirs, lr=0.02, weight_decay=0.05, adjust_lr_fn="match_rms_adamw")
    for step in range(5):
        give_gradients(ours, step)
        give_gradients(theirs, step)
        fast.step()
        slow.step()
    for before, a, b in zip(matrices(), ours, theirs, strict=True):
        # What was added, not the weights: an update that is missing must not hide in them.
        close("update", got=a - before, want=b - before, tol=TOL.training.bf16)
        close("moment", got=fast.state[a]["momentum_buffer"],
              want=slow.state[b]["momentum_buffer"], tol=TOL.training.f32)  # fmt: skip


def test_groups_have_their_own_rates_and_idle_matrices_stay() -> None:
    slow, fast, idle = (nn.Parameter(torch.eye(6)) for _ in range(3))
    groups = [{"params": [slow, idle], "lr": 0.01}, {"params": [fast], "lr": 0.05}]
    optimizer = Muon(groups, lr=1.0, weight_decay=0.0)
    slow.grad = fast.grad = torch.ones(6, 6)
    optimizer.step()
    assert torch.equal(idle, torch.eye(6))
    close("five times as far", got=fast - torch.eye(6), want=5 * (slow - torch.eye(6)),
          tol=TOL.training.f32)  # fmt: skip


@pytest.mark.parametrize("shape", [(2, 5, 9), (3, 9, 5), (1, 7, 7)])
def test_singular_values_come_close_to_one(shape: tuple[int, int, int]) -> None:
    found = orthogonal(torch.randn(shape))
    assert found.shape == shape
    values = torch.linalg.svdvals(found.float())
    assert values.max() < 1.3
    # The smallest of a square matrix may start near zero and not arrive.
    assert values[:, : min(shape[1:]) - 2].min() > 0.6


def test_a_matrix_of_zeros_stays_zero() -> None:
    found: Tensor = orthogonal(torch.zeros(2, 4, 6))
    assert found.count_nonzero() == 0


def test_a_vector_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"shape \(3,\)"):
        Muon([nn.Parameter(torch.zeros(3))], lr=0.1)
