"""Norms against their formula: float32 inside, gate before norm, groups apart."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from tests.tolerances import TOL, close
from timeviper.core.errors import ConfigError
from timeviper.ops.norm import gated_rms_norm, rms_norm


def _formula(x: Tensor, eps: float) -> Tensor:
    x = x.double()
    return x / torch.sqrt((x * x).mean(-1, keepdim=True) + eps)


@pytest.mark.parametrize(
    ("dtype", "tol"), [(torch.float32, TOL.norm.f32), (torch.bfloat16, TOL.norm.bf16)]
)
def test_rms_norm_is_its_formula(dtype: torch.dtype, tol: float) -> None:
    x, weight = torch.randn(5, 3, 24).to(dtype), torch.rand(24)
    y = rms_norm(x, weight, 1e-5)
    assert y.dtype == dtype
    close("rms_norm", got=y, want=_formula(x, 1e-5) * weight.double(), tol=tol)


def test_squares_of_half_precision_do_not_overflow() -> None:
    x = torch.full((1, 4), 60000.0, dtype=torch.float16)
    close("norm", got=rms_norm(x, torch.ones(4), 1e-5), want=torch.ones(1, 4), tol=1e-3)


def test_eps_keeps_a_zero_vector_at_zero() -> None:
    y = rms_norm(torch.zeros(2, 8), torch.ones(8), 1e-6)
    close("zero", got=y, want=torch.zeros(2, 8), tol=0.0)


def test_float64_stays_float64() -> None:
    x = torch.randn(3, 8, dtype=torch.float64)
    weight = torch.rand(8, dtype=torch.float64)
    want = _formula(x, 1e-5) * weight
    close("norm", got=rms_norm(x, weight, 1e-5), want=want, tol=TOL.norm.f64)


@pytest.mark.parametrize("group_size", [4, 8, 24])
def test_gated_norm_gates_first_and_norms_each_group(group_size: int) -> None:
    x, gate, weight = torch.randn(7, 24), torch.randn(7, 24), torch.rand(24)
    gated = x.double() * F.silu(gate.double())
    groups = [_formula(part, 1e-5) for part in gated.split(group_size, dim=-1)]
    want = torch.cat(groups, -1) * weight.double()
    y = gated_rms_norm(x, gate, weight, eps=1e-5, group_size=group_size)
    close("gated", got=y, want=want, tol=TOL.norm.f32)


def test_a_group_does_not_see_its_neighbours() -> None:
    x, gate, weight = torch.randn(2, 8), torch.randn(2, 8), torch.ones(8)
    before = gated_rms_norm(x, gate, weight, eps=1e-5, group_size=4)
    x[:, 4:] *= 100
    after = gated_rms_norm(x, gate, weight, eps=1e-5, group_size=4)
    close("first group", got=after[:, :4], want=before[:, :4], tol=0.0)


def test_gradients_of_both_norms() -> None:
    x, gate = (torch.randn(2, 6, dtype=torch.float64, requires_grad=True) for _ in range(2))
    weight = torch.rand(6, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda *a: rms_norm(*a, 1e-5), (x, weight))
    assert torch.autograd.gradcheck(
        lambda *a: gated_rms_norm(*a, eps=1e-5, group_size=3), (x, gate, weight)
    )


@pytest.mark.parametrize("group_size", [0, -1, 5, 48])
def test_a_group_size_that_does_not_divide_is_refused(group_size: int) -> None:
    x = torch.randn(2, 24)
    with pytest.raises(ConfigError, match="divides the width 24"):
        gated_rms_norm(x, x, torch.ones(24), eps=1e-5, group_size=group_size)
