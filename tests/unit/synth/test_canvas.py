"""Marks on frames: where they go, what they leave alone, and that each frame is for itself."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from timeviper.synth.canvas import (
    bar,
    barred,
    dark,
    degrade,
    framed,
    grain,
    grey,
    mixed,
    stamp,
)


def noisy(count: int = 3, height: int = 48, width: int = 64) -> Tensor:
    return torch.rand(count, 3, height, width, generator=torch.Generator().manual_seed(0))


def full(count: int, colour: tuple[float, float, float], cover: float = 1.0) -> Tensor:
    """Premultiplied drawings of one colour that fill their cells."""
    cell = torch.tensor([*(cover * c for c in colour), cover])
    return cell[None, :, None, None].expand(count, 4, 16, 16).contiguous()


def places(*rows: tuple[float, float, float, float]) -> tuple[Tensor, Tensor]:
    return torch.tensor(rows), torch.tensor([[0.0, 1.0]]).repeat(len(rows), 1)


def test_a_stamp_covers_its_quad_and_nothing_else() -> None:
    frames = noisy(1)
    before = frames.clone()
    stamp(frames, torch.tensor([0]), full(1, (1, 0, 0)), *places((0.5, 0.5, 0.25, 0.25)))
    inside = frames[0, :, 14:34, 18:46]
    assert (inside == torch.tensor([1.0, 0, 0])[:, None, None]).all()
    outside = torch.ones(48, 64, dtype=torch.bool)
    outside[11:37, 14:50] = False
    assert torch.equal(frames[0, :, outside], before[0, :, outside])


def test_a_stamp_touches_only_the_frames_it_is_for() -> None:
    frames = noisy(3)
    before = frames.clone()
    quads = places((0.2, 0.2, 0.1, 0.1), (0.9, 0.9, 0.1, 0.1))
    stamp(frames, torch.tensor([2, 0]), full(2, (0, 1, 0)), *quads)
    assert torch.equal(frames[1], before[1])
    assert frames[2, 1, 10, 13] == 1
    assert frames[0, 1, 43, 58] == 1
    assert torch.equal(frames[2, :, 30:], before[2, :, 30:])


def test_stamps_together_are_stamps_alone() -> None:
    """The pixels that are looked at depend on all quads; what is drawn does not."""
    drawings = torch.rand(3, 4, 16, 16, generator=torch.Generator().manual_seed(1))
    rows = ((0.2, 0.3, 0.1, 0.2), (0.8, 0.6, 0.3, 0.5), (0.5, 1.2, 0.4, 0.3))
    place, look = torch.tensor(rows), torch.tensor([[0.3, 1.0], [-1.0, -1.0], [2.0, 1.0]])
    together = noisy(3)
    stamp(together, torch.arange(3), drawings, place, look)
    for n in range(3):
        alone = noisy(3)[n : n + 1]
        stamp(alone, torch.tensor([0]), drawings[n : n + 1], place[n : n + 1], look[n : n + 1])
        torch.testing.assert_close(alone[0], together[n])


def test_a_half_covering_stamp_lets_half_through() -> None:
    frames = noisy(1)
    want = frames[0, :, 24, 32] / 2 + torch.tensor([0.5, 0, 0])
    stamp(frames, torch.tensor([0]), full(1, (1, 0, 0), 0.5), *places((0.5, 0.5, 0.3, 0.3)))
    torch.testing.assert_close(frames[0, :, 24, 32], want)


def test_thin_lines_survive_being_drawn_small() -> None:
    """Fine stripes drawn at a quarter of their size become their mean, not some of them."""
    stripes = torch.ones(1, 4, 96, 96)
    stripes[:, :3, ::2] = 0
    frames = torch.zeros(1, 3, 48, 48)
    stamp(frames, torch.tensor([0]), stripes, *places((0.5, 0.5, 0.5, 0.5)))
    inside = frames[0, 0, 4:-4, 4:-4]
    assert inside.mean().item() == pytest.approx(0.5, abs=0.02)
    assert inside.std() < 0.1


def test_a_bar_of_no_width_hides_nothing() -> None:
    frames = noisy(2)
    colour = torch.zeros(2, 3)
    made = bar(frames, torch.tensor([0.5, 0.5]), torch.tensor([0.0, 0.25]), colour)
    assert torch.equal(made[0], frames[0])
    assert made[1, :, :, 17:47].max() == 0
    assert torch.equal(made[1, :, :, :15], frames[1, :, :, :15])


def test_changes_keep_what_they_should() -> None:
    frames = noisy()
    assert torch.equal(grey(frames)[:, 0], grey(frames)[:, 2])
    torch.testing.assert_close(grey(frames)[:, 0], grey(grey(frames))[:, 0])
    torch.testing.assert_close(dark(frames) / frames, torch.full_like(frames, 0.35))
    torch.testing.assert_close(framed(frames)[..., 4:-4, 4:-4], frames[..., 4:-4, 4:-4])
    torch.testing.assert_close(barred(frames)[..., 6:-6, :], frames[..., 6:-6, :])
    assert barred(frames)[..., :3, :].max() == 0


def test_hashes_are_spread_and_without_collisions() -> None:
    numbers = mixed(torch.arange(100_000))
    assert len(numbers.unique()) == 100_000
    assert numbers.min() >= 0
    assert numbers.max() < 2**32
    for shift in (0, 8, 16, 24):
        counts = torch.bincount(numbers >> shift & 255, minlength=256)
        assert counts.min() > 300
        assert counts.max() < 480


def test_hashes_are_these_numbers_for_ever() -> None:
    assert mixed(torch.tensor([1, 2, 2**32 - 1, -1])).tolist() == HASHES


HASHES = [1753845952, 3507691905, 1734902346, 1734902346]


def test_grain_has_the_asked_strength_and_is_not_the_same_everywhere() -> None:
    frames = torch.full((64, 3, 40, 60), 0.5)
    made = grain(frames, torch.full((64,), 0.06), mixed(torch.arange(64))) - 0.5
    assert made.std().item() == pytest.approx(0.0346, rel=0.03)
    assert abs(made.mean().item()) < 1e-3
    assert torch.equal(made[:, 0], made[:, 2]), "grain has no colour"
    assert made[:, 0].mean(0).std() < 0.01, "no pixel is brighter in every frame"
    near = torch.stack([made[:, 0, :, 1:].flatten(), made[:, 0, :, :-1].flatten()])
    assert torch.corrcoef(near)[0, 1].abs() < 0.02


def test_degrading_keeps_the_picture_but_not_the_pixels() -> None:
    frames = torch.nn.functional.interpolate(noisy(12, 6, 6), size=(48, 48), mode="bilinear")
    spoiled = degrade(frames, torch.Generator().manual_seed(0))
    assert spoiled.shape == frames.shape
    assert spoiled.min() >= 0
    assert spoiled.max() <= 1
    change = (spoiled - frames).abs().mean((1, 2, 3))
    assert change.min() > 0.002
    assert change.max() < 0.2
    for got, want in zip(spoiled, frames, strict=True):
        both = torch.stack([got.flatten(), want.flatten()])
        assert torch.corrcoef(both)[0, 1] > 0.7


def test_degrading_is_a_function_of_its_generator() -> None:
    frames = noisy()
    kept = frames.clone()
    one, two, three = (degrade(frames, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    assert torch.equal(one, two)
    assert not torch.equal(one, three)
    assert torch.equal(frames, kept), "the input was changed"
