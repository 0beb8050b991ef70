"""The table knows four language models and two towers, and says so."""

from __future__ import annotations

import pytest

from tests.unit.weights.test_llama import QWEN
from tests.unit.weights.test_nemotron_h import NANO_9B
from tests.unit.weights.test_siglip import SO400M
from timeviper.core.errors import ConfigError
from timeviper.model.presets import preset, siglip_so400m
from timeviper.weights.foreign import DECODERS, decoder_layout, tower_layout


def test_language_models() -> None:
    assert decoder_layout(NANO_9B).config == preset("nano-9b-v2").decoder
    assert decoder_layout(QWEN).config == preset("qwen2.5-7b").decoder
    assert set(DECODERS) == {"nemotron_h", "llama", "qwen2", "qwen3"}


@pytest.mark.parametrize("tied", [False, True])
def test_the_head_is_read_only_where_it_is_not_the_embedding(tied: bool) -> None:
    for data, key in ((QWEN, "model.norm.weight"), (NANO_9B, "model.norm_f.weight")):
        layout = decoder_layout(data | {"tie_word_embeddings": tied})
        keys = [key, "lm_head.weight"]
        assert list(layout.keymap(keys).to_native(keys)) == keys[: 1 if tied else 2]


def test_towers() -> None:
    layout = tower_layout(SO400M)
    assert layout.config == siglip_so400m()
    keys = [f"vision_model.encoder.layers.{n}.mlp.fc1.bias" for n in (25, 26)]
    assert list(layout.keymap(keys).to_native(keys)) == keys[:1]
    assert tower_layout(SO400M, feature_layer=-1).config.used_layers == 27


@pytest.mark.parametrize("kind", ["gpt2", None, 7, "siglip"])
def test_other_language_models_are_refused_with_the_list(kind: object) -> None:
    with pytest.raises(ConfigError, match="timeviper, nemotron_h, llama, qwen2, qwen3"):
        decoder_layout({"model_type": kind})
