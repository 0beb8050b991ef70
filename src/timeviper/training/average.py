"""A running mean of the weights, which often answers better than the last ones."""

from __future__ import annotations

from collections.abc import Iterable

from torch import Tensor, nn

from timeviper.training import foreach
from timeviper.training.sharding import own_part


class Average:
    """Exponential mean of the parameters that learn, in their own format.

    Args:
        model: followed.
        decay: share that stays at each step once warm; early steps keep less, so that the first
            weights are forgotten.
    """

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.tensors: dict[str, Tensor] = {
            name: p.detach().clone() for name, p in model.named_parameters() if p.requires_grad
        }

    def update(self, parameters: Iterable[Tensor], *, step: int) -> None:
        """Take in the weights after a step.

        Args:
            parameters: that learn, in the model's order.
            step: its number, from 1.
        """
        decay = min(self.decay, step / (step + 9))
        targets = [own_part(p.detach()) for p in parameters]
        foreach.move([own_part(t) for t in self.tensors.values()], targets, 1 - decay)
