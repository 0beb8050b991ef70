"""Arithmetic on many tensors in one call each; torch keeps its names for it private."""

# pyright: reportPrivateUsage=false, reportPrivateImportUsage=false

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def scale(tensors: Sequence[Tensor], factor: float | Tensor) -> None:
    """Multiply each in place; a factor that is a tensor is not waited for."""
    if tensors and (isinstance(factor, Tensor) or factor != 1.0):
        torch._foreach_mul_(list(tensors), factor)


def copy(tensors: Sequence[Tensor], sources: Sequence[Tensor]) -> None:
    """Overwrite each with its source."""
    if tensors:
        torch._foreach_copy_(list(tensors), list(sources))


def add(tensors: Sequence[Tensor], others: Sequence[Tensor], *, times: float) -> None:
    """Add `times` its other to each."""
    torch._foreach_add_(list(tensors), list(others), alpha=times)


def move(tensors: Sequence[Tensor], targets: Sequence[Tensor], share: float) -> None:
    """Move each a share of the way to its target."""
    torch._foreach_lerp_(list(tensors), list(targets), share)


def between(tensors: Sequence[Tensor], targets: Sequence[Tensor], share: float) -> list[Tensor]:
    """New tensors, a share of the way from each to its target."""
    return list(torch._foreach_lerp(list(tensors), list(targets), share))
