"""What a model's parts weigh, counted on modules that have shapes and no memory."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache

import torch
from torch import nn

from timeviper.core.precision import Precision
from timeviper.inference.planning.live_bytes import LiveBytes
from timeviper.inference.planning.rehearsal import CUDA_BLOCK, ops_of
from timeviper.model.config import TimeViperConfig, TransferPlan
from timeviper.model.decoder import Decoder
from timeviper.model.linear import quantize_
from timeviper.model.pattern import LayerKind
from timeviper.model.vision.fp8 import quantize_tower_
from timeviper.model.vision.towers import build_tower
from timeviper.model.vlm import TimeViper

_KIND_NAMES = {
    LayerKind.MAMBA: "mamba layers",
    LayerKind.ATTENTION: "attention layers",
    LayerKind.MLP: "mlp layers",
}

# What a language model without eyes would hold; transfer modules are counted apart.
DECODER_PARTS = frozenset({"embedding", *_KIND_NAMES.values(), "final norm", "head"})
_EYES = ("vision tower", "projector")


@lru_cache(maxsize=16)
def _parts(config: TimeViperConfig) -> tuple[tuple[str, int], ...]:
    with torch.device("meta"):
        model = TimeViper(config)
    decoder = model.decoder
    parts = {
        name: _count(part)
        for name, part in zip(_EYES, (model.vision, model.projector), strict=True)
    }
    parts["embedding"] = _count(decoder.embed_tokens)
    for kind, name in _KIND_NAMES.items():
        chosen = [decoder.layers[index] for index in config.decoder.layers_of(kind)]
        if chosen:
            parts[name] = sum(_count(layer) for layer in chosen)
    parts["final norm"] = _count(decoder.norm)
    parts["head"] = 0 if decoder.lm_head is None else _count(decoder.lm_head)
    parts["transfer modules"] = _count(decoder.transfers)
    return tuple(parts.items())


def parameters_by_part(config: TimeViperConfig) -> dict[str, int]:
    """Parameters of each part.

    Args:
        config: the model.

    Returns:
        Number of parameters by part; a tied head counts nothing.
    """
    return dict(_parts(config))


def weight_bytes(
    config: TimeViperConfig, precision: Precision, *, tower: bool = True, fp8: bool = False
) -> int:
    """Bytes of the weights.

    Args:
        config: the model.
        precision: number format that they are kept in.
        tower: whether vision tower and projector are there.
        fp8: whether matrices of the decoder's and the tower's layers are kept in FP8.

    Returns:
        Bytes, without what an allocator rounds up.
    """
    parts = parameters_by_part(config)
    if not tower:
        parts = {name: count for name, count in parts.items() if name not in _EYES}
    whole = sum(parts.values()) * precision.bytes
    fp8 = fp8 or precision is Precision.FP8
    return whole - (_saved(config, precision, tower=tower) if fp8 else 0)


@lru_cache(maxsize=16)
def _saved(config: TimeViperConfig, precision: Precision, *, tower: bool) -> int:
    """Bytes that the decoder's layers, and those of a tower, need less in FP8."""
    with torch.device("meta"):
        layers = Decoder(config.decoder).to(precision.dtype).layers
        vision = build_tower(config.vision).to(precision.dtype)
    before = _bytes(layers) + _bytes(vision)
    quantize_(layers)
    if tower:
        quantize_tower_(vision)
    return before - _bytes(layers) - _bytes(vision)


def _bytes(module: nn.Module) -> int:
    return sum(t.nbytes for t in (*module.parameters(), *module.buffers()))


@lru_cache(maxsize=64)
def tower_bytes(
    config: TimeViperConfig, frames: int, *, dtype: torch.dtype, device_type: str
) -> int:
    """Most that tower and projector take for one call, pixels and results included.

    Args:
        config: the model; a tower's blocks are alike, so two of them tell about all.
        frames: that are looked at together.
        dtype: of weights and pixels.
        device_type: as in `rehearsal.rehearse`.

    Returns:
        Bytes, weights not counted.
    """
    short = replace(config.vision, num_layers=min(2, config.vision.used_layers), feature_layer=-1)
    words = replace(config.decoder, pattern="-", transfer=TransferPlan())
    plain = replace(config, vision=short, decoder=words)
    with torch.device("meta"):
        model = TimeViper(plain).to(dtype).eval().requires_grad_(requires_grad=False)
    block = CUDA_BLOCK if device_type == "cuda" else 1
    tracker = LiveBytes(block=block, host=False, ignore=(*model.parameters(), *model.buffers()))
    side = config.vision.image_size
    with torch.inference_mode(), ops_of(device_type), tracker:
        pixels = torch.empty(frames, 3, side, side, dtype=torch.float32, device="meta").to(dtype)
        model.encode_frames(pixels)
    return tracker.peak


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
