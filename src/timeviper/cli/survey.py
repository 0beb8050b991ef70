"""Count a model without its weights: parameters by part, bytes of weights, cache and state."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import nn

from timeviper.core.precision import Precision
from timeviper.model.config import DecoderConfig, DropPolicy, TimeViperConfig
from timeviper.model.pattern import LayerKind
from timeviper.model.vlm import TimeViper

_KIND_NAMES = {
    LayerKind.MAMBA: "mamba layers",
    LayerKind.ATTENTION: "attention layers",
    LayerKind.MLP: "mlp layers",
}

# What a language model without eyes would hold; transfer modules are counted apart.
_DECODER_PARTS = {"embedding", *_KIND_NAMES.values(), "final norm", "head"}


@dataclass(frozen=True, kw_only=True)
class VideoCost:
    """Bytes that one encoded video holds while it waits for questions, and while one is answered.

    Args:
        frames: sampled frames.
        vision_tokens: at the decoder's input; time marks and text come on top.
        kv_bytes: keys and values of the attention layers, after an answer.
        state_bytes: Mamba state and convolution tails, the same for any length.
        waiting_bytes: keys and values of dropped tokens, until a question receives them.
        parked_bytes: tokens parked before a site that ranks by the question.
    """

    frames: int
    vision_tokens: int
    kv_bytes: int
    state_bytes: int
    waiting_bytes: int
    parked_bytes: int

    @property
    def total_bytes(self) -> int:
        """All of it."""
        return self.kv_bytes + self.state_bytes + self.waiting_bytes + self.parked_bytes


def survey(config: TimeViperConfig, *, frames: int, precision: Precision) -> dict[str, Any]:
    """Describe a model from its config alone; builds on the meta device, so no weight exists.

    Args:
        config: the model.
        frames: length of the video that `video` speaks about.
        precision: number format of weights and cache; the Mamba state is always float32.

    Returns:
        Plain values: name, parameters by part, layers, sites, bytes.
    """
    parts = parameters_by_part(config)
    cost = video_cost(config, frames=frames, precision=precision)
    decoder = config.decoder
    return {
        "name": config.name,
        "precision": str(precision),
        "parameters": parts | {"total": sum(parts.values())},
        "decoder_parameters": sum(parts[name] for name in parts if name in _DECODER_PARTS),
        "weight_bytes": sum(parts.values()) * precision.bytes,
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
        "kv_bytes_per_token": len(decoder.layers_of(LayerKind.ATTENTION))
        * _kv_bytes(decoder, precision),
        "state_bytes": cost.state_bytes,
        "video": asdict(cost) | {"total_bytes": cost.total_bytes},
    }


def parameters_by_part(config: TimeViperConfig) -> dict[str, int]:
    """Parameters of each part, counted on modules built without memory.

    Args:
        config: the model.

    Returns:
        Number of parameters by part; a tied head counts nothing.
    """
    with torch.device("meta"):
        model = TimeViper(config)
    decoder = model.decoder
    parts = {"vision tower": _count(model.vision), "projector": _count(model.projector)}
    parts["embedding"] = _count(decoder.embed_tokens)
    for kind, name in _KIND_NAMES.items():
        chosen = [decoder.layers[index] for index in config.decoder.layers_of(kind)]
        if chosen:
            parts[name] = sum(_count(layer) for layer in chosen)
    parts["final norm"] = _count(decoder.norm)
    parts["head"] = 0 if decoder.lm_head is None else _count(decoder.lm_head)
    parts["transfer modules"] = _count(decoder.transfers)
    return parts


def video_cost(config: TimeViperConfig, *, frames: int, precision: Precision) -> VideoCost:
    """Bytes of one encoded video, from the config's arithmetic.

    Args:
        config: the model.
        frames: sampled frames.
        precision: number format of keys, values and hidden states.

    Returns:
        The cost of the vision tokens; text adds `kv_bytes_per_token` each.
    """
    decoder = config.decoder
    sites = {site.layer: site for site in decoder.transfer.sites}
    present = frames * config.tokens_per_frame
    kv = waiting = parked = 0
    for index, kind in enumerate(decoder.layers):
        if site := sites.get(index):
            kept = site.kept(present)
            if site.policy == DropPolicy.ATTENTION:
                parked += present * decoder.hidden_size * precision.bytes
            elif site.transfer:
                waiting += (present - kept) * _kv_bytes(decoder, precision)
            present = kept
        if kind == LayerKind.ATTENTION:
            kv += present * _kv_bytes(decoder, precision)
    return VideoCost(
        frames=frames,
        vision_tokens=frames * config.tokens_per_frame,
        kv_bytes=kv,
        state_bytes=_state_bytes(decoder, precision),
        waiting_bytes=waiting,
        parked_bytes=parked,
    )


def _kv_bytes(decoder: DecoderConfig, precision: Precision) -> int:
    return 2 * decoder.num_kv_heads * decoder.head_dim * precision.bytes


def _state_bytes(decoder: DecoderConfig, precision: Precision) -> int:
    mamba = decoder.mamba
    if mamba is None:
        return 0
    ssm = mamba.inner_size * mamba.state_size * Precision.FLOAT32.bytes
    tail = (mamba.conv_kernel - 1) * mamba.conv_size * precision.bytes
    return len(decoder.layers_of(LayerKind.MAMBA)) * (ssm + tail)


def _count(module: nn.Module) -> int:
    return sum(parameter.numel() for parameter in module.parameters())
