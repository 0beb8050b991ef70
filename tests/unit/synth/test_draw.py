"""Drawn frames show what the world says, at any size, without a loop over frames."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from timeviper.synth.draw import Painter, atlas_tensor, degrade
from timeviper.synth.objects import load_atlas, load_names
from timeviper.synth.world import Worlds, sample_worlds


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    every = sample_worlds(np.random.default_rng(5), 40, 64)
    return every.select([n for n in range(40) if every.object_id[n, 0] >= 0][:24])


@pytest.fixture(scope="module")
def painter(worlds: Worlds) -> Painter:
    return Painter.of(worlds, atlas_tensor(96))


def middles(worlds: Worlds) -> Tensor:
    """The middle of each world's first appearance."""
    return torch.from_numpy((worlds.start[:, 0] + worlds.end[:, 0]) / 2).float()


def empty_seconds(worlds: Worlds) -> Tensor:
    """For each world the last second of a video in which nothing shows, else its last second."""
    found = []
    for n in range(len(worlds)):
        world = worlds.world(n)
        free = [s for s in range(64) if world.at(s) is None]
        found.append(free[-1] if free else 63)
    return torch.tensor(found, dtype=torch.float32)


def background_only(worlds: Worlds) -> Painter:
    nothing = np.full_like(worlds.object_id, -1)
    names = ("start", "end", "place", "shape", "scene_start", "colours", "blobs", "texture")
    arrays = {name: getattr(worlds, name) for name in names}
    return Painter.of(Worlds(num_frames=64, object_id=nothing, **arrays), atlas_tensor(48))


def test_atlas_tensor_is_the_atlas_in_torch_order() -> None:
    atlas = atlas_tensor(24)
    assert atlas.shape == (len(load_names()), 4, 24, 24)
    want = load_atlas(24)[7].transpose(2, 0, 1) / 255
    torch.testing.assert_close(atlas[7], torch.from_numpy(want).float())


@pytest.mark.parametrize(("height", "width"), [(96, 96), (180, 320), (48, 60)])
def test_frames_have_the_asked_size_and_range(
    painter: Painter, worlds: Worlds, height: int, width: int
) -> None:
    frames = painter.draw(torch.arange(24), middles(worlds), height=height, width=width)
    assert frames.shape == (24, 3, height, width)
    assert frames.dtype == torch.float32
    assert frames.min() >= 0
    assert frames.max() <= 1


def test_an_appearance_shows_from_start_until_before_end(painter: Painter, worlds: Worlds) -> None:
    for n in range(len(worlds)):
        world = worlds.world(n)
        seconds = torch.arange(0, 64, 0.25)
        event, shown = painter.showing(torch.full((256,), n), seconds)
        for second, number, on in zip(
            seconds.tolist(), event.tolist(), shown.tolist(), strict=True
        ):
            want = world.at(second)
            assert on == (want is not None), (n, second)
            if want is not None:
                assert worlds.object_id[n, number] == want.object_id


def test_drawing_does_not_depend_on_the_company(painter: Painter, worlds: Worlds) -> None:
    seconds = middles(worlds)
    together = painter.draw(torch.arange(24), seconds, height=48, width=48)
    for n in (0, 11, 23):
        alone = painter.draw(torch.tensor([n]), seconds[n : n + 1], height=48, width=48)
        torch.testing.assert_close(alone[0], together[n])


def test_frames_without_an_object_are_background_alone(painter: Painter, worlds: Worlds) -> None:
    which, seconds = torch.arange(24), empty_seconds(worlds)
    free = ~painter.showing(which, seconds)[1]
    assert free.sum() > 12
    drawn = painter.draw(which, seconds, height=48, width=80)
    bare = background_only(worlds).draw(which, seconds, height=48, width=80)
    torch.testing.assert_close(drawn[free], bare[free])


def test_frames_with_an_object_show_its_drawing(painter: Painter, worlds: Worlds) -> None:
    """Cut out where the world says it is, the right drawing correlates best of all."""
    seconds, height, width = middles(worlds), 180, 320
    frames = painter.draw(torch.arange(24), seconds, height=height, width=width)
    side = 32
    cells = torch.from_numpy(load_atlas(side)).permute(0, 3, 1, 2).float() / 255
    found = 0
    for n in range(24):
        x, y, dx, dy = worlds.place[n, 0]
        size, _, mirrored = worlds.shape[n, 0]
        half = int(size * height / 2)
        column, row = int((x + dx / 2) * width), int((y + dy / 2) * height)
        top, left = max(0, row - half), max(0, column - half)
        patch = frames[n : n + 1, :, top : row + half, left : column + half]
        patch = F.interpolate(patch, size=(side, side), mode="area")[0]
        patch = patch.flip(-1) if mirrored < 0 else patch
        ground = patch[:, ::31, ::31].mean((1, 2), keepdim=True)
        looks = cells[:, :3] + ground * (1 - cells[:, 3:])
        found += int((looks - patch).square().mean((1, 2, 3)).argmin() == worlds.object_id[n, 0])
    # Tilt and a strong background deceive this simple eye now and then.
    assert found >= 18


def test_small_drawing_is_the_large_one_resized(painter: Painter, worlds: Worlds) -> None:
    """Training draws small what evaluation films large and squeezes."""
    which, seconds = torch.arange(24), middles(worlds)
    large = painter.draw(which, seconds, height=180, width=320)
    squeezed = F.interpolate(large, size=(96, 96), mode="area")
    small = F.avg_pool2d(painter.draw(which, seconds, height=96, width=192), (1, 2))
    gap = (small - squeezed).abs()
    assert gap.mean() < 0.01
    assert gap.mean((1, 2, 3)).max() < 0.03


def test_objects_move_and_backgrounds_pan(painter: Painter, worlds: Worlds) -> None:
    start = torch.from_numpy(worlds.start[:, 0]).float()
    end = torch.from_numpy(worlds.end[:, 0]).float() - 0.25
    first = painter.draw(torch.arange(24), start, height=48, width=48)
    last = painter.draw(torch.arange(24), end, height=48, width=48)
    assert ((first - last).abs().amax((1, 2, 3)) > 0.02).float().mean() > 0.9


def test_a_world_of_nothing_is_drawn() -> None:
    nothing = sample_worlds(np.random.default_rng(0), 3, 16)
    painter = background_only_of(nothing)
    frames = painter.draw(torch.arange(3), torch.zeros(3), height=24, width=24)
    assert frames.std() > 0.01


def background_only_of(worlds: Worlds) -> Painter:
    painter = Painter.of(worlds, atlas_tensor(24))
    painter.worlds["object_id"].fill_(-1)
    return painter


def test_degrading_keeps_the_picture_but_not_the_pixels(painter: Painter, worlds: Worlds) -> None:
    frames = painter.draw(torch.arange(24), middles(worlds), height=96, width=96)
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


def test_degrading_is_a_function_of_its_generator(painter: Painter, worlds: Worlds) -> None:
    frames = painter.draw(torch.arange(4), middles(worlds)[:4], height=48, width=48)
    one, two, three = (degrade(frames, torch.Generator().manual_seed(s)) for s in (1, 1, 2))
    torch.testing.assert_close(one, two, rtol=0, atol=0)
    assert not torch.equal(one, three)
    kept = painter.draw(torch.arange(4), middles(worlds)[:4], height=48, width=48)
    torch.testing.assert_close(frames, kept, rtol=0, atol=0, msg="the input was changed")
