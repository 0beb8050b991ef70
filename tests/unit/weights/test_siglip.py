"""SigLIP folders, whole or vision only, give the tower's config and names."""

from __future__ import annotations

from typing import Any

import pytest

from timeviper.core.errors import CheckpointError, ConfigError
from timeviper.model.presets import siglip_so400m
from timeviper.weights.siglip import config_to_foreign, config_to_native, keymap

# As the published so400m-patch14-384 writes it: only what differs from base.
SO400M: dict[str, Any] = {
    "model_type": "siglip",
    "text_config": {"hidden_size": 1152},
    "vision_config": {
        "hidden_size": 1152,
        "image_size": 384,
        "intermediate_size": 4304,
        "model_type": "siglip_vision_model",
        "num_attention_heads": 16,
        "num_hidden_layers": 27,
        "patch_size": 14,
    },
}


def test_the_published_so400m_is_the_towers_preset() -> None:
    assert config_to_native(SO400M) == siglip_so400m()
    assert config_to_native(SO400M["vision_config"]) == siglip_so400m()


def test_base_needs_no_numbers() -> None:
    config = config_to_native({"model_type": "siglip", "vision_config": {}})
    assert (config.hidden_size, config.num_layers, config.image_size) == (768, 12, 224)
    assert config.patches == 196


def test_siglip2_takes_its_frames_from_the_position_table() -> None:
    config = config_to_native({"model_type": "siglip2", "vision_config": {"num_patches": 256}})
    assert (config.tower, config.image_size, config.position_patches) == ("siglip2", 256, 256)
    larger = config_to_native({"model_type": "siglip2_vision_model"}, image_size=384)
    assert (larger.image_size, larger.patches, larger.position_patches) == (384, 576, 256)


def test_siglip_cannot_take_another_frame_size() -> None:
    with pytest.raises(ConfigError, match="384 pixels"):
        config_to_native(SO400M, image_size=512)
    assert config_to_native(SO400M, image_size=384) == siglip_so400m()


@pytest.mark.parametrize(
    ("data", "named"),
    [
        ({"model_type": "clip"}, "clip"),
        ({}, "None"),
        ({"model_type": "siglip", "vision_config": {"hidden_act": "gelu"}}, "hidden_act"),
        ({"model_type": "siglip", "vision_config": {"num_channels": 4}}, "num_channels"),
        ({"model_type": "siglip", "vision_config": [1]}, "vision_config"),
        ({"model_type": "siglip", "vision_config": {"image_size": [1, 2]}}, "image_size"),
    ],
)
def test_what_is_not_supported_is_refused(data: dict[str, Any], named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config_to_native(data)


@pytest.mark.parametrize("data", [SO400M, {"model_type": "siglip2_vision_model"}])
@pytest.mark.parametrize("layer", [-1, -2])
def test_configs_go_there_and_back(data: dict[str, Any], layer: int) -> None:
    config = config_to_native(data, feature_layer=layer)
    assert config_to_native(config_to_foreign(config), feature_layer=layer) == config


@pytest.mark.parametrize("root", ["", "vision_model."])
def test_blocks_after_the_used_one_are_skipped(root: str) -> None:
    keys = [f"{root}encoder.layers.{n}.mlp.fc1.bias" for n in range(27)]
    rules = keymap(keys, used_layers=26)
    assert [place.key for place in rules.to_native(keys).values()] == [
        f"layers.{n}.mlp.fc1.bias" for n in range(26)
    ]
    assert rules.skipped(keys) == {keys[26]: "after the block whose output is used"}


def test_everything_else_of_a_whole_siglip_is_skipped_with_a_reason() -> None:
    keys = [
        "logit_scale",
        "logit_bias",
        "text_model.head.weight",
        "text_model.encoder.layers.0.mlp.fc1.bias",
        "vision_model.post_layernorm.weight",
        "vision_model.head.probe",
        "vision_model.embeddings.position_ids",
    ]
    rules = keymap(["vision_model.head.probe"], used_layers=2)
    assert rules.to_native(keys) == {}
    assert list(rules.skipped(keys)) == keys
    assert all(rules.skipped(keys).values())


def test_unknown_names_are_refused() -> None:
    keys = ["vision_model.embeddings.class_embedding", "visual_projection.weight"]
    with pytest.raises(CheckpointError, match=r"class_embedding.*visual_projection"):
        keymap(keys, used_layers=2).to_native(keys)
