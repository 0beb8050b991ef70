"""SigLIP and SigLIP2 checkpoints: names and config of the vision half, both ways."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from timeviper.core.errors import ConfigError
from timeviper.model.config import VisionConfig
from timeviper.weights.keymap import KeyMap, LeftOut, Rule
from timeviper.weights.settings import must_be, read_or, section

MODEL_TYPES = ("siglip", "siglip2", "siglip_vision_model", "siglip2_vision_model")
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "hidden_act": ("gelu_pytorch_tanh",),
    "num_channels": (3,),
}
_PARTS = tuple(
    f"{part}.{kind}"
    for part in (
        "layer_norm1",
        "layer_norm2",
        *(f"self_attn.{name}_proj" for name in ("q", "k", "v", "out")),
        "mlp.fc1",
        "mlp.fc2",
    )
    for kind in ("weight", "bias")
)
_EMBEDDINGS = (
    "patch_embedding.weight",
    "patch_embedding.bias",
    "position_embedding.weight",
)


def keymap(keys: Iterable[str] = (), *, used_layers: int) -> KeyMap:
    """Rules for a whole SigLIP, or for its vision half alone.

    Args:
        keys: names in the checkpoint, `vision_model.*` or bare.
        used_layers: blocks that run here; later ones are left out.

    Returns:
        The rules.
    """
    root = "vision_model." if any(key.startswith("vision_model.") for key in keys) else ""
    layers = f"{root}encoder.layers"
    rules = (
        *(Rule(f"{root}embeddings.{part}", f"embeddings.{part}") for part in _EMBEDDINGS),
        *(
            Rule(f"{layers}.{{i<{used_layers}}}.{part}", f"layers.{{i<{used_layers}}}.{part}")
            for part in _PARTS
        ),
    )
    later = "after the block whose output is used"
    left_out = (
        *(LeftOut(f"{layers}.{{i>={used_layers}}}.{part}", later) for part in _PARTS),
        LeftOut(f"{root}post_layernorm.{{*}}", later),
        LeftOut(f"{root}head.{{*}}", "pools the patches into one vector; patches are used"),
        LeftOut(f"{root}embeddings.position_ids", "counts from zero; computed"),
        LeftOut("text_model.{*}", "the text half; the decoder reads the text"),
        LeftOut("logit_scale", "compares image with text in training"),
        LeftOut("logit_bias", "compares image with text in training"),
    )
    return KeyMap("siglip", rules, left_out)


def config_to_native(
    data: Mapping[str, Any], *, feature_layer: int = -2, image_size: int | None = None
) -> VisionConfig:
    """The tower that a SigLIP or SigLIP2 config.json describes.

    Args:
        data: its values; absent sizes are those of SigLIP base, as in transformers.
        feature_layer: which block's output is used, see `VisionConfig`.
        image_size: side of the frames in pixels, where it is not the checkpoint's own: SigLIP2
            resizes its position table to it.

    Returns:
        The config.

    Raises:
        ConfigError: another model type, or a setting that is not supported.
    """
    family = str(data.get("model_type"))
    if family not in MODEL_TYPES:
        raise ConfigError(
            want=f"model_type {', '.join(MODEL_TYPES)}", got=family, do="use a SigLIP checkpoint"
        )
    vision: Mapping[str, Any] = data if "vision" in family else section(data, "vision_config")
    must_be(vision, _SUPPORTED)
    naflex = family.startswith("siglip2")
    patch = read_or(vision, 16, "patch_size")
    patches = read_or(vision, 256, "num_patches")
    own = math.isqrt(patches) * patch if naflex else read_or(vision, 224, "image_size")
    if image_size not in (None, own) and not naflex:
        raise ConfigError(
            want=f"frames of {own} pixels for this SigLIP", got=image_size, do="use its own size"
        )
    return VisionConfig(
        tower="siglip2" if naflex else "siglip",
        hidden_size=read_or(vision, 768, "hidden_size"),
        intermediate_size=read_or(vision, 3072, "intermediate_size"),
        num_layers=read_or(vision, 12, "num_hidden_layers"),
        num_heads=read_or(vision, 12, "num_attention_heads"),
        image_size=image_size or own,
        patch_size=patch,
        feature_layer=feature_layer,
        layer_norm_eps=read_or(vision, 1e-6, "layer_norm_eps"),
        position_patches=patches if naflex else None,
    )


def config_to_foreign(config: VisionConfig) -> dict[str, Any]:
    """The config.json of a tower alone.

    Args:
        config: the tower; its `feature_layer` has no place there.

    Returns:
        The values of a `siglip_vision_model` or `siglip2_vision_model`.
    """
    sizes = {
        "hidden_size": config.hidden_size,
        "intermediate_size": config.intermediate_size,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_channels": 3,
        "patch_size": config.patch_size,
        "hidden_act": "gelu_pytorch_tanh",
        "layer_norm_eps": config.layer_norm_eps,
    }
    if config.tower == "siglip":
        return {"model_type": "siglip_vision_model", "image_size": config.image_size, **sizes}
    patches = config.position_patches or config.patches
    return {"model_type": "siglip2_vision_model", "num_patches": patches, **sizes}
