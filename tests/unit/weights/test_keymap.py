"""Rules claim every key once, do arithmetic on layer numbers, and name what they do not know."""

from __future__ import annotations

import pytest
import torch

from timeviper.core.errors import CheckpointError
from timeviper.weights.keymap import DEPTHWISE, KeyMap, LeftOut, Rule

DENSE = KeyMap(
    "toy",
    (
        Rule("embed", "words"),
        Rule("block.{i}.attn", "layers.{2i}.mixer"),
        Rule("block.{i}.mlp", "layers.{2i+1}.mixer"),
        Rule("block.{i}.conv", "layers.{2i}.conv", DEPTHWISE),
    ),
    (LeftOut("block.{i}.cache", "computed"), LeftOut("text.{*}", "not read")),
)


def renamed(keymap: KeyMap, *keys: str) -> dict[str, str]:
    return {old: place.key for old, place in keymap.to_native(keys).items()}


def test_layer_numbers_follow_the_arithmetic() -> None:
    got = renamed(DENSE, "embed", "block.0.attn", "block.0.mlp", "block.11.attn", "block.11.mlp")
    assert list(got.values()) == [
        "words",
        "layers.0.mixer",
        "layers.1.mixer",
        "layers.22.mixer",
        "layers.23.mixer",
    ]


def test_odd_and_even_layers_go_back_to_their_halves() -> None:
    got = DENSE.to_foreign(["layers.6.mixer", "layers.7.mixer"])
    assert [place.key for place in got.values()] == ["block.3.attn", "block.3.mlp"]


def test_left_out_keys_have_reasons() -> None:
    keys = ["embed", "block.4.cache", "text.a.b"]
    assert renamed(DENSE, *keys) == {"embed": "words"}
    assert DENSE.skipped(keys) == {"block.4.cache": "computed", "text.a.b": "not read"}


def test_every_unknown_key_is_listed() -> None:
    keys = ["embed", "block.x.attn", "block.01.mlp", "block.-1.mlp", "embed.more", "other"]
    with pytest.raises(CheckpointError) as caught:
        DENSE.to_native(keys)
    assert caught.value.got == ", ".join(f"{key} (no rule)" for key in keys[1:])
    with pytest.raises(CheckpointError, match=r"layers\.1\.conv \(no rule\)"):
        DENSE.to_foreign(["layers.0.conv", "layers.1.conv"])


def test_a_key_that_two_rules_claim_is_an_error() -> None:
    twice = KeyMap("toy", (Rule("a.{i}", "x.{i}"), Rule("a.0", "y")))
    assert renamed(twice, "a.1") == {"a.1": "x.1"}
    with pytest.raises(CheckpointError, match=r"a\.0 \(several rules\)"):
        twice.to_native(["a.0", "a.1"])
    hidden = KeyMap("toy", (Rule("a.{i}", "x.{i}"),), (LeftOut("a.{*}", "why"),))
    with pytest.raises(CheckpointError, match="several rules"):
        hidden.to_native(["a.0"])


def test_two_keys_of_one_place_are_an_error() -> None:
    merged = KeyMap("toy", (Rule("a", "x"), Rule("b", "x")))
    with pytest.raises(CheckpointError, match=r"b \(same place as a\)"):
        merged.to_native(["a", "b"])


def test_bounds_split_a_family() -> None:
    first = KeyMap("toy", (Rule("a.{i<3}", "x.{i<3}"),), (LeftOut("a.{i>=3}", "later"),))
    assert renamed(first, *(f"a.{i}" for i in range(6))) == {f"a.{i}": f"x.{i}" for i in range(3)}
    with pytest.raises(CheckpointError, match=r"x\.3"):
        first.to_foreign(["x.3"])


def test_values_are_converted_both_ways() -> None:
    weight = torch.randn(6, 1, 4)
    inward = DENSE.to_native(["block.0.conv"])["block.0.conv"]
    outward = DENSE.to_foreign(["layers.0.conv"])["layers.0.conv"]
    assert inward.convert(weight).shape == (6, 4)
    assert torch.equal(outward.convert(inward.convert(weight)), weight)
    assert inward.stored_shape((6, 4)) == (6, 1, 4)
    assert outward.stored_shape((6, 1, 4)) == (6, 4)


def test_values_without_conversion_pass_untouched() -> None:
    place = DENSE.to_native(["embed"])["embed"]
    weight = torch.randn(2, 3)
    assert place.convert(weight) is weight
    assert place.stored_shape((2, 3)) == (2, 3)
