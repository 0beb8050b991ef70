"""Where a number first went bad: the layer, found by running the step again and listening."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from typing import Any, cast

import torch
from torch import Tensor, nn

from timeviper.core.errors import TimeviperError
from timeviper.training.sharding import own_part


class DivergedError(TimeviperError, FloatingPointError):
    """A run that met a number that is not finite."""

    def __init__(self, got: str) -> None:
        super().__init__(
            want="finite numbers",
            got=got,
            do="look at that layer's input, or lower the rate; the last checkpoint is good, and "
            "the same command goes on from it",
        )


def name_the_layer(model: nn.Module, rerun: Callable[[], object]) -> str:
    """Say in words where a value that is not finite came from.

    Args:
        model: whose gradients are still those of the bad step; its weights have not moved.
        rerun: runs the step's forward pass again.

    Returns:
        The weights, the module whose output went bad first, or the module where gradients did.
    """
    bad = bad_weights(model)
    if bad is not None:
        return f"the weights of {bad} were not finite before the step"
    with _listening(model) as heard, torch.no_grad():
        rerun()
    if heard:
        return f"first in the output of {heard[0]}"
    # Backwards the last module comes first, so the last bad one is where it began.
    grads = [(n, p.grad) for n, p in model.named_parameters() if p.grad is not None]
    late = [name for name, grad in grads if not _finite(own_part(grad))]
    if late:
        return f"in the backward pass, first at the gradient of {late[-1]}"
    return "not on this process"


def bad_weights(model: nn.Module) -> str | None:
    """Name of the first parameter that is not finite on this process."""
    named = model.named_parameters()
    return next((n for n, p in named if not _finite(own_part(p.detach()))), None)


@contextmanager
def _listening(model: nn.Module) -> Generator[list[str]]:
    """Names of modules whose outputs are not finite, inner ones first, in order of time."""
    heard: list[str] = []

    def listen(name: str) -> Callable[[nn.Module, Any, Any], None]:
        def hook(module: nn.Module, given: Any, output: Any) -> None:
            if not all(_finite(tensor) for tensor in _tensors(output)):
                heard.append(f"{name or 'the model'} ({type(module).__name__})")

        return hook

    hooks = [m.register_forward_hook(listen(n)) for n, m in model.named_modules()]
    try:
        yield heard
    finally:
        for hook in hooks:
            hook.remove()


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [own_part(value.detach())]
    if isinstance(value, (tuple, list)):
        parts = cast("tuple[Any, ...]", value)
        return [tensor for part in parts for tensor in _tensors(part)]
    return []


def _finite(tensor: Tensor) -> bool:
    return not tensor.is_floating_point() or bool(tensor.isfinite().all())
