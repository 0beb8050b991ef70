"""Muon over matrices of one shape at a time: few large products instead of many small ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.optim import Optimizer

from timeviper.core.errors import ConfigError
from timeviper.training import foreach

# Quintic iteration of Keller Jordan's Muon; slope at zero chosen as large as possible.
_A, _B, _C = 3.4445, -4.7750, 2.0315
_ROUNDS = 5
_EPS = 1e-7


@final
class Muon(Optimizer):
    """Momentum, orthogonalised, with decoupled decay; the rate is matched to AdamW's update size.

    The update of `torch.optim.Muon(adjust_lr_fn="match_rms_adamw", nesterov=True)`, which loops
    over matrices; here those of one shape go through the iteration as one batch.

    Args:
        params: matrices, or groups of them with their own `lr` and `weight_decay`.
        lr: rate.
        weight_decay: share of the weights that goes at each step, times the rate.
        momentum: of the gradient's running mean.

    Raises:
        ConfigError: a parameter is no matrix.
    """

    def __init__(
        self,
        params: Iterable[Tensor] | Iterable[dict[str, Any]],
        *,
        lr: float,
        weight_decay: float = 0.1,
        momentum: float = 0.95,
    ) -> None:
        super().__init__(params, {"lr": lr, "weight_decay": weight_decay, "momentum": momentum})
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.ndim != 2:
                    raise ConfigError(
                        want="matrices for Muon",
                        got=f"a parameter of shape {tuple(parameter.shape)}",
                        do="give other parameters to AdamW",
                    )

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> None:  # pyright: ignore[reportIncompatibleMethodOverride]
        """Update every parameter that has a gradient; `closure` is not used."""
        for group in self.param_groups:
            used = [p for p in group["params"] if p.grad is not None]
            if used:
                self._update(used, group)

    def _update(self, used: Sequence[Tensor], group: dict[str, Any]) -> None:
        rate, momentum = group["lr"], group["momentum"]
        grads = [p.grad for p in used if p.grad is not None]
        buffers = [self._buffer(p) for p in used]
        foreach.move(buffers, grads, 1 - momentum)
        ahead = foreach.between(grads, buffers, momentum)
        foreach.scale(used, 1 - rate * group["weight_decay"])
        for shape, places in _by_shape(used).items():
            turned = orthogonal(torch.stack([ahead[place] for place in places]))
            matched = 0.2 * math.sqrt(max(shape))
            steps = turned.to(used[places[0]].dtype).unbind()
            foreach.add([used[place] for place in places], steps, times=-rate * matched)

    def _buffer(self, parameter: Tensor) -> Tensor:
        state = self.state[parameter]
        if "momentum_buffer" not in state:
            state["momentum_buffer"] = torch.zeros_like(parameter)
        return state["momentum_buffer"]


def orthogonal(matrices: Float[Tensor, "matrix row column"]) -> Float[Tensor, "matrix row column"]:
    """Nearly the closest matrices with orthonormal rows or columns, in bfloat16.

    Args:
        matrices: of one shape; each is scaled to norm 1 first.

    Returns:
        Matrices with singular values of about 0.7 to 1.2 (Newton-Schulz, five rounds).
    """
    tall = matrices.shape[1] > matrices.shape[2]
    x = (matrices.mT if tall else matrices).bfloat16()
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=_EPS)
    for _ in range(_ROUNDS):
        gram = x @ x.mT
        x = torch.baddbmm(x, torch.baddbmm(gram, gram, gram, beta=_B, alpha=_C), x, beta=_A)
    return x.mT if tall else x


def _by_shape(parameters: Sequence[Tensor]) -> dict[tuple[int, int], list[int]]:
    found: dict[tuple[int, int], list[int]] = {}
    for place, parameter in enumerate(parameters):
        found.setdefault((parameter.shape[0], parameter.shape[1]), []).append(place)
    return found
