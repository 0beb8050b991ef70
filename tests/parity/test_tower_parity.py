"""SigLIP and SigLIP2 towers give transformers' features of the second-to-last block."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from transformers import (
    Siglip2VisionConfig,
    Siglip2VisionModel,
    SiglipConfig,
    SiglipModel,
    SiglipVisionConfig,
    SiglipVisionModel,
)
from transformers.models.siglip2.image_processing_pil_siglip2 import convert_image_to_patches

from tests.parity.toys import draw
from tests.tolerances import TOL, close
from timeviper.core.precision import Precision
from timeviper.model.vision.tower import VisionTower
from timeviper.weights.loader import load_tower

SIZES = {
    "hidden_size": 24,
    "intermediate_size": 40,
    "num_hidden_layers": 4,
    "num_attention_heads": 3,
    "patch_size": 4,
}
TEXT = {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "vocab_size": 32,
    "max_position_embeddings": 8,
    "bos_token_id": None,
    "eos_token_id": None,
}


def frames(side: int) -> Tensor:
    generator = torch.Generator().manual_seed(3)
    return torch.randn(3, 3, side, side, generator=generator)


@torch.no_grad()
def features(oracle: nn.Module, layer: int, inputs: dict[str, Tensor]) -> Tensor:
    return oracle(**inputs, output_hidden_states=True).hidden_states[layer]


def patched(pixels: Tensor, patch: int) -> dict[str, Tensor]:
    """A SigLIP2 batch as transformers' own processor cuts it."""
    rows = [convert_image_to_patches(frame.numpy(), patch) for frame in pixels]
    side = pixels.shape[-1] // patch
    return {
        "pixel_values": torch.from_numpy(np.stack(rows)),
        "pixel_attention_mask": torch.ones(len(rows), len(rows[0]), dtype=torch.long),
        "spatial_shapes": torch.tensor([[side, side]] * len(rows)),
    }


def saved(oracle: nn.Module, folder: Path) -> nn.Module:
    draw(oracle)
    oracle.eval().save_pretrained(folder)
    return oracle


def load(folder: Path, layer: int) -> VisionTower:
    return load_tower(folder, feature_layer=layer, device="cpu", precision=Precision.FLOAT32)


@pytest.mark.parametrize("layer", [-1, -2, -4])
def test_siglip(layer: int, tmp_path: Path) -> None:
    oracle = saved(SiglipVisionModel(SiglipVisionConfig(**SIZES, image_size=20)), tmp_path)
    want = features(oracle, layer, {"pixel_values": frames(20)})
    with torch.no_grad():
        got = load(tmp_path, layer)(frames(20))
    close(f"features of block {layer}", got=got, want=want, tol=TOL.vision.f32)


def test_the_vision_half_of_a_whole_siglip(tmp_path: Path) -> None:
    config = SiglipConfig(vision_config=SIZES | {"image_size": 20}, text_config=TEXT)
    oracle = saved(SiglipModel(config), tmp_path)
    want = features(oracle.vision_model, -2, {"pixel_values": frames(20)})
    with torch.no_grad():
        got = load(tmp_path, -2)(frames(20))
    close("features", got=got, want=want, tol=TOL.vision.f32)


@pytest.mark.parametrize("layer", [-1, -2])
def test_siglip2(layer: int, tmp_path: Path) -> None:
    oracle = saved(Siglip2VisionModel(Siglip2VisionConfig(**SIZES, num_patches=25)), tmp_path)
    want = features(oracle, layer, patched(frames(20), 4))
    with torch.no_grad():
        got = load(tmp_path, layer)(frames(20))
    close(f"features of block {layer}", got=got, want=want, tol=TOL.vision.f32)


@pytest.mark.parametrize("side", [12, 28])
def test_siglip2_with_a_resized_position_table(side: int, tmp_path: Path) -> None:
    oracle = saved(Siglip2VisionModel(Siglip2VisionConfig(**SIZES, num_patches=25)), tmp_path)
    want = features(oracle, -2, patched(frames(side), 4))
    tower = load_tower(tmp_path, image_size=side, device="cpu", precision=Precision.FLOAT32)
    with torch.no_grad():
        got = tower(frames(side))
    close(f"frames of {side} pixels", got=got, want=want, tol=TOL.vision.f32)


def test_rows_of_frames_do_not_mix(tmp_path: Path) -> None:
    saved(SiglipVisionModel(SiglipVisionConfig(**SIZES, image_size=20)), tmp_path)
    tower, pixels = load(tmp_path, -2), frames(20)
    with torch.no_grad():
        alone = torch.cat([tower(frame[None]) for frame in pixels])
        close("frames together", got=tower(pixels), want=alone, tol=TOL.vision.f32)
