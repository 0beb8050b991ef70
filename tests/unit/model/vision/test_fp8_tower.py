"""Towers in FP8: as near as the format allows, every layer replaced or none, no gradients."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from tests.tolerances import TOL, close
from timeviper.core.errors import ConfigError
from timeviper.model.config import VisionConfig
from timeviper.model.vision.fp8 import Fp8Layer, quantize_tower_
from timeviper.model.vision.layer import SiglipLayer
from timeviper.model.vision.tower import VisionTower
from timeviper.model.vision.towers import build_tower
from timeviper.ops.backend import override

SIGLIP = VisionConfig(
    tower="siglip",
    hidden_size=64,
    intermediate_size=112,
    num_layers=4,
    num_heads=4,
    image_size=21,
    patch_size=4,
)
SIGLIP2 = replace(SIGLIP, tower="siglip2", position_patches=16)


@pytest.fixture(autouse=True)
def _emulated() -> Iterator[None]:
    """A CPU has no FP8 products."""
    with ExitStack() as stack:
        for op in ("fp8_product", "fp8_linear"):
            stack.enter_context(override(op, "emulated"))
        yield


def _tower(config: VisionConfig) -> VisionTower:
    return build_tower(config).bfloat16().eval().requires_grad_(requires_grad=False)


def _frames(count: int) -> Tensor:
    return torch.randn(count, 3, 21, 21)


@pytest.mark.parametrize("config", [SIGLIP, SIGLIP2])
def test_every_layer_is_replaced_and_frames_stay_apart(config: VisionConfig) -> None:
    tower, frames = _tower(config), _frames(3)
    want = tower(frames)
    assert quantize_tower_(tower) == ("layers.0", "layers.1", "layers.2")
    assert all(isinstance(layer, Fp8Layer) for layer in tower.get_submodule("layers").children())
    got = tower(frames)
    assert got.dtype == torch.bfloat16
    assert got.shape == want.shape
    again = tower(frames[1:2])
    close("a frame alone", got=again, want=got[1:2], tol=TOL.vision.bf16)


@pytest.mark.parametrize("config", [SIGLIP, SIGLIP2])
def test_features_differ_by_the_rounding_alone(config: VisionConfig) -> None:
    tower = _tower(config)
    frames = _frames(2)
    want = tower(frames)
    quantize_tower_(tower)
    got = tower(frames)
    assert not torch.equal(got, want)
    close("features", got=got, want=want, tol=2 * TOL.fp8.f32)


def test_weights_take_fewer_bytes() -> None:
    tower = _tower(SIGLIP)
    layers = tower.get_submodule("layers")
    before = sum(p.nbytes for p in layers.parameters())
    quantize_tower_(tower)
    held = (*layers.parameters(), *layers.buffers())
    assert sum(t.nbytes for t in held) < 0.75 * before


def test_widths_that_do_not_fit_leave_the_tower_as_it_is() -> None:
    tower = _tower(replace(SIGLIP, intermediate_size=100))
    assert quantize_tower_(tower) == ()
    assert all(isinstance(layer, SiglipLayer) for layer in tower.get_submodule("layers").children())


def test_gradients_are_refused() -> None:
    tower = build_tower(SIGLIP).bfloat16()
    quantize_tower_(tower)
    with pytest.raises(ConfigError, match="gradient"):
        tower(_frames(1))
