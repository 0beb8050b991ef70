"""Who learns at which rate: parameter groups, the optimisers over them, and the schedule."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from enum import StrEnum

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import AdamW, Optimizer

from timeviper.training import foreach
from timeviper.training.muon import Muon
from timeviper.training.sharding import own_part


class Schedule(StrEnum):
    """How the rate falls."""

    LINEAR = "linear"
    COSINE = "cosine"


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Rates and decay.

    Args:
        learning_rate: highest rate of AdamW groups, and of Muon groups (matched by update RMS).
        transfer_factor: what transfer modules' rate is multiplied by (paper: 5).
        weight_decay: of matrices; never of norms, biases, gates, A_log, D, dt_bias, embeddings.
        warmup: steps of rising rate.
        schedule: how the rate falls to `final` of its highest: linearly after `hold` of the
            steps, or as a cosine from the end of the warm-up on.
        steps: steps of the whole run.
        clip: largest norm of the whole gradient.
        muon: orthogonalised momentum for the matrices inside the layers.
    """

    learning_rate: float = 1.5e-3
    transfer_factor: float = 1.0
    weight_decay: float = 0.05
    warmup: int = 100
    schedule: Schedule = Schedule.LINEAR
    steps: int = 1000
    hold: float = 0.5
    final: float = 0.02
    clip: float = 1.0
    muon: bool = True


def build_optimizers(model: nn.Module, config: OptimizerConfig) -> list[Optimizer]:
    """Optimisers over the parameters of `model` that require gradients."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [(n, p) for n, p in named if config.muon and _is_inner_matrix(n, p)]
    taken = {n for n, _ in matrices}
    rest = [(n, p) for n, p in named if n not in taken]
    optimizers: list[Optimizer] = []
    if rest:
        optimizers.append(_adamw(rest, config))
    if matrices:
        optimizers.append(_muon(matrices, config))
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["peak"] = group["lr"]
    return optimizers


def rate_factor(step: int, config: OptimizerConfig) -> float:
    """Share of the highest rate at a step: warm-up, then as the schedule says."""
    if step < config.warmup:
        return (step + 1) / config.warmup
    if config.schedule is Schedule.COSINE:
        done = min(1.0, (step - config.warmup) / max(1, config.steps - config.warmup))
        return config.final + (1 - config.final) * (1 + math.cos(math.pi * done)) / 2
    start = config.hold * config.steps
    if step <= start:
        return 1.0
    left = max(0.0, (config.steps - step) / max(1.0, config.steps - start))
    return config.final + (1 - config.final) * left


def set_rate(optimizers: Iterable[Optimizer], factor: float) -> None:
    """Scale every group's rate from its highest."""
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = group["peak"] * factor


def gradient_norm(parameters: Iterable[Tensor]) -> Float[Tensor, ""]:
    """Norm of all gradients together, also of sharded ones; parameters without one are left out."""
    grads = [p.grad for p in parameters if p.grad is not None]
    whole = [g for g in grads if not isinstance(g, DTensor)]
    sharded = [g for g in grads if isinstance(g, DTensor)]
    norm = torch.nn.utils.get_total_norm(whole)
    if not sharded:
        return norm
    other = torch.nn.utils.get_total_norm(sharded)
    other = other.full_tensor() if isinstance(other, DTensor) else other
    return torch.hypot(norm.to(other), other) if whole else other


def clip_gradients(parameters: Iterable[Tensor], norm: Float[Tensor, ""], *, limit: float) -> None:
    """Scale gradients in place so that their `norm` becomes at most `limit`."""
    share = (limit / (norm + 1e-6)).clamp(max=1.0)
    foreach.scale([own_part(p.grad) for p in parameters if p.grad is not None], share)


def _is_inner_matrix(name: str, parameter: Tensor) -> bool:
    plain = parameter.ndim == 2 and "conv1d" not in name
    return plain and not any(part in name for part in ("embed", "lm_head", "position"))


def _decays(name: str, parameter: Tensor) -> bool:
    return parameter.ndim >= 2 and not any(part in name for part in ("embed", "position", "conv1d"))


def _adamw(named: Sequence[tuple[str, Tensor]], config: OptimizerConfig) -> AdamW:
    groups = [
        {
            "params": [p for n, p in named if _kind(n, p) == kind],
            "weight_decay": config.weight_decay if kind[0] else 0.0,
            "lr": config.learning_rate * (config.transfer_factor if kind[1] else 1.0),
        }
        for kind in sorted({_kind(n, p) for n, p in named}, reverse=True)
    ]
    return AdamW(
        groups,
        lr=config.learning_rate,
        betas=(0.9, 0.95),
        fused=named[0][1].is_cuda,
    )


def _muon(named: Sequence[tuple[str, Tensor]], config: OptimizerConfig) -> Muon:
    groups = [
        {
            "params": [p for n, p in named if _moves(n) == moves],
            "lr": config.learning_rate * (config.transfer_factor if moves else 1.0),
        }
        for moves in (True, False)
    ]
    return Muon(
        [g for g in groups if g["params"]],
        lr=config.learning_rate,
        weight_decay=config.weight_decay,
    )


def _moves(name: str) -> bool:
    return "transfers." in name


def _kind(name: str, parameter: Tensor) -> tuple[bool, bool, bool]:
    """Whether it decays, moves at its own rate, is sharded; torch updates only one kind at once."""
    return _decays(name, parameter), _moves(name), isinstance(parameter, DTensor)
