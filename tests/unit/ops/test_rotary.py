"""Rotary positions against complex turns, and the conventions that checkpoints depend on."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from timeviper.core.errors import ConfigError
from timeviper.ops.rotary import rotary


def _turned(x: Tensor, positions: Tensor, base: float) -> Tensor:
    """Each pair (i, i + half) as one complex number times a unit number."""
    half = x.shape[-1] // 2
    numbers = torch.complex(x[..., :half].double(), x[..., half:].double())
    rates = base ** -(torch.arange(half, dtype=torch.float64) / half)
    angles = positions.double()[:, None] * rates
    numbers = numbers * torch.polar(torch.ones_like(angles), angles)[:, None]
    return torch.cat([numbers.real, numbers.imag], dim=-1)


@pytest.mark.parametrize(
    ("dtype", "tol"),
    [
        (torch.float64, TOL.rotary.f64),
        (torch.float32, TOL.rotary.f32),
        (torch.bfloat16, TOL.rotary.bf16),
    ],
)
def test_pairs_turn_like_complex_numbers(dtype: torch.dtype, tol: float) -> None:
    x, positions = torch.randn(9, 3, 16, dtype=torch.float64).to(dtype), torch.arange(9) + 3
    y = rotary(x, positions, base=10000.0)
    assert y.dtype == dtype
    close("rotary", got=y, want=_turned(x, positions, 10000.0), tol=tol)


def test_position_zero_is_left_alone() -> None:
    x = torch.randn(4, 2, 6)
    close("zero", got=rotary(x, torch.zeros(4).long(), base=1e6), want=x, tol=0.0)


def test_dot_products_depend_on_the_difference_only() -> None:
    q, k = torch.randn(1, 1, 32, dtype=torch.float64), torch.randn(1, 1, 32, dtype=torch.float64)

    def product(i: int, j: int) -> Tensor:
        at_i, at_j = torch.tensor([i]), torch.tensor([j])
        return (rotary(q, at_i, base=1e4) * rotary(k, at_j, base=1e4)).sum()

    close("difference", got=product(40, 33), want=product(7, 0), tol=TOL.rotary.f64)
    assert (product(40, 33) - product(40, 34)).abs() > 1e-3


def test_lengths_of_vectors_are_kept() -> None:
    x = torch.randn(50, 2, 8, dtype=torch.float64)
    y = rotary(x, torch.arange(50) * 1000, base=5e5)
    close("norms", got=y.norm(dim=-1), want=x.norm(dim=-1), tol=TOL.rotary.f64)


def test_gradients() -> None:
    x = torch.randn(3, 2, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a: rotary(a, torch.arange(3), base=100.0), (x,))


def test_an_odd_head_dim_is_refused() -> None:
    with pytest.raises(ConfigError, match="even head_dim"):
        rotary(torch.zeros(1, 1, 5), torch.zeros(1).long(), base=1e4)
