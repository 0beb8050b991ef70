"""First weights: ranges, scaled outputs, and transfer modules copied from attention."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from tests.unit.model.toys import DENSE, HYBRID, STACKS, site
from timeviper.model.config import DecoderConfig, TransferPlan
from timeviper.model.decoder import Decoder
from timeviper.model.init import init_decoder, init_linear, init_transfers
from timeviper.model.mamba2 import Mamba2Mixer


def fresh(config: DecoderConfig, seed: int = 0) -> Decoder:
    decoder = Decoder(config)
    for parameter in decoder.parameters():
        torch.nn.init.constant_(parameter, float("nan"))
    init_decoder(decoder, torch.Generator().manual_seed(seed))
    return decoder


def with_sites(config: DecoderConfig, *layers: int) -> DecoderConfig:
    sites = tuple(site(layer, "uniform_stream") for layer in layers)
    return replace(config, transfer=TransferPlan(sites=sites))


@pytest.mark.parametrize("stack", STACKS)
def test_every_parameter_is_filled_from_the_generator_alone(stack: str) -> None:
    config = with_sites(STACKS[stack], 1, 4)
    first, again, other = fresh(config), fresh(config), fresh(config, seed=1)
    torch.randn(7)
    for (name, a), b in zip(first.named_parameters(), again.parameters(), strict=True):
        assert torch.isfinite(a).all(), name
        assert torch.equal(a, b), name
    assert not torch.equal(first.embed_tokens.weight, other.embed_tokens.weight)


def wide(**changes: object) -> Decoder:
    return fresh(replace(HYBRID, hidden_size=128, intermediate_size=256, **changes))


def test_spreads_and_scaled_outputs() -> None:
    decoder = wide(initializer_range=0.02, vocab_size=512)
    factor = 1 / math.sqrt(len(decoder.layers))
    spread = {
        name: float(p.detach().std()) for name, p in decoder.named_parameters() if p.dim() == 2
    }
    for name, std in spread.items():
        if "conv1d" in name:
            continue
        output = name.endswith(("out_proj.weight", "o_proj.weight", "down_proj.weight"))
        assert std == pytest.approx(0.02 * (factor if output else 1), rel=0.1), name
    for name, parameter in decoder.named_parameters():
        if "norm" in name or name.endswith(".D"):
            assert (parameter == 1).all(), name


def test_scan_parameters_start_as_mamba_does() -> None:
    decoder = wide()
    for layer in decoder.config.layers_of(decoder.config.layers[0]):
        mixer = decoder.layers[layer].get_submodule("mixer")
        assert isinstance(mixer, Mamba2Mixer)
        assert mixer.A_log.exp().tolist() == pytest.approx([1, 2, 3, 4])
        steps = torch.nn.functional.softplus(mixer.dt_bias)
        assert (steps >= 1e-3 * 0.999).all()
        assert (steps <= 1e-1 * 1.001).all()
        assert mixer.conv1d.weight.abs().max() <= 0.5


@pytest.mark.parametrize(
    ("config", "sources"),
    # Hybrid attention at 2 and 4; dense at 0, 2, 4.
    [(HYBRID, {1: 2, 2: 2, 3: 4, 6: 4}), (DENSE, {0: 0, 1: 2, 5: 4})],
)
def test_transfers_copy_the_nearest_attention_at_or_after(
    config: DecoderConfig, sources: dict[int, int]
) -> None:
    decoder = fresh(with_sites(config, *sources))
    for where, source in sources.items():
        transfer = decoder.transfers[str(where)]
        mixer = decoder.layers[source].get_submodule("mixer")
        for name in ("q_proj", "k_proj", "v_proj", "o_proj"):
            own, other = transfer.get_submodule(name), mixer.get_submodule(name)
            assert own.state_dict().keys() == other.state_dict().keys()
            for a, b in zip(own.parameters(), other.parameters(), strict=True):
                assert torch.equal(a, b)
                assert a.data_ptr() != b.data_ptr()
        assert transfer.get_parameter("alpha").item() == 0.0


def test_transfers_can_be_copied_again_after_training() -> None:
    decoder = fresh(with_sites(HYBRID, 1))
    mixer = decoder.layers[2].get_submodule("mixer")
    torch.nn.init.constant_(mixer.get_parameter("q_proj.weight"), 3.0)
    torch.nn.init.constant_(decoder.transfers["1"].get_parameter("alpha"), 0.5)
    init_transfers(decoder)
    assert (decoder.transfers["1"].get_parameter("q_proj.weight") == 3.0).all()
    assert decoder.transfers["1"].get_parameter("alpha").item() == 0.0


def test_init_linear_leaves_everything_else() -> None:
    part = torch.nn.Sequential(torch.nn.Linear(64, 64), torch.nn.LayerNorm(64))
    torch.nn.init.constant_(part[1].weight, 5.0)
    init_linear(part, 0.5, torch.Generator().manual_seed(0))
    assert float(part[0].weight.detach().std()) == pytest.approx(0.5, rel=0.1)
    assert (part[0].bias == 0).all()
    assert (part[1].weight == 5.0).all()
