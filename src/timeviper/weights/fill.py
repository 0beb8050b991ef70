"""Build modules without memory and stream weights into them, reporting every key that is wrong."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TypeVar

import torch
from torch import Tensor, nn

from timeviper.core.errors import CheckpointError
from timeviper.weights.keymap import Renamed
from timeviper.weights.native import wanted_dtype
from timeviper.weights.shards import FLOATS, Shards

M = TypeVar("M", bound=nn.Module)


def on_meta(build: Callable[[], M]) -> M:
    """Build a module whose parameters have shapes but no memory.

    Args:
        build: makes the module.

    Returns:
        The module.

    Raises:
        TypeError: a module of ours has a buffer that no checkpoint fills.
    """
    with torch.device("meta"):
        module = build()
    stored = module.state_dict().keys()
    for name, buffer in module.named_buffers():
        if buffer.is_meta and name not in stored:
            raise TypeError(f"nobody gives the buffer {name} its value")
    return module


def fill(
    module: nn.Module,
    shards: Shards,
    names: Mapping[str, Renamed],
    *,
    device: torch.device,
    dtype: torch.dtype,
) -> None:
    """Read each tensor from its file, cast it and put it into its place.

    Beside the module itself, one tensor at a time is in memory.

    Args:
        module: built by `on_meta`.
        shards: the files.
        names: for each key in the files that is wanted its place in the module; keys of the files
            that are not listed are left alone.
        device: where the module shall live.
        dtype: its number format; A_log, dt_bias, D and alpha are float32 at least.

    Raises:
        CheckpointError: every missing, extra and misshaped key.
    """
    _check(module.state_dict(), shards, names)
    for key, tensor in shards.stream():
        if key in names:
            place = names[key]
            format_ = wanted_dtype(place.key, dtype)
            tensor = place.convert(tensor)
            # A copy: a view would keep the file mapped and change with it.
            _put(module, place.key, tensor.to(device, format_, copy=True).contiguous())
    for name, buffer in list(module.named_buffers()):
        _put(module, name, buffer.to(device))


def _check(wanted: Mapping[str, Tensor], shards: Shards, names: Mapping[str, Renamed]) -> None:
    found = {place.key: key for key, place in names.items()}
    missing = [key for key in wanted if key not in found]
    extra = [key for place, key in found.items() if place not in wanted]
    wrong = [
        _misfit(key, shards, names[key], wanted[place])
        for place, key in found.items()
        if place in wanted
    ]
    _report(missing, extra, [text for text in wrong if text])


def _misfit(key: str, shards: Shards, place: Renamed, want: Tensor) -> str:
    if shards.formats[key] not in FLOATS:
        return f"{key} of format {shards.formats[key]}, want one of {', '.join(FLOATS)}"
    stored, shape = shards.shapes[key], tuple(want.shape)
    if place.stored_shape(shape) != stored:
        return f"{key} {list(stored)}, want {list(place.stored_shape(shape))}"
    return ""


def _report(missing: list[str], extra: list[str], wrong: list[str]) -> None:
    lists = {"missing": missing, "not known": extra, "misshaped": wrong}
    got = "; ".join(f"{what}: {', '.join(keys)}" for what, keys in lists.items() if keys)
    if got:
        raise CheckpointError(
            want="every tensor of the model once, in its shape",
            got=got,
            do="use weights and config.json of the same model",
        )


def _put(module: nn.Module, key: str, value: Tensor) -> None:
    path, _, leaf = key.rpartition(".")
    owner = module.get_submodule(path)
    is_parameter = isinstance(getattr(owner, leaf), nn.Parameter)
    setattr(owner, leaf, nn.Parameter(value) if is_parameter else value)
