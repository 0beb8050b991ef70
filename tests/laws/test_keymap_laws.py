"""Laws of the key rules: every key is claimed once, and there and back is the identity."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from timeviper.core.errors import CheckpointError
from timeviper.model.config import DecoderConfig, MambaConfig, VisionConfig
from timeviper.model.decoder import Decoder
from timeviper.model.vision.towers import build_tower
from timeviper.weights import llama, nemotron_h, siglip
from timeviper.weights.fill import on_meta
from timeviper.weights.keymap import KeyMap, LeftOut, Rule

patterns = st.text("M*-", min_size=1, max_size=12)


def hybrid(pattern: str, *, tied: bool = False, bias: bool = True) -> Decoder:
    config = DecoderConfig(
        vocab_size=8,
        hidden_size=4,
        pattern=pattern,
        intermediate_size=6,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        mamba=MambaConfig(num_heads=2, head_dim=2, state_size=2, n_groups=1, conv_bias=bias),
        tie_word_embeddings=tied,
    )
    return on_meta(lambda: Decoder(config))


def dense(layers: int, *, tied: bool, biases: bool, norms: bool) -> Decoder:
    config = DecoderConfig(
        vocab_size=8,
        hidden_size=4,
        pattern="*-" * layers,
        intermediate_size=6,
        num_heads=2,
        num_kv_heads=1,
        head_dim=4,
        activation="silu",
        gated_mlp=True,
        qkv_bias=biases,
        qk_norm=norms,
        rope_theta=1e4,
        tie_word_embeddings=tied,
    )
    return on_meta(lambda: Decoder(config))


def assert_there_and_back(rules: KeyMap, native: Iterable[str]) -> None:
    """Every key of ours has one place there, and every one of those leads back."""
    ours = list(native)
    there = rules.to_foreign(ours)
    assert list(there) == ours
    foreign = [place.key for place in there.values()]
    assert len(set(foreign)) == len(ours)
    back = rules.to_native(foreign)
    assert [place.key for place in back.values()] == ours
    again = rules.to_foreign(place.key for place in back.values())
    assert [place.key for place in again.values()] == foreign
    assert not rules.skipped(foreign)


@given(pattern=patterns, tied=st.booleans(), bias=st.booleans(), newer=st.booleans())
def test_hybrids(pattern: str, tied: bool, bias: bool, newer: bool) -> None:
    decoder = hybrid(pattern, tied=tied, bias=bias)
    spelled = ["model.norm_f.weight"] if newer else []
    assert_there_and_back(nemotron_h.keymap(spelled, tied=tied), decoder.state_dict())


@given(layers=st.integers(1, 12), tied=st.booleans(), biases=st.booleans(), norms=st.booleans())
def test_dense_decoders(layers: int, tied: bool, biases: bool, norms: bool) -> None:
    decoder = dense(layers, tied=tied, biases=biases, norms=norms)
    assert_there_and_back(llama.keymap(tied=tied), decoder.state_dict())


@given(
    layers=st.integers(1, 12),
    layer=st.integers(-12, -1),
    kind=st.sampled_from(["siglip", "siglip2"]),
    root=st.sampled_from(["", "vision_model."]),
)
def test_towers(layers: int, layer: int, kind: str, root: str) -> None:
    config = VisionConfig(
        tower="siglip" if kind == "siglip" else "siglip2",
        hidden_size=4,
        intermediate_size=6,
        num_layers=layers,
        num_heads=2,
        image_size=8,
        patch_size=4,
        feature_layer=max(layer, -layers),
    )
    tower = on_meta(lambda: build_tower(config))
    rules = siglip.keymap([f"{root}head.probe"], used_layers=config.used_layers)
    assert_there_and_back(rules, tower.state_dict())


@given(pattern=patterns, seed=st.integers(0, 99))
def test_values_go_there_and_back(pattern: str, seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    shapes = {key: weight.shape for key, weight in hybrid(pattern).state_dict().items()}
    ours = {key: torch.randn(shape, generator=generator) for key, shape in shapes.items()}
    rules = nemotron_h.keymap()
    there = {place.key: place.convert(ours[key]) for key, place in rules.to_foreign(ours).items()}
    back = {place.key: place.convert(there[key]) for key, place in rules.to_native(there).items()}
    assert back.keys() == ours.keys()
    assert all(torch.equal(back[key], ours[key]) for key in ours)
    stored = {k: p.stored_shape(shapes[p.key]) for k, p in rules.to_native(there).items()}
    assert stored == {key: tuple(value.shape) for key, value in there.items()}


@given(
    pattern=patterns,
    damage=st.sampled_from(["x{}", "{}.x", "layers.{}"]),
    which=st.integers(0, 10**6),
)
def test_a_damaged_key_never_passes(pattern: str, damage: str, which: int) -> None:
    rules = nemotron_h.keymap()
    keys = [place.key for place in rules.to_foreign(hybrid(pattern).state_dict()).values()]
    wrong = damage.format(keys[which % len(keys)])
    with pytest.raises(CheckpointError) as caught:
        rules.to_native([*keys, wrong])
    assert caught.value.got == f"{wrong} (no rule)"


@given(number=st.integers(0, 10**6), scale=st.integers(1, 9), offset=st.integers(0, 9))
def test_arithmetic_on_layer_numbers(number: int, scale: int, offset: int) -> None:
    rules = KeyMap("toy", (Rule("a.{i}.b", f"c.{{{scale}i+{offset}}}.d"),))
    place = rules.to_native([f"a.{number}.b"])[f"a.{number}.b"].key
    assert place == f"c.{scale * number + offset}.d"
    assert rules.to_foreign([place])[place].key == f"a.{number}.b"


@given(edge=st.integers(0, 40), number=st.integers(0, 40))
def test_a_bound_leaves_no_gap_and_no_overlap(edge: int, number: int) -> None:
    rules = KeyMap(
        "toy", (Rule(f"a.{{i<{edge}}}", f"b.{{i<{edge}}}"),), (LeftOut(f"a.{{i>={edge}}}", "why"),)
    )
    key = f"a.{number}"
    assert (key in rules.to_native([key])) == (number < edge)
    assert (key in rules.skipped([key])) == (number >= edge)
