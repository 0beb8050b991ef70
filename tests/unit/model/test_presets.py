"""Presets: the paper's exact sizes, layer maps and sites, without building a weight."""

from __future__ import annotations

import pytest
import torch

from timeviper.core.errors import ConfigError
from timeviper.model.config import DropPolicy, VisionConfig
from timeviper.model.decoder import Decoder
from timeviper.model.pattern import LayerKind
from timeviper.model.presets import PRESETS, preset
from timeviper.model.projector import Projector
from timeviper.model.vlm import TimeViper


def count(module: torch.nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def on_meta(name: str) -> Decoder:
    with torch.device("meta"):
        return Decoder(preset(name).decoder)


@pytest.mark.parametrize(
    ("name", "size", "mamba", "mlp", "attention"),
    [
        ("nano-9b-v2", 8_888_227_328, 147_450_624, 140_497_280, 55_054_720),
        ("nano-12b-v2", 12_310_001_152, 168_504_704, 209_720_320, 62_919_680),
    ],
)
def test_exact_sizes_of_the_hybrids(
    name: str, size: int, mamba: int, mlp: int, attention: int
) -> None:
    decoder = on_meta(name)
    assert count(decoder) == size
    layers = {kind: decoder.config.layers_of(kind)[0] for kind in LayerKind}
    assert count(decoder.layers[layers[LayerKind.MAMBA]]) == mamba
    assert count(decoder.layers[layers[LayerKind.MLP]]) == mlp
    assert count(decoder.layers[layers[LayerKind.ATTENTION]]) == attention


def test_the_transfer_modules_and_the_projector_of_the_paper() -> None:
    decoder = on_meta("nano-9b-v2-transv")
    assert count(decoder.transfers) == 110_100_480 + 2
    assert count(decoder) == 8_888_227_328 + 110_100_480 + 2
    assert list(decoder.transfers) == ["7", "39"]
    with torch.device("meta"):
        projector = Projector(preset("nano-9b-v2").projector, 1152, 4480)
    assert count(projector) == 25_240_320


def test_layer_maps() -> None:
    nine = preset("nano-9b-v2").decoder
    assert len(nine.layers) == 56
    assert nine.layers_of(LayerKind.ATTENTION) == (14, 21, 30, 39)
    assert nine.layers[7] is LayerKind.MAMBA
    assert [len(nine.layers_of(k)) for k in (LayerKind.MAMBA, LayerKind.MLP)] == [27, 25]
    twelve = preset("nano-12b-v2").decoder
    assert len(twelve.layers) == 62
    assert twelve.layers_of(LayerKind.ATTENTION) == (7, 16, 25, 34, 43, 52)
    assert [len(twelve.layers_of(k)) for k in (LayerKind.MAMBA, LayerKind.MLP)] == [28, 28]


def test_the_papers_sites() -> None:
    sites = preset("nano-9b-v2-transv").decoder.transfer.sites
    assert [(s.layer, s.drop_rate, s.transfer) for s in sites] == [(7, 0.5, True), (39, 0.9, True)]
    # Uniform by the stream, so that a live session gives the same as a file.
    assert [s.policy for s in sites] == [DropPolicy.UNIFORM_STREAM, DropPolicy.ATTENTION]


def test_qwen_is_dense_with_its_own_conventions() -> None:
    decoder = on_meta("qwen2.5-7b")
    assert count(decoder) == 7_615_616_512
    config = decoder.config
    assert (config.rope_theta, config.norm_eps, config.qkv_bias) == (1e6, 1e-6, True)
    assert config.mamba is None
    guided = preset("qwen2.5-7b-transv").decoder
    assert guided.transfer.sites[1].layer in guided.layers_of(LayerKind.ATTENTION)


@pytest.mark.parametrize("name", ["tiny", "tiny-transv"])
def test_the_model_that_ships_fits_its_budget(name: str) -> None:
    with torch.device("meta"):
        model = TimeViper(preset(name))
    assert 10_000_000 <= count(model) <= 25_000_000
    # At most 48 MiB of weights in half precision.
    assert 2 * count(model) <= 48 * 2**20
    assert model.config.tokens_per_frame == 4
    assert model.config.vision.patches == 64


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_builds(name: str) -> None:
    config = preset(name)
    with torch.device("meta"):
        decoder = Decoder(config.decoder)
    assert len(decoder.layers) == len(config.decoder.pattern)
    assert isinstance(config.vision, VisionConfig)
    assert config.tokens_per_frame <= config.vision.patches


def test_an_unknown_preset_lists_the_known() -> None:
    with pytest.raises(ConfigError, match=r"nano-9b-v2, .*tiny-transv; got 'nano-7b'"):
        preset("nano-7b")
