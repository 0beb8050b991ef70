"""Nemotron-H folders of any age are read; what is not supported is refused by name."""

from __future__ import annotations

import math
from typing import Any

import pytest

from timeviper.core.errors import CheckpointError, ConfigError
from timeviper.model.presets import NANO_9B_PATTERN, preset
from timeviper.weights.nemotron_h import config_to_foreign, config_to_native, keymap

# As the published 9B checkpoint writes it: letters, JSON's own infinity.
NANO_9B: dict[str, Any] = {
    "model_type": "nemotron_h",
    "vocab_size": 131072,
    "hidden_size": 4480,
    "num_hidden_layers": 56,
    "hybrid_override_pattern": NANO_9B_PATTERN,
    "intermediate_size": 15680,
    "mlp_hidden_act": "relu2",
    "num_attention_heads": 40,
    "num_key_value_heads": 8,
    "head_dim": 128,
    "attention_bias": False,
    "mlp_bias": False,
    "use_bias": False,
    "use_conv_bias": True,
    "mamba_num_heads": 128,
    "mamba_head_dim": 80,
    "mamba_hidden_act": "silu",
    "mamba_proj_bias": False,
    "ssm_state_size": 128,
    "n_groups": 8,
    "conv_kernel": 4,
    "expand": 2,
    "chunk_size": 128,
    "layer_norm_epsilon": 1e-5,
    "residual_in_fp32": False,
    "tie_word_embeddings": False,
    "time_step_limit": [0.0, math.inf],
    "max_position_embeddings": 131072,
    "initializer_range": 0.02,
    "sliding_window": None,
}
NAMES = {"M": "linear_attention", "*": "full_attention", "-": "mlp"}
OLD_NAMES = {"M": "mamba", "*": "attention", "-": "mlp"}


def test_the_published_9b_is_our_preset() -> None:
    assert config_to_native(NANO_9B) == preset("nano-9b-v2").decoder


@pytest.mark.parametrize("key", ["layers_block_type", "layer_types"])
@pytest.mark.parametrize("names", [NAMES, OLD_NAMES])
@pytest.mark.parametrize("both", [False, True])
def test_layers_by_name(key: str, names: dict[str, str], both: bool) -> None:
    data = NANO_9B | {key: [names[letter] for letter in NANO_9B_PATTERN]}
    if not both:
        del data["hybrid_override_pattern"], data["num_hidden_layers"]
    assert config_to_native(data) == preset("nano-9b-v2").decoder


@pytest.mark.parametrize("upper", [math.inf, "inf", "Infinity", {"__float__": "Infinity"}])
def test_every_spelling_of_no_limit(upper: object) -> None:
    mamba = config_to_native(NANO_9B | {"time_step_limit": [0.0, upper]}).mamba
    assert mamba is not None
    assert mamba.time_step_limit == (0.0, math.inf)


def test_a_limit_is_kept_and_absence_means_none() -> None:
    for data, want in (
        (NANO_9B | {"time_step_limit": [0.001, 0.1]}, (0.001, 0.1)),
        ({k: v for k, v in NANO_9B.items() if k != "time_step_limit"}, (0.0, math.inf)),
    ):
        mamba = config_to_native(data).mamba
        assert mamba is not None
        assert mamba.time_step_limit == want


@pytest.mark.parametrize("limit", [[0.0], 0.1, [0.2, 0.1], [0, "x"], [0, None], [0, {}]])
def test_a_wrong_limit_is_refused(limit: object) -> None:
    with pytest.raises(ConfigError, match="time_step_limit"):
        config_to_native(NANO_9B | {"time_step_limit": limit})


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("attention_bias", True),
        ("mlp_bias", True),
        ("use_bias", True),
        ("mamba_proj_bias", True),
        ("residual_in_fp32", True),
        ("mamba_hidden_act", "gelu"),
        ("mlp_hidden_act", "silu"),
        ("sliding_window", 4096),
    ],
)
def test_what_is_not_supported_is_refused(key: str, value: object) -> None:
    with pytest.raises(ConfigError, match=f"got {key} = {value!r}"):
        config_to_native(NANO_9B | {key: value})


def test_mixture_of_experts_is_refused() -> None:
    letters = "E" + NANO_9B_PATTERN[1:]
    with pytest.raises(ConfigError, match="'E' at position 0"):
        config_to_native(NANO_9B | {"hybrid_override_pattern": letters})
    with pytest.raises(ConfigError, match="'moe'"):
        config_to_native(NANO_9B | {"layers_block_type": ["moe"]})


def test_layers_that_disagree_are_refused() -> None:
    with pytest.raises(ConfigError, match="56 layers"):
        config_to_native(NANO_9B | {"hybrid_override_pattern": "M-"})
    with pytest.raises(ConfigError, match="remove one of the two"):
        config_to_native(NANO_9B | {"layers_block_type": ["mlp"]})
    with pytest.raises(ConfigError, match="hybrid_override_pattern or"):
        config_to_native({k: v for k, v in NANO_9B.items() if "pattern" not in k})


def test_a_missing_size_is_named() -> None:
    with pytest.raises(ConfigError, match="ssm_state_size"):
        config_to_native({k: v for k, v in NANO_9B.items() if k != "ssm_state_size"})


@pytest.mark.parametrize("name", ["nano-9b-v2", "nano-12b-v2", "tiny"])
def test_configs_go_there_and_back(name: str) -> None:
    config = preset(name).decoder
    assert config_to_native(config_to_foreign(config)) == config


@pytest.mark.parametrize("name", ["nano-9b-v2-transv", "qwen2.5-7b"])
def test_what_nemotron_cannot_say_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="nemotron_h can describe"):
        config_to_foreign(preset(name).decoder)


@pytest.mark.parametrize("root", ["backbone", "model"])
def test_both_spellings(root: str) -> None:
    keys = [f"{root}.embeddings.weight", f"{root}.layers.3.mixer.A_log", "lm_head.weight"]
    got = {old: place.key for old, place in keymap(keys).to_native(keys).items()}
    assert list(got.values()) == ["embed_tokens.weight", "layers.3.mixer.A_log", "lm_head.weight"]
    assert list(keymap(keys).to_foreign(got.values())) == list(got.values())


def test_mixed_spellings_are_refused() -> None:
    keys = ["model.embeddings.weight", "backbone.norm_f.weight"]
    with pytest.raises(CheckpointError, match=r"backbone\.norm_f\.weight \(no rule\)"):
        keymap(keys).to_native(keys)


def test_experts_have_no_rule() -> None:
    keys = ["backbone.layers.1.mixer.gate.weight", "backbone.layers.1.mixer.experts.0.up.weight"]
    with pytest.raises(CheckpointError, match=r"gate\.weight.*experts"):
        keymap(keys).to_native(keys)


def test_what_is_skipped_has_a_reason() -> None:
    keys = ["mtp.layers.0.norm.weight", "lm_head.weight"]
    assert list(keymap(keys).skipped(keys)) == keys[:1]
    assert list(keymap(keys, tied=True).skipped(keys)) == keys
