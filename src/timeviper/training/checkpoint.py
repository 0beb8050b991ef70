"""Training state on disk: weights, optimiser moments and progress; written whole or not at all."""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.optim import Optimizer

from timeviper.core.errors import CheckpointError

_WEIGHTS, _MOMENTS, _PROGRESS = "weights.safetensors", "moments.safetensors", "progress.json"


def save(
    folder: Path, model: nn.Module, optimizers: Sequence[Optimizer], progress: dict[str, Any]
) -> None:
    """Replace the checkpoint in `folder`; a kill at any moment leaves the old or the new one.

    Args:
        folder: where the checkpoint lives.
        model: whose parameters and buffers are kept.
        optimizers: whose moments are kept.
        progress: JSON values, at least `step`.
    """
    fresh = folder.with_name(folder.name + ".writing")
    shutil.rmtree(fresh, ignore_errors=True)
    fresh.mkdir(parents=True)
    weights = {k: v.detach().contiguous().cpu() for k, v in model.state_dict().items()}
    save_file(weights, fresh / _WEIGHTS)
    save_file(_moments(optimizers), fresh / _MOMENTS)
    (fresh / _PROGRESS).write_text(json.dumps(progress))
    for file in fresh.iterdir():
        with file.open("rb") as handle:
            os.fsync(handle.fileno())
    old = folder.with_name(folder.name + ".old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    fresh.rename(folder)
    shutil.rmtree(old, ignore_errors=True)


def load(folder: Path, model: nn.Module, optimizers: Sequence[Optimizer]) -> dict[str, Any] | None:
    """Continue from the checkpoint in `folder`.

    Returns:
        The saved progress, or None where there is no checkpoint.

    Raises:
        CheckpointError: the checkpoint is of another model.
    """
    old = folder.with_name(folder.name + ".old")
    if not folder.exists() and old.exists():
        # A kill fell between the two renames of `save`.
        old.rename(folder)
    if not folder.exists():
        return None
    weights, moments = load_file(folder / _WEIGHTS), load_file(folder / _MOMENTS)
    _check(weights, model, folder)
    model.load_state_dict(weights)
    for number, optimizer in enumerate(optimizers):
        _restore(optimizer, number, moments)
    return json.loads((folder / _PROGRESS).read_text())


def _check(weights: Mapping[str, Tensor], model: nn.Module, folder: Path) -> None:
    """Refuse a checkpoint of another model before anything of this one is changed."""
    found = {name: tuple(value.shape) for name, value in weights.items()}
    want = {name: tuple(value.shape) for name, value in model.state_dict().items()}
    if found == want:
        return
    both = sorted(found.keys() & want.keys())
    shapes = [f"{name} {found[name]}" for name in both if found[name] != want[name]]
    missing, extra = sorted(want.keys() - found.keys()), sorted(found.keys() - want.keys())
    raise CheckpointError(
        want=f"a checkpoint of this model in {folder}",
        got=f"missing {missing[:4]}, extra {extra[:4]}, other shapes {shapes[:4]}",
        do="start in a new folder",
    )


def _moments(optimizers: Sequence[Optimizer]) -> dict[str, Tensor]:
    return {
        f"{number}.{index}.{key}": value.detach().clone().contiguous().cpu()
        for number, optimizer in enumerate(optimizers)
        for index, state in optimizer.state_dict()["state"].items()
        for key, value in state.items()
        if isinstance(value, Tensor)
    }


def _restore(optimizer: Optimizer, number: int, moments: dict[str, Tensor]) -> None:
    whole = optimizer.state_dict()
    state: dict[int, dict[str, Tensor]] = {}
    for name, value in moments.items():
        owner, index, key = name.split(".", 2)
        if int(owner) == number:
            state.setdefault(int(index), {})[key] = value
    whole["state"] = state
    optimizer.load_state_dict(whole)
