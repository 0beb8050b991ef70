"""Llama, Qwen2.5 and Qwen3 folders are read; what is not supported is refused by name."""

from __future__ import annotations

from typing import Any

import pytest

from timeviper.core.errors import CheckpointError, ConfigError
from timeviper.model.presets import preset
from timeviper.weights.llama import config_to_foreign, config_to_native, keymap

# As the published Qwen2.5-7B writes it, before rope_parameters and layer_types existed.
QWEN: dict[str, Any] = {
    "model_type": "qwen2",
    "attention_dropout": 0.0,
    "hidden_act": "silu",
    "hidden_size": 3584,
    "initializer_range": 0.02,
    "intermediate_size": 18944,
    "max_position_embeddings": 131072,
    "max_window_layers": 28,
    "num_attention_heads": 28,
    "num_hidden_layers": 28,
    "num_key_value_heads": 4,
    "rms_norm_eps": 1e-6,
    "rope_theta": 1000000.0,
    "sliding_window": 131072,
    "tie_word_embeddings": False,
    "use_sliding_window": False,
    "vocab_size": 152064,
}


def test_the_published_qwen_is_our_preset() -> None:
    assert config_to_native(QWEN) == preset("qwen2.5-7b").decoder


def test_the_newer_spelling_of_rotary_positions() -> None:
    data = {k: v for k, v in QWEN.items() if k != "rope_theta"}
    rope = {"rope_theta": 1e6, "rope_type": "default"}
    newer = data | {"rope_parameters": rope, "layer_types": ["full_attention"] * 28}
    assert config_to_native(newer) == preset("qwen2.5-7b").decoder


def test_defaults_of_a_sparse_llama() -> None:
    data = {k: v for k, v in QWEN.items() if k not in ("num_key_value_heads", "rope_theta")}
    config = config_to_native(data | {"model_type": "llama"})
    assert (config.num_kv_heads, config.head_dim, config.rope_theta) == (28, 128, 10000.0)
    assert not config.qkv_bias
    assert not config.qk_norm


def test_qwen3_has_head_norms_and_a_head_size_of_its_own() -> None:
    config = config_to_native(QWEN | {"model_type": "qwen3", "num_attention_heads": 16})
    assert config.qk_norm
    assert not config.qkv_bias
    assert config.head_dim == 128
    assert config_to_native(QWEN | {"model_type": "qwen3", "head_dim": 64}).head_dim == 64


@pytest.mark.parametrize(
    ("key", "value", "named"),
    [
        ("attention_bias", True, "attention_bias"),
        ("mlp_bias", True, "mlp_bias"),
        ("hidden_act", "gelu", "hidden_act"),
        ("use_sliding_window", True, "use_sliding_window"),
        ("partial_rotary_factor", 0.5, "partial_rotary_factor"),
        ("layer_types", ["full_attention", "sliding_attention"], "sliding_attention"),
        ("rope_scaling", {"type": "yarn", "factor": 4.0}, "yarn"),
        ("rope_scaling", {"rope_type": "llama3", "factor": 8.0}, "llama3"),
        ("rope_parameters", {"rope_type": "yarn", "rope_theta": 1e6}, "yarn"),
        ("rope_parameters", {"rope_theta": 1e6, "partial_rotary_factor": 0.25}, "0.25"),
        ("hidden_size", "3584", "hidden_size"),
        ("num_hidden_layers", None, "num_hidden_layers"),
    ],
)
def test_what_is_not_supported_is_refused(key: str, value: object, named: str) -> None:
    with pytest.raises(ConfigError, match=named):
        config_to_native(QWEN | {key: value})


def test_a_base_for_each_kind_of_layer_is_not_passed_over() -> None:
    data = {k: v for k, v in QWEN.items() if k != "rope_theta"}
    nested = {"full_attention": {"rope_theta": 1e6, "rope_type": "default"}}
    with pytest.raises(ConfigError, match="rope_theta"):
        config_to_native(data | {"rope_parameters": nested})


@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3"])
@pytest.mark.parametrize("tied", [False, True])
def test_configs_go_there_and_back(family: str, tied: bool) -> None:
    config = config_to_native(QWEN | {"model_type": family, "tie_word_embeddings": tied})
    there = config_to_foreign(config)
    assert there["model_type"] == family
    assert config_to_native(there) == config


@pytest.mark.parametrize("name", ["nano-9b-v2", "qwen2.5-7b-transv"])
def test_what_these_families_cannot_say_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="can describe"):
        config_to_foreign(preset(name).decoder)


@pytest.mark.parametrize("root", ["model.", ""])
def test_a_dense_layer_is_two_of_ours(root: str) -> None:
    keys = [
        f"{root}embed_tokens.weight",
        f"{root}layers.5.input_layernorm.weight",
        f"{root}layers.5.self_attn.q_proj.bias",
        f"{root}layers.5.post_attention_layernorm.weight",
        f"{root}layers.5.mlp.gate_proj.weight",
        f"{root}norm.weight",
    ]
    got = [place.key for place in keymap(keys).to_native(keys).values()]
    assert got == [
        "embed_tokens.weight",
        "layers.10.norm.weight",
        "layers.10.mixer.q_proj.bias",
        "layers.11.norm.weight",
        "layers.11.mixer.gate_proj.weight",
        "norm.weight",
    ]


def test_a_tied_head_is_skipped_and_an_untied_one_read() -> None:
    keys = ["model.norm.weight", "lm_head.weight", "model.layers.0.self_attn.rotary_emb.inv_freq"]
    assert "lm_head.weight" in keymap(keys).to_native(keys)
    assert list(keymap(keys, tied=True).to_native(keys)) == keys[:1]
    assert list(keymap(keys, tied=True).skipped(keys)) == keys[1:]


def test_biases_that_we_lack_have_no_rule() -> None:
    keys = ["model.layers.0.self_attn.o_proj.bias", "model.layers.0.mlp.up_proj.bias"]
    with pytest.raises(CheckpointError, match=r"o_proj\.bias.*up_proj\.bias"):
        keymap(keys).to_native(keys)
