"""Model configs: derived sizes, patterns, transfer sites, and every refusal with its numbers."""

from __future__ import annotations

import json
from dataclasses import replace
from fractions import Fraction
from typing import Any

import pytest

from tests.unit.model.toys import DENSE, HYBRID, site
from timeviper.core.config import from_dict, to_dict
from timeviper.core.errors import ConfigError
from timeviper.model.config import (
    DecoderConfig,
    DropPolicy,
    MambaConfig,
    TimeViperConfig,
    TransferPlan,
    TransferSite,
    VisionConfig,
)
from timeviper.model.pattern import LayerKind, parse_pattern
from timeviper.model.presets import PRESETS, preset

MAMBA = MambaConfig(num_heads=128, head_dim=80, state_size=128, n_groups=8)
VISION = VisionConfig(
    tower="siglip",
    hidden_size=24,
    intermediate_size=32,
    num_layers=4,
    num_heads=2,
    image_size=50,
    patch_size=12,
)


def test_sizes_that_follow() -> None:
    # Nemotron Nano v2: in_proj 22656 = z 10240 + xBC 12288 + dt 128.
    assert (MAMBA.inner_size, MAMBA.conv_size, MAMBA.projection_size) == (10240, 12288, 22656)
    assert VISION.patches == 16
    assert VISION.used_layers == 3
    assert replace(VISION, feature_layer=-1).used_layers == 4
    assert replace(VISION, feature_layer=-4).used_layers == 1


def test_patterns_are_read_letter_by_letter() -> None:
    assert parse_pattern("M*-") == (LayerKind.MAMBA, LayerKind.ATTENTION, LayerKind.MLP)
    assert HYBRID.layers_of(LayerKind.ATTENTION) == (2, 4)
    assert DENSE.layers_of(LayerKind.MAMBA) == ()


@pytest.mark.parametrize(
    ("pattern", "message"),
    [
        ("M-Q*", r"M \(Mamba-2\), \* \(attention\) or - \(MLP\); got 'Q' at position 2 of 'M-Q\*'"),
        ("m", "got 'm' at position 0"),
        ("M- *", "got ' ' at position 2"),
        ("M+", r"got '\+' at position 1"),
        ("", "got an empty one"),
    ],
)
def test_pattern_errors_point_at_the_letter(pattern: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_pattern(pattern)
    with pytest.raises(ConfigError, match=message):
        replace(DENSE, pattern=pattern)


@pytest.mark.parametrize(
    ("rate", "keep"), [(0.0, Fraction(1)), (0.5, Fraction(1, 2)), (0.9, Fraction(1, 10))]
)
def test_rates_are_exact_decimals(rate: float, keep: Fraction) -> None:
    assert site(1, "uniform_stream", rate).keep == keep


def test_a_tenth_of_ten_times_anything_is_that() -> None:
    # 1 - 0.9 is below 0.1 in binary: floats would keep one token too few.
    where = site(1, "attention", 0.9)
    assert all(where.kept(10 * n) == n for n in range(1, 2000))
    assert (where.kept(0), where.kept(1), where.kept(9), where.kept(19)) == (0, 1, 1, 1)


@pytest.mark.parametrize("rate", [-0.1, 1.0, 1.5, float("nan")])
def test_a_rate_outside_its_range_is_refused(rate: float) -> None:
    with pytest.raises(ConfigError, match="a drop rate from 0 to below 1"):
        site(1, "attention", rate)


@pytest.mark.parametrize(
    ("sites", "message"),
    [
        ([site(2, "attention"), site(1, "attention")], r"rising order; got layers \[2, 1\]"),
        ([site(1, "attention"), site(1, "attention")], r"distinct layers .* layers \[1, 1\]"),
    ],
)
def test_sites_stand_in_order(sites: list[TransferSite], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        TransferPlan(sites=tuple(sites))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"hidden_size": 0}, "hidden_size of at least 1; got 0"),
        ({"vocab_size": -1}, "vocab_size of at least 1"),
        ({"head_dim": 0}, "head_dim of at least 1"),
        ({"num_kv_heads": 3}, "num_heads divisible by num_kv_heads; got 4 and 3"),
        ({"mamba": None}, "a `mamba` section for the M layers"),
        ({"transfer": TransferPlan(sites=(site(7, "uniform_stream"),))}, "from 0 to 6; got 7"),
        ({"transfer": TransferPlan(sites=(site(-1, "uniform_stream"),))}, "got -1"),
        (
            {"transfer": TransferPlan(sites=(site(0, "attention"),))},
            r"at an attention layer \(2, 4\); got layer 0 \(M\)",
        ),
        (
            {"transfer": TransferPlan(sites=(site(3, "attention", transfer=False),))},
            r"\(2, 4\); got layer 3 \(M\)",
        ),
        (
            {"pattern": "M-M", "transfer": TransferPlan(sites=(site(1, "uniform_whole"),))},
            "an attention layer for a site that transfers; got pattern 'M-M'",
        ),
        (
            {
                "pattern": "M-M",
                "transfer": TransferPlan(sites=(site(1, "attention", transfer=False),)),
            },
            r"at an attention layer \(none\)",
        ),
    ],
)
def test_a_decoder_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(HYBRID, **change)


