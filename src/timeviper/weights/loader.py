"""Load models: ours whole, and bare decoders and towers from ours or foreign folders."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TypeVar

import torch
from torch import nn

from timeviper.core.device import pick_device
from timeviper.core.precision import Precision, default_precision
from timeviper.model.decoder import Decoder
from timeviper.model.linear import quantize_
from timeviper.model.vision.fp8 import quantize_tower_
from timeviper.model.vision.tower import VisionTower
from timeviper.model.vision.towers import build_tower
from timeviper.model.vlm import TimeViper
from timeviper.ops.linear import require_fp8
from timeviper.weights.fill import fill, on_meta
from timeviper.weights.folders import CONFIG, resolve
from timeviper.weights.foreign import decoder_layout, tower_layout
from timeviper.weights.keymap import Renamed
from timeviper.weights.native import MODEL_TYPE, read_config
from timeviper.weights.shards import Shards, read_json

__all__ = ["load_decoder", "load_model", "load_tower", "resolve"]

_Part = TypeVar("_Part", bound=nn.Module)


def load_model(
    name_or_folder: str | Path,
    *,
    device: torch.device | str | None = None,
    precision: Precision | None = None,
) -> TimeViper:
    """Load a whole model.

    Args:
        name_or_folder: name of a model that ships, or one of our checkpoint folders.
        device: where it shall live; None chooses CUDA where present.
        precision: its number format; None means bfloat16 on CUDA and float32 on a CPU. A_log,
            dt_bias, D and alpha are float32 at least. In `fp8` the layers of decoder and tower
            multiply in FP8; embeddings, head, transfer modules and projector stay bfloat16.

    Returns:
        The model in evaluation mode.

    Raises:
        CheckpointError: an unknown name, a broken folder, or wrong tensors, all of them listed.
        ConfigError: a config.json that describes no valid model, no such device, or FP8 on a
            device without it.
    """
    folder = resolve(name_or_folder)
    config = read_config(folder)
    model = on_meta(lambda: TimeViper(config))
    shards = Shards(folder)
    return _filled(model, shards, _same(shards, ""), device=device, precision=precision)


def load_decoder(
    folder: str | Path,
    *,
    device: torch.device | str | None = None,
    precision: Precision | None = None,
) -> Decoder:
    """Load a bare decoder: of one of our models, or a foreign language model.

    Args:
        folder: one of our checkpoints (folder or name), or a Hugging Face folder of model type
            nemotron_h, llama, qwen2 or qwen3.
        device: as in `load_model`.
        precision: as in `load_model`.

    Returns:
        The decoder in evaluation mode.

    Raises:
        CheckpointError: a broken folder, or wrong tensors, all of them listed.
        ConfigError: a model type or a setting that is not supported.
    """
    home = resolve(folder)
    data = read_json(home / CONFIG)
    shards = Shards(home)
    if data.get("model_type") == MODEL_TYPE:
        config, names = read_config(home).decoder, _same(shards, "decoder.")
    else:
        layout = decoder_layout(data)
        config = layout.config
        names = layout.keymap(shards.shapes).to_native(shards.shapes)
    decoder = on_meta(lambda: Decoder(config))
    return _filled(decoder, shards, names, device=device, precision=precision)


def load_tower(
    folder: str | Path,
    *,
    feature_layer: int = -2,
    image_size: int | None = None,
    device: torch.device | str | None = None,
    precision: Precision | None = None,
) -> VisionTower:
    """Load a vision tower: of one of our models, or of a foreign SigLIP or SigLIP2 folder.

    Args:
        folder: one of our checkpoints (folder or name), or a Hugging Face folder of model type
            siglip, siglip2 or the vision half of either.
        feature_layer: for foreign folders, whose blocks after it are not read: see
            `VisionConfig`.
        image_size: for foreign SigLIP2 folders, the side of the frames in pixels where it is not
            the checkpoint's own.
        device: as in `load_model`.
        precision: as in `load_model`.

    Returns:
        The tower in evaluation mode.

    Raises:
        CheckpointError: a broken folder, or wrong tensors, all of them listed.
        ConfigError: a model type or a setting that is not supported.
    """
    home = resolve(folder)
    data = read_json(home / CONFIG)
    shards = Shards(home)
    if data.get("model_type") == MODEL_TYPE:
        config, names = read_config(home).vision, _same(shards, "vision.")
    else:
        layout = tower_layout(data, feature_layer=feature_layer, image_size=image_size)
        config = layout.config
        names = layout.keymap(shards.shapes).to_native(shards.shapes)
    tower = on_meta(lambda: build_tower(config))
    return _filled(tower, shards, names, device=device, precision=precision)


def _filled(
    module: _Part,
    shards: Shards,
    names: Mapping[str, Renamed],
    *,
    device: torch.device | str | None,
    precision: Precision | None,
) -> _Part:
    target = pick_device(None if device is None else str(device))
    precision = precision or default_precision(target)
    if precision == Precision.FP8:
        # Before gigabytes are read.
        require_fp8(target.type)
    fill(module, shards, names, device=target, dtype=precision.dtype)
    if precision == Precision.FP8:
        _round(module)
    return module.eval()


def _round(module: nn.Module) -> None:
    """Put FP8 layers into the decoder and the tower of whatever was loaded."""
    parts = (module.decoder, module.vision) if isinstance(module, TimeViper) else (module,)
    for part in parts:
        if isinstance(part, Decoder):
            quantize_(part.layers)
        elif isinstance(part, VisionTower):
            quantize_tower_(part)


def _same(shards: Shards, prefix: str) -> dict[str, Renamed]:
    return {
        key: Renamed(key.removeprefix(prefix)) for key in shards.shapes if key.startswith(prefix)
    }
