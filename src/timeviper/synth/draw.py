"""Draw moments of worlds as pixels with torch, on any device and at any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from timeviper.synth.objects import load_atlas
from timeviper.synth.world import Worlds

# Width over height that a world is imagined in, whatever the size it is drawn at.
ASPECT = 16 / 9
# Backgrounds are smooth: drawn at a fraction of the size and enlarged.
_COARSE = 4


@dataclass(frozen=True, eq=False, kw_only=True)
class Painter:
    """Worlds and drawings on a device.

    Args:
        worlds: arrays of `Worlds` by name, on the device.
        atlas: premultiplied drawings, shape (object, 4, cell, cell), 0 to 1.
    """

    worlds: dict[str, Tensor]
    atlas: Float[Tensor, "object 4 cell cell"]

    @classmethod
    def of(cls, worlds: Worlds, atlas: Float[Tensor, "object 4 cell cell"]) -> Self:
        """Bring worlds to the device of the drawings."""
        names = ("object_id", "start", "end", "place", "shape")
        names += ("scene_start", "colours", "blobs", "texture")
        moved = {n: torch.from_numpy(getattr(worlds, n)).to(atlas.device) for n in names}
        return cls(worlds=moved, atlas=atlas)

    def draw(
        self,
        number: Int[Tensor, " frame"],
        seconds: Float[Tensor, " frame"],
        *,
        height: int,
        width: int,
    ) -> Float[Tensor, "frame 3 height width"]:
        """Frames as a camera of that size would see them, 0 to 1.

        Args:
            number: world of each frame.
            seconds: moment of each frame.
            height: pixels.
            width: pixels; the world is 16:9 and squeezed into whatever is asked.
        """
        frames = self._background(number, seconds, height, width)
        event, shown = self.showing(number, seconds)
        places = shown.nonzero()[:, 0]
        if len(places):
            layer = self._object(number[places], event[places], seconds[places], height, width)
            below = frames.index_select(0, places)
            frames = frames.index_copy(0, places, layer[:, :3] + below * (1 - layer[:, 3:]))
        return frames.clamp_(0, 1)

    def showing(
        self, number: Int[Tensor, " frame"], seconds: Float[Tensor, " frame"]
    ) -> tuple[Int[Tensor, " frame"], Bool[Tensor, " frame"]]:
        """Event of each frame, and whether there is one."""
        start, end = self.worlds["start"][number], self.worlds["end"][number]
        exists = self.worlds["object_id"][number] >= 0
        on = exists & (start <= seconds[:, None]) & (seconds[:, None] < end)
        return on.int().argmax(1), on.any(1)

    def _object(
        self, number: Tensor, event: Tensor, seconds: Tensor, height: int, width: int
    ) -> Tensor:
        w = {k: self.worlds[k][number, event] for k in ("object_id", "start", "end")}
        x, y, dx, dy = self.worlds["place"][number, event].unbind(-1)
        size, tilt, side = self.worlds["shape"][number, event].unbind(-1)
        share = (seconds - w["start"]) / (w["end"] - w["start"])
        x, y = x + dx * share, y + dy * share
        u, v = _grid(height, width, seconds.device)
        across = (u * 0.5 + 0.5 - x[:, None, None]) * ASPECT / (size / 2)[:, None, None]
        down = (v * 0.5 + 0.5 - y[:, None, None]) / (size / 2)[:, None, None]
        cos, sin = tilt.cos()[:, None, None], tilt.sin()[:, None, None]
        grid = torch.stack(
            [(across * cos + down * sin) * side[:, None, None], down * cos - across * sin], dim=-1
        )
        drawings = self.atlas.index_select(0, w["object_id"])
        return F.grid_sample(drawings, grid, align_corners=False)

    def _background(self, number: Tensor, seconds: Tensor, height: int, width: int) -> Tensor:
        scene = (self.worlds["scene_start"][number] <= seconds[:, None]).sum(1) - 1
        colours = self.worlds["colours"][number, scene]
        angle, strength, frequency, lean, pan_x, pan_y = self.worlds["texture"][
            number, scene
        ].unbind(-1)
        u, v = _grid(height // _COARSE, width // _COARSE, seconds.device)
        u = u + (pan_x * seconds)[:, None, None].remainder(4.0)
        v = v + (pan_y * seconds)[:, None, None].remainder(4.0)
        # Mirrored beyond the edge, so that a pan never runs out of picture.
        u, v = _mirror(u), _mirror(v)
        slope = u * angle.cos()[:, None, None] + v * angle.sin()[:, None, None]
        share = (0.5 + slope / 2.8)[:, None]
        picture = torch.lerp(colours[:, 0, :, None, None], colours[:, 1, :, None, None], share)
        blobs = self.worlds["blobs"][number, scene]
        grid = torch.stack([u, v], dim=-1)
        picture = picture + F.grid_sample(
            blobs, grid, mode="bilinear", padding_mode="border", align_corners=True
        )
        wave = u * lean.cos()[:, None, None] + v * lean.sin()[:, None, None]
        wave = (wave * frequency[:, None, None]).sin() * strength[:, None, None]
        return F.interpolate(
            picture + wave[:, None], size=(height, width), mode="bilinear", align_corners=False
        )


def atlas_tensor(
    size: int, device: torch.device | str = "cpu"
) -> Float[Tensor, "object 4 size size"]:
    """All drawings as a tensor, 0 to 1, premultiplied."""
    cells = torch.from_numpy(load_atlas(size)).to(device)
    return cells.permute(0, 3, 1, 2).float().div_(255)


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
    frames = frames + noise * (rand(n, 1, 1, 1) * 0.03)
    light, contrast = rand(n, 1, 1, 1) * 0.16 - 0.08, 0.85 + 0.3 * rand(n, 1, 1, 1)
    return ((frames - 0.5) * contrast + 0.5 + light).clamp_(0, 1)


def _grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixel centres from -1 to 1, shapes (1, height, width)."""
    v = (torch.arange(height, device=device) + 0.5) / height * 2 - 1
    u = (torch.arange(width, device=device) + 0.5) / width * 2 - 1
    return u.expand(1, height, width), v[:, None].expand(1, height, width)


def _mirror(x: Tensor) -> Tensor:
    return 1 - (1 - (x + 1).remainder(4.0) / 2).abs() * 2
