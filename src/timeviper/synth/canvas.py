"""Marks on batches of frames: drawings in quads, bars, changes of the picture, grain, wear.

Knows no worlds; every function treats each frame for itself, on any device.
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

# Width over height that a world is imagined in, whatever the size it is drawn at.
ASPECT = 16 / 9
# Drawings are sampled at about that many rows and columns at least, then averaged: a bilinear look
# at every fourth pixel of a letter would lose its strokes.
_FINE = 180
# Grain is a window into one sheet of noise, at one of that many places each way.
_WINDOWS = 64
# Narrow enough that words at the lower edge can still be read.
_BORDER, _BARS, _DIM = 0.06, 0.08, 0.35
_BORDER_COLOUR = (1.0, 0.1, 0.8)
_LUMINANCE = (0.299, 0.587, 0.114)


def stamp(
    frames: Float[Tensor, "frame 3 height width"],
    which: Int[Tensor, " some"],
    drawings: Float[Tensor, "some 4 cell cell"],
    place: Float[Tensor, "some 4"],
    look: Float[Tensor, "some 2"],
) -> None:
    """Lay one drawing over each of some frames, in place.

    Args:
        frames: what is below; changed.
        which: numbers of the frames, each at most once.
        drawings: premultiplied, 0 to 1.
        place: centre x, y, half width, half height, in shares of the frame.
        look: tilt in radians (clockwise on screen), and -1 for mirrored or 1.
    """
    height, width = frames.shape[-2:]
    top, bottom, left, right = _box(place, look, height, width)
    (rows, down_by), (columns, across_by) = _fine(height), _fine(width)
    x, y, half_width, half_height = place[:, :, None].unbind(1)
    tilt, side = look[:, :, None].unbind(1)
    # In frame heights, so that a turn does not bend what is turned.
    u = _centres(columns, frames.device)[left * across_by : right * across_by]
    v = _centres(rows, frames.device)[top * down_by : bottom * down_by]
    across, down = (u - x) * ASPECT, v - y
    wide, cos, sin = side / (half_width * ASPECT), tilt.cos(), tilt.sin()
    grid = frames.new_empty(len(which), len(v), len(u), 2)
    rise = across * sin / half_height
    torch.add((across * cos * wide)[:, None, :], (down * sin * wide)[:, :, None], out=grid[..., 0])
    torch.sub((down * cos / half_height)[:, :, None], rise[:, None, :], out=grid[..., 1])
    layer = _averaged(F.grid_sample(drawings, grid, align_corners=False), down_by, across_by)
    box = (which, slice(None), slice(top, bottom), slice(left, right))
    frames[box] = torch.addcmul(layer[:, :3], frames[box], 1 - layer[:, 3:])


def bar(
    frames: Float[Tensor, "frame 3 height width"],
    centre: Float[Tensor, " frame"],
    half_width: Float[Tensor, " frame"],
    colour: Float[Tensor, "frame 3"],
) -> Float[Tensor, "frame 3 height width"]:
    """Hide an upright strip of each frame; nothing where `half_width` is 0."""
    width = frames.shape[-1]
    away = (_centres(width, frames.device) - centre[:, None]).abs()
    share = ((half_width[:, None] - away) * width + 0.5).clamp_(0, 1) * (half_width > 0)[:, None]
    return torch.lerp(frames, colour[:, :, None, None], share[:, None, None, :])


def grey(frames: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "frame 3 height width"]:
    """Luminance only."""
    weights = torch.tensor(_LUMINANCE, device=frames.device)[:, None, None]
    return (frames * weights).sum(1, keepdim=True).expand_as(frames)


def dark(frames: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "frame 3 height width"]:
    """About a third of the light."""
    return frames * _DIM


def framed(frames: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "frame 3 height width"]:
    """A bright border all around."""
    height, width = frames.shape[-2:]
    down = _edge(height, _BORDER, frames.device)
    across = _edge(width, _BORDER / ASPECT, frames.device)
    colour = torch.tensor(_BORDER_COLOUR, device=frames.device)[:, None, None].expand_as(frames)
    return torch.lerp(frames, colour, torch.maximum(down[:, None], across[None, :]))


def barred(frames: Float[Tensor, "frame 3 height width"]) -> Float[Tensor, "frame 3 height width"]:
    """Black bars above and below."""
    return frames * (1 - _edge(frames.shape[-2], _BARS, frames.device)[:, None])


def grain(
    frames: Float[Tensor, "frame 3 height width"],
    strength: Float[Tensor, " frame"],
    key: Int[Tensor, " frame"],
) -> Float[Tensor, "frame 3 height width"]:
    """Add film noise, the same for the same size and key.

    Args:
        frames: 0 to 1.
        strength: amplitude; the noise deviates by 0.58 of it, as one between its ends does.
        key: hashed number of each frame, at least 0.
    """
    height, width = frames.shape[-2:]
    sheet = _noise(height + _WINDOWS - 1, width + _WINDOWS - 1, frames.device)
    windows = sheet.unfold(0, height, 1).unfold(1, width, 1)
    noise = windows[key % _WINDOWS, (key >> 8) % _WINDOWS]
    sign = (((key >> 16) & 1) * 2 - 1) * strength
    return torch.addcmul(frames, noise[:, None], sign[:, None, None, None])


def mixed(numbers: Int[Tensor, "*shape"]) -> Int[Tensor, "*shape"]:
    """Hash of each number, 0 to 2**32 - 1: integers only, so the same on every device."""
    x = numbers & 0xFFFFFFFF
    for shift, factor in ((16, 0x7FEB352D), (15, 0x846CA68B)):
        x = ((x ^ (x >> shift)) * factor) & 0xFFFFFFFF
    return x ^ (x >> 16)


def degrade(
    frames: Float[Tensor, "frame 3 height width"], generator: torch.Generator
) -> Float[Tensor, "frame 3 height width"]:
    """What cameras, codecs and resizing do, for training: blur, blocks, noise, light.

    Args:
        frames: 0 to 1.
        generator: source of chance, on the frames' device.
    """
    n, _, height, width = frames.shape

    def rand(*shape: int) -> Tensor:
        return torch.rand(shape, generator=generator, device=frames.device)

    blurred = F.interpolate(
        F.avg_pool2d(frames, 2), size=(height, width), mode="bilinear", align_corners=False
    )
    frames = torch.lerp(frames, blurred, rand(n, 1, 1, 1) * 0.8)
    blocks = F.interpolate(rand(n, 3, height // 4, width // 3) - 0.5, size=(height, width))
    frames = frames + blocks * (rand(n, 1, 1, 1) * 0.06)
    noise = torch.randn(frames.shape, generator=generator, device=frames.device)
    frames = frames + noise * (rand(n, 1, 1, 1) * 0.04)
    light, contrast = rand(n, 1, 1, 1) * 0.16 - 0.08, 0.85 + 0.3 * rand(n, 1, 1, 1)
    return ((frames - 0.5) * contrast + 0.5 + light).clamp_(0, 1)


def _noise(height: int, width: int, device: torch.device) -> Tensor:
    """Bell-shaped noise of mean 0 and deviation 0.58: four bytes of a hash a pixel, added."""
    # A pixel's number must not depend on the sheet's width, or sizes would share no grain.
    rows = torch.arange(height, device=device)[:, None] << 16
    bits = mixed(rows + torch.arange(width, device=device))
    total = (bits & 255) + (bits >> 8 & 255) + (bits >> 16 & 255) + (bits >> 24)
    return (total - 510).float() / 256


def _edge(size: int, share: float, device: torch.device) -> Tensor:
    """1 within that share of either end, 0 elsewhere, in between for the pixel it cuts."""
    x = _centres(size, device)
    return ((share - torch.minimum(x, 1 - x)) * size + 0.5).clamp_(0, 1)


def _centres(size: int, device: torch.device) -> Tensor:
    """Pixel centres as shares of the frame."""
    return (torch.arange(size, device=device) + 0.5) / size


def _box(place: Tensor, look: Tensor, height: int, width: int) -> tuple[int, int, int, int]:
    """Pixels outside of which none of the frames' quads shows: top, bottom, left, right."""
    x, y, half_width, half_height = place.unbind(-1)
    cos, sin = look[:, 0].cos().abs(), look[:, 0].sin().abs()
    # A drawing fades out over half a pixel of its own beyond its quad.
    across = 1.05 * (half_width * cos + half_height * sin / ASPECT) + 1 / width
    down = 1.05 * (half_height * cos + half_width * ASPECT * sin) + 1 / height
    low = torch.stack([(y - down).min() * height, (x - across).min() * width])
    high = torch.stack([(y + down).max() * height, (x + across).max() * width])
    top, left, bottom, right = torch.cat([low.floor(), high.ceil()]).long().tolist()
    top, left = min(max(top, 0), height - 1), min(max(left, 0), width - 1)
    return top, max(min(bottom, height), top + 1), left, max(min(right, width), left + 1)


def _averaged(layer: Tensor, down_by: int, across_by: int) -> Tensor:
    """Means of blocks, by sums of slices: pooling has no fast code on a CPU."""
    if down_by > 1:
        layer = sum(
            (layer[..., k::down_by, :] for k in range(1, down_by)), layer[..., ::down_by, :]
        )
        layer = layer / down_by
    if across_by > 1:
        layer = sum(
            (layer[..., k::across_by] for k in range(1, across_by)), layer[..., ::across_by]
        )
        layer = layer / across_by
    return layer


def _fine(size: int) -> tuple[int, int]:
    """Pixels to sample along one side, and how many of them make one."""
    times = max(1, round(_FINE / size))
    return size * times, times
