"""Which parameter is moved by which optimiser at which rate, and what stops a run."""

from __future__ import annotations

import itertools

import pytest
import torch
from torch import nn
from torch.optim import AdamW

from tests.tolerances import TOL, close
from tests.unit.model.toys import PLANS, toy
from timeviper.training.muon import Muon
from timeviper.training.optimizer import (
    OptimizerConfig,
    Schedule,
    build_optimizers,
    clip_gradients,
    gradient_norm,
    rate_factor,
    set_rate,
)

CONFIG = OptimizerConfig(steps=100, learning_rate=1e-2, transfer_factor=5.0)


def rates(model: nn.Module, config: OptimizerConfig) -> dict[str, tuple[str, float, float]]:
    """Optimiser, rate and decay of each parameter."""
    names = {id(p): n for n, p in model.named_parameters()}
    return {
        names[id(p)]: (type(o).__name__, g["lr"], g["weight_decay"])
        for o in build_optimizers(model, config)
        for g in o.param_groups
        for p in g["params"]
    }


def test_transfers_learn_faster_and_inner_matrices_by_muon() -> None:
    found = rates(toy("hybrid", PLANS["paper"], dtype=torch.float32), CONFIG)
    moved = {n: rate for n, (_, rate, _) in found.items() if "transfers." in n}
    assert moved
    assert set(moved.values()) == {0.05}
    assert {rate for n, (_, rate, _) in found.items() if n not in moved} == {0.01}
    by_muon = {n for n, (kind, _, _) in found.items() if kind == Muon.__name__}
    assert any("q_proj" in n for n in by_muon)
    assert not [n for n in by_muon if "embed" in n or "lm_head" in n or "norm" in n]
    for name, (kind, _, decay) in found.items():
        small = any(w in name for w in ("norm", "bias", "alpha", "A_log", ".D", "embed", "conv1d"))
        assert (decay == 0.0) == small, name
        assert not (small and kind == Muon.__name__), name


def test_without_muon_all_parameters_are_of_adamw() -> None:
    model = toy("hybrid", PLANS["paper"], dtype=torch.float32)
    config = OptimizerConfig(steps=10, muon=False)
    found = rates(model, config)
    assert {kind for kind, _, _ in found.values()} == {AdamW.__name__}
    assert len(found) == len(list(model.parameters()))


def test_frozen_parameters_have_no_optimiser() -> None:
    model = nn.ModuleDict({"a": nn.Linear(3, 3), "b": nn.Linear(3, 3)})
    model["a"].requires_grad_(requires_grad=False)
    assert set(rates(model, CONFIG)) == {"b.weight", "b.bias"}


def test_a_model_of_matrices_alone_needs_no_adamw() -> None:
    assert {kind for kind, _, _ in rates(nn.Linear(3, 3, bias=False), CONFIG).values()} == {"Muon"}


def test_the_rate_scales_every_group_from_its_highest() -> None:
    optimizers = build_optimizers(toy("hybrid", PLANS["paper"], dtype=torch.float32), CONFIG)
    for factor in (0.1, 1.0):
        set_rate(optimizers, factor)
        found = {g["lr"] for o in optimizers for g in o.param_groups}
        assert sorted(found) == pytest.approx([0.01 * factor, 0.05 * factor])


def test_the_rate_never_leaves_its_bounds() -> None:
    config = OptimizerConfig(steps=50, warmup=5, hold=0.0, final=0.02)
    factors = [rate_factor(step, config) for step in range(60)]
    assert max(factors) <= 1.0
    assert min(factors[5:]) == pytest.approx(0.02)


@pytest.mark.parametrize("limit", [0.5, 1e6])
def test_clipping_is_what_torch_does(limit: float) -> None:
    models = [nn.Linear(4, 3), nn.Linear(4, 3)]
    models[1].load_state_dict(models[0].state_dict())
    x = torch.randn(8, 4)
    for model in models:
        torch.autograd.backward(model(x).square().sum())
    norm = gradient_norm(models[0].parameters())
    clip_gradients(models[0].parameters(), norm, limit=limit)
    close("norm", got=norm, want=nn.utils.clip_grad_norm_(models[1].parameters(), limit), tol=0.0)
    for a, b in zip(models[0].parameters(), models[1].parameters(), strict=True):
        close("gradient", got=a.grad, want=b.grad, tol=0.0)
    assert gradient_norm(models[0].parameters()) <= max(limit, 0.0) * 1.001 or limit > norm


def test_parameters_without_a_gradient_are_left_out() -> None:
    model = nn.ModuleDict({"used": nn.Linear(3, 1), "idle": nn.Linear(3, 1)})
    torch.autograd.backward(model["used"](torch.ones(1, 3)).sum())
    close("norm", got=gradient_norm(model.parameters()), want=2.0, tol=TOL.training.f32)


def test_a_cosine_falls_from_the_warm_up_to_the_end() -> None:
    config = OptimizerConfig(steps=110, warmup=10, schedule=Schedule.COSINE, final=0.1)
    factors = [rate_factor(step, config) for step in range(111)]
    assert factors[9:11] == [1.0, 1.0]
    assert factors[60] == pytest.approx(0.55)
    assert factors[110] == pytest.approx(0.1)
    assert all(a > b for a, b in itertools.pairwise(factors[10:]))
