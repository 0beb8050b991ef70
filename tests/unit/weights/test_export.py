"""An exported decoder is a Hugging Face folder that loads as the same decoder."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.unit.weights.toys import same, toy_config
from timeviper.core.errors import ConfigError
from timeviper.core.precision import Precision
from timeviper.model.config import DecoderConfig, TransferPlan
from timeviper.model.decoder import Decoder
from timeviper.weights.export import export_decoder
from timeviper.weights.loader import load_decoder
from timeviper.weights.shards import Shards

HYBRID = replace(toy_config().decoder, transfer=TransferPlan())
DENSE = DecoderConfig(
    vocab_size=40,
    hidden_size=16,
    pattern="*-*-",
    intermediate_size=24,
    num_heads=4,
    num_kv_heads=2,
    head_dim=6,
    activation="silu",
    gated_mlp=True,
    rope_theta=5e4,
)
CONFIGS = {
    "nemotron_h": HYBRID,
    "llama": DENSE,
    "qwen2": replace(DENSE, qkv_bias=True, tie_word_embeddings=True),
    "qwen3": replace(DENSE, qk_norm=True),
}


def drawn(config: DecoderConfig) -> Decoder:
    decoder, generator = Decoder(config), torch.Generator().manual_seed(0)
    with torch.no_grad():
        for weight in decoder.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return decoder


@pytest.mark.parametrize("family", CONFIGS)
@pytest.mark.parametrize("most", [10**9, 3000])
def test_an_exported_decoder_loads_as_itself(family: str, most: int, tmp_path: Path) -> None:
    decoder = drawn(CONFIGS[family])
    export_decoder(decoder, tmp_path, max_shard_bytes=most)
    data = json.loads((tmp_path / "config.json").read_text())
    assert (data["model_type"], data["dtype"]) == (family, "float32")
    again = load_decoder(tmp_path, device="cpu")
    assert again.config == decoder.config
    assert same(again, decoder)


def test_names_shapes_and_formats_are_the_other_tools(tmp_path: Path) -> None:
    export_decoder(drawn(HYBRID), tmp_path, dtype=Precision.BFLOAT16)
    shards = Shards(tmp_path)
    assert shards.shapes["backbone.layers.0.mixer.conv1d.weight"] == (48, 1, 4)
    assert shards.formats["backbone.layers.0.mixer.conv1d.weight"] == "BF16"
    assert shards.formats["backbone.layers.0.mixer.A_log"] == "F32"
    assert json.loads((tmp_path / "config.json").read_text())["dtype"] == "bfloat16"


def test_transfer_sites_cannot_be_exported(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="transfer sites"):
        export_decoder(drawn(toy_config().decoder), tmp_path / "out")
    assert not (tmp_path / "out").exists()
