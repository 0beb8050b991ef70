"""A whole model of a few thousand parameters, and folders to break."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from timeviper.model.config import (
    DecoderConfig,
    DropPolicy,
    MambaConfig,
    ProjectorConfig,
    TimeViperConfig,
    TransferPlan,
    TransferSite,
    VisionConfig,
)
from timeviper.model.vlm import TimeViper
from timeviper.weights.native import save_model

SITES = (
    TransferSite(layer=0, policy=DropPolicy.UNIFORM_STREAM, drop_rate=0.5),
    TransferSite(layer=2, policy=DropPolicy.ATTENTION, drop_rate=0.9),
)


def toy_config(*, tied: bool = False) -> TimeViperConfig:
    return TimeViperConfig(
        name="toy",
        vision=VisionConfig(
            tower="siglip",
            hidden_size=16,
            intermediate_size=24,
            num_layers=3,
            num_heads=2,
            image_size=8,
            patch_size=4,
        ),
        projector=ProjectorConfig(tokens_per_frame=2, merge_heads=2),
        decoder=DecoderConfig(
            vocab_size=40,
            hidden_size=16,
            pattern="M-*M",
            intermediate_size=24,
            num_heads=4,
            num_kv_heads=2,
            head_dim=6,
            mamba=MambaConfig(num_heads=4, head_dim=8, state_size=4, n_groups=2, chunk_size=8),
            tie_word_embeddings=tied,
            transfer=TransferPlan(sites=SITES),
        ),
    )


def toy_model(*, tied: bool = False, seed: int = 0) -> TimeViper:
    model = TimeViper(toy_config(tied=tied))
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for weight in model.parameters():
            weight.copy_(torch.randn(weight.shape, generator=generator))
    return model


def saved(folder: Path) -> Path:
    save_model(toy_model(), folder)
    return folder


def edit_config(folder: Path, **changes: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))


def edit_tensors(folder: Path, *, without: tuple[str, ...] = (), **more: torch.Tensor) -> None:
    path = folder / "model.safetensors"
    tensors = {k: v for k, v in load_file(path).items() if k not in without}
    save_file(tensors | {k.replace("__", "."): v for k, v in more.items()}, path)


def same(got: torch.nn.Module, want: torch.nn.Module) -> bool:
    a, b = got.state_dict(), want.state_dict()
    return a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
