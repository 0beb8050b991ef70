"""Batches of frames that a GPU replays: the same vision tokens, to the bit."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from tests.toy_engine import toy_config, toy_model
from timeviper.inference.graphs import LookRunner
from timeviper.model.vlm import TimeViper


def _see(model: TimeViper, frames: Tensor) -> Tensor:
    weight = next(model.parameters())
    pixels = frames.permute(0, 3, 1, 2).to(weight.dtype).div(255)
    return model.encode_frames(pixels)


def _frames(model: TimeViper, count: int, device: str = "cpu") -> Tensor:
    side = model.config.vision.image_size
    return torch.randint(0, 256, (count, side, side, 3), dtype=torch.uint8).to(device)


def test_a_cpu_captures_nothing() -> None:
    seen: list[int] = []

    def see(frames: Tensor) -> Tensor:
        seen.append(len(frames))
        return frames.float()

    runner = LookRunner(see, frames=2, device=torch.device("cpu"))
    for count in (2, 2, 1, 2):
        assert len(runner(torch.zeros(count, 4, 4, 3, dtype=torch.uint8))) == count
    assert seen == [2, 2, 1, 2]


@pytest.mark.gpu
@torch.inference_mode()
def test_what_is_replayed_is_what_is_seen() -> None:
    """First as it is, then captured, an odd one between, and nothing given out is overwritten."""
    model = toy_model(toy_config("transv"), dtype=torch.float32).to("cuda", torch.bfloat16)
    called: list[int] = []

    def see(frames: Tensor) -> Tensor:
        called.append(len(frames))
        return _see(model, frames)

    runner = LookRunner(see, frames=8, device=torch.device("cuda"))
    batches = [_frames(model, count, "cuda") for count in (8, 8, 3, 8, 8)]
    found = [runner(batch) for batch in batches]
    assert called == [8, 8, 3]
    for batch, got in zip(batches, found, strict=True):
        assert torch.equal(got, _see(model, batch))
