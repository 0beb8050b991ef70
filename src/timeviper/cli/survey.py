"""Count a model without its weights: parameters by part, bytes of weights, cache and state."""

from __future__ import annotations

from dataclasses import asdict
from typing import Any

from timeviper.core.precision import Precision
from timeviper.inference.planning.footprint import (
    DECODER_PARTS,
    parameters_by_part,
    weight_bytes,
)
from timeviper.inference.planning.planner import Setting, forecast
from timeviper.model.config import DecoderConfig, TimeViperConfig
from timeviper.model.pattern import LayerKind


def survey(config: TimeViperConfig, *, frames: int, precision: Precision) -> dict[str, Any]:
    """Describe a model from its config alone; builds on the meta device, so no weight exists.

    Args:
        config: the model.
        frames: length of the video that `video` speaks about.
        precision: number format of weights and cache; the Mamba state is always float32.

    Returns:
        Plain values: name, parameters by part, layers, sites, bytes. The bytes of a video are
        those that it holds while it waits for questions, room for one of them included.
    """
    parts = parameters_by_part(config)
    fp8 = precision == Precision.FP8
    setting = Setting(tower=False, fp8=fp8)
    held = forecast(config, frames=frames, precision=precision, setting=setting).held
    decoder = config.decoder
    return {
        "name": config.name,
        "precision": str(precision),
        "parameters": parts | {"total": sum(parts.values())},
        "decoder_parameters": sum(parts[name] for name in parts if name in DECODER_PARTS),
        "weight_bytes": weight_bytes(config, precision, fp8=fp8),
        "layers": decoder.pattern,
        "sites": [
            {
                "layer": site.layer,
                "policy": str(site.policy),
                "drop_rate": site.drop_rate,
                "transfer": site.transfer,
            }
            for site in decoder.transfer.sites
        ],
        "tokens_per_frame": config.tokens_per_frame,
        "kv_bytes_per_token": _kv_bytes(decoder, precision),
        "state_bytes": held.mamba_state,
        "video": {
            "frames": frames,
            "vision_tokens": frames * config.tokens_per_frame,
            **{f"{name}_bytes": count for name, count in asdict(held).items()},
            "total_bytes": held.total,
        },
    }


def _kv_bytes(decoder: DecoderConfig, precision: Precision) -> int:
    layers = len(decoder.layers_of(LayerKind.ATTENTION))
    return layers * 2 * decoder.num_kv_heads * decoder.head_dim * precision.bytes
