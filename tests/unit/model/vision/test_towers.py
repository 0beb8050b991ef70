"""Towers: the table, row-major patches, the chosen block, and frames of any precision."""

from __future__ import annotations

from dataclasses import replace
from typing import get_args, get_type_hints

import pytest
import torch

from tests.tolerances import TOL, close
from timeviper.model.config import VisionConfig
from timeviper.model.vision.siglip import Siglip2Tower, patchify
from timeviper.model.vision.tower import VisionTower
from timeviper.model.vision.towers import TOWERS, build_tower

SIGLIP = VisionConfig(
    tower="siglip",
    hidden_size=12,
    intermediate_size=16,
    num_layers=3,
    num_heads=2,
    image_size=20,
    patch_size=4,
)
SIGLIP2 = replace(SIGLIP, tower="siglip2", position_patches=16)


def test_the_table_has_every_tower_that_a_config_may_name() -> None:
    assert set(TOWERS) == set(get_args(get_type_hints(VisionConfig)["tower"]))
    assert all(issubclass(tower, VisionTower) for tower in TOWERS.values())


@pytest.mark.parametrize("config", [SIGLIP, SIGLIP2])
@torch.no_grad()
def test_features_of_each_frame_alone(config: VisionConfig) -> None:
    tower = build_tower(config).double().eval()
    assert isinstance(tower, TOWERS[config.tower])
    frames = torch.randn(3, 3, 20, 20, dtype=torch.float64)
    got = tower(frames)
    assert got.shape == (3, config.patches, 12)
    alone = torch.cat([tower(frame[None]) for frame in frames])
    close("frames", got=got, want=alone, tol=TOL.vision.f64)


@pytest.mark.parametrize("config", [SIGLIP, SIGLIP2])
@torch.no_grad()
def test_only_the_blocks_that_are_needed_are_built_and_run(config: VisionConfig) -> None:
    frames = torch.randn(1, 3, 20, 20)
    full = build_tower(replace(config, feature_layer=-1)).eval()
    for layer, blocks in ((-1, 3), (-2, 2), (-3, 1)):
        tower = build_tower(replace(config, feature_layer=layer)).eval()
        layers = tower.get_submodule("layers")
        assert len(list(layers.children())) == blocks
        missing = tower.load_state_dict(full.state_dict(), strict=False)
        assert missing.missing_keys == []
        seen: list[torch.Tensor] = []
        hook = full.get_submodule(f"layers.{blocks - 1}").register_forward_hook(
            lambda module, args, output: seen.append(sum(output))  # noqa: B023
        )
        full(frames)
        hook.remove()
        close(f"block {blocks}", got=tower(frames), want=seen[0], tol=TOL.vision.f32)


@pytest.mark.parametrize("config", [SIGLIP, SIGLIP2])
@torch.no_grad()
def test_towers_of_bfloat16_take_float32_frames(config: VisionConfig) -> None:
    tower = build_tower(config).bfloat16().eval()
    got = tower(torch.randn(2, 3, 20, 20))
    assert got.dtype == torch.bfloat16
    assert torch.isfinite(got).all()


def test_patches_lie_row_by_row_with_channels_last() -> None:
    y, x = torch.meshgrid(torch.arange(4.0), torch.arange(4.0), indexing="ij")
    frame = torch.stack([y, x, torch.full((4, 4), 9.0)])[None]
    patches = patchify(frame, 2)
    assert patches.shape == (1, 4, 12)
    # The second patch: rows 0 and 1, columns 2 and 3.
    assert patches[0, 1].tolist() == [0, 2, 9, 0, 3, 9, 1, 2, 9, 1, 3, 9]


@torch.no_grad()
def test_positions_are_resized_to_the_frame_and_learn() -> None:
    tower = build_tower(SIGLIP2)
    assert isinstance(tower, Siglip2Tower)
    tower.embeddings.position_embedding.weight.fill_(0.5)
    flat = tower.double()(torch.zeros(1, 3, 20, 20, dtype=torch.float64))
    # One position everywhere and the same patch everywhere: the same features everywhere.
    close("flat", got=flat, want=flat[:, :1].expand_as(flat), tol=TOL.vision.f32)
    with torch.enable_grad():
        tower(torch.randn(1, 3, 20, 20, dtype=torch.float64)).sum().backward()
    grad = tower.embeddings.position_embedding.weight.grad
    assert grad is not None
    assert grad.any()