def test_plain_dropping_needs_no_attention() -> None:
    plan = TransferPlan(sites=(site(1, "uniform_whole", transfer=False),))
    assert replace(HYBRID, pattern="M-M", transfer=plan).transfer == plan


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"n_groups": 3}, "num_heads divisible by n_groups; got 128 and 3"),
        ({"state_size": 0}, "state_size of at least 1"),
        ({"conv_kernel": 0}, "conv_kernel of at least 1"),
        ({"chunk_size": 0}, "chunk_size of at least 1"),
        ({"time_step_limit": (2.0, 1.0)}, "time_step_limit"),
    ],
)
def test_a_scan_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(MAMBA, **change)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"feature_layer": 0}, "feature_layer from -4 to -1; got 0"),
        ({"feature_layer": -5}, "feature_layer from -4 to -1; got -5"),
        ({"num_heads": 5}, "hidden_size divisible by num_heads; got 24 and 5"),
        ({"patch_size": 0}, "patch_size of at least 1"),
        ({"patch_size": 51}, "patch"),
        ({"intermediate_size": 0}, "intermediate_size of at least 1"),
    ],
)
def test_a_tower_that_cannot_be_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        replace(VISION, **change)


@pytest.mark.parametrize(
    ("projector", "message"),
    [
        ({"tokens_per_frame": 0}, "tokens_per_frame from 1 to 64; got 0"),
        ({"tokens_per_frame": 65}, "tokens_per_frame from 1 to 64; got 65"),
        ({"merge_heads": 7}, "hidden_size divisible by merge_heads; got 192 and 7"),
    ],
)
def test_a_projector_must_suit_its_tower(projector: dict[str, Any], message: str) -> None:
    data = to_dict(preset("tiny"))
    with pytest.raises(ConfigError, match=message):
        from_dict(TimeViperConfig, data | {"projector": data["projector"] | projector})


@pytest.mark.parametrize("name", PRESETS)
def test_every_preset_survives_json(name: str) -> None:
    config = preset(name)
    assert config.name == name
    text = json.dumps(to_dict(config), allow_nan=False)
    assert from_dict(TimeViperConfig, json.loads(text)) == config


@pytest.mark.parametrize(
    ("path", "where"),
    [
        ((), "TimeViperConfig"),
        (("decoder",), r"TimeViperConfig\.decoder"),
        (("decoder", "mamba"), r"TimeViperConfig\.decoder\.mamba"),
        (("vision",), r"TimeViperConfig\.vision"),
        (("projector",), r"TimeViperConfig\.projector"),
    ],
)
def test_an_unknown_key_anywhere_is_named(path: tuple[str, ...], where: str) -> None:
    data = to_dict(preset("tiny-transv"))
    part = data
    for key in path:
        part = part[key]
    part["rope"] = 1
    with pytest.raises(ConfigError, match=f"keys of {where}: .*got unknown key 'rope'"):
        from_dict(TimeViperConfig, data)


def test_policies_are_stored_by_name() -> None:
    sites = to_dict(preset("tiny-transv"))["decoder"]["transfer"]["sites"]
    assert [s["policy"] for s in sites] == ["uniform_stream", "attention"]
    with pytest.raises(ConfigError, match="uniform_whole, uniform_stream, attention; got 'attn'"):
        from_dict(TransferSite, {"layer": 1, "policy": "attn", "drop_rate": 0.5})
    assert from_dict(
        TransferSite, {"layer": 1, "policy": "uniform_whole", "drop_rate": 0}
    ) == TransferSite(layer=1, policy=DropPolicy.UNIFORM_WHOLE, drop_rate=0.0)


def test_configs_are_frozen_and_by_keyword() -> None:
    with pytest.raises(AttributeError):
        HYBRID.hidden_size = 3  # type: ignore[misc]
    with pytest.raises(TypeError):
        DecoderConfig(1, 2)  # type: ignore[call-arg, misc]
