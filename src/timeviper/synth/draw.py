"""Draw moments of worlds as pixels with torch, on any device and at any size."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields
from typing import Self

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from timeviper.synth.catalogue import things
from timeviper.synth.footage import Footage
from timeviper.synth.objects import load_atlas, load_signs
from timeviper.synth.world import SLOTS, Change, Worlds

# Width over height that a world is imagined in, whatever the size it is drawn at.
ASPECT = 16 / 9
# Backgrounds are smooth: drawn at a fraction of the size and enlarged.
_COARSE = 4
# What a change does: light that stays in the dark, width of a frame, height of each bar.
_DIM, _FRAME, _BAR = 0.35, 0.06, 0.08
_FRAME_COLOUR = (1.0, 0.1, 0.8)
_CODES = {change: code for code, change in enumerate(Change)}


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """What frames show.

    Args:
        thing: id of the thing on screen; `len(things())` where nothing is.
        partner: id of its partner; `len(things())` where it has none.
        geometry: of the thing, centre x and y, half height as shares of the frame, sine and
            cosine of its tilt; shape (frame, 5), zeros where nothing is.
        change: code of the change in force, in the order of `Change`.
    """

    thing: Int[Tensor, " frame"]
    partner: Int[Tensor, " frame"]
    geometry: Float[Tensor, "frame 5"]
    change: Int[Tensor, " frame"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Painter:
    """Worlds and drawings on a device.

    Args:
        worlds: arrays of `Worlds` by name, on the device.
        atlas: premultiplied drawings, shape (drawing, 4, cell, cell), 0 to 1.
        footage: real clips for the worlds that are shown before one.
        grain: whether the worlds' film noise is drawn.
    """

    worlds: dict[str, Tensor]
    atlas: Float[Tensor, "drawing 4 cell cell"]
    footage: Footage | None = None
    grain: bool = True

    @classmethod
    def of(
        cls,
        worlds: Worlds,
        atlas: Float[Tensor, "drawing 4 cell cell"],
        footage: Footage | None = None,
        *,
        grain: bool = True,
    ) -> Self:
        """Bring worlds to the device of the drawings.

        Raises:
            RequestError: a world before a clip that `footage` does not hold.
        """
        Footage.check(footage, worlds.footage[:, 0])
        names = [f.name for f in fields(worlds) if f.name != "num_frames"]
        moved = {n: torch.from_numpy(getattr(worlds, n)).to(atlas.device) for n in names}
        return cls(worlds=moved, atlas=atlas, footage=footage, grain=grain)

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
        frames = self._filmed(frames, number, seconds)
        event, shown = self.showing(number, seconds)
        for slot in range(SLOTS):
            drawn = shown & (self.worlds["thing"][number, event, slot] >= 0)
            places = drawn.nonzero()[:, 0]
            if len(places):
                chosen = (number[places], event[places], seconds[places])
                layer = self._layer(*chosen, slot=slot, height=height, width=width)
                below = frames.index_select(0, places)
                frames.index_copy_(0, places, layer[:, :3] + below * (1 - layer[:, 3:]))
        self._cover(frames, number, event, seconds, shown)
        self._change(frames, number, seconds)
        if self.grain:
            self._grain(frames, number, seconds)
        return frames.clamp_(0, 1)

    def showing(
        self, number: Int[Tensor, " frame"], seconds: Float[Tensor, " frame"]
    ) -> tuple[Int[Tensor, " frame"], Bool[Tensor, " frame"]]:
        """Event of each frame, and whether there is one."""
        start, end = self.worlds["start"][number], self.worlds["end"][number]
        exists = self.worlds["thing"][number, :, 0] >= 0
        on = exists & (start <= seconds[:, None]) & (seconds[:, None] < end)
        return on.int().argmax(1), on.any(1)

    def truth(self, number: Int[Tensor, " frame"], seconds: Float[Tensor, " frame"]) -> Truth:
        """What frames show, for a tower to learn."""
        event, shown = self.showing(number, seconds)
        nothing = len(things())
        ids = self.worlds["thing"][number, event]
        thing = torch.where(shown, ids[:, 0], nothing)
        partner = torch.where(shown & (ids[:, 1] >= 0), ids[:, 1], nothing)
        x, y, _, half, tilt = self._placed(number, event, seconds, 0)
        geometry = torch.stack([x, y, half, tilt.sin(), tilt.cos()], dim=-1) * shown[:, None]
        kind, second = self.worlds["change"][number].unbind(-1)
        change = torch.where(seconds >= second, kind, 0).long()
        return Truth(thing=thing, partner=partner, geometry=geometry, change=change)

    def _placed(
        self, number: Tensor, event: Tensor, seconds: Tensor, slot: int
    ) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor]:
        """Centre, half width, half height and tilt of a drawing at a moment."""
        x, y, wide, high = self.worlds["place"][number, event, slot].unbind(-1)
        if slot:
            return x, y, wide, high, torch.zeros_like(x)
        start, end = self.worlds["start"][number, event], self.worlds["end"][number, event]
        share = (seconds - start) / (end - start).clamp(min=1)
        dx, dy, growth, turn = self.worlds["move"][number, event].unbind(-1)
        size = growth**share
        tilt = self.worlds["look"][number, event, 0] + turn * share
        return x + dx * share, y + dy * share, wide * size, high * size, tilt

    def _layer(
        self,
        number: Tensor,
        event: Tensor,
        seconds: Tensor,
        *,
        slot: int,
        height: int,
        width: int,
    ) -> Tensor:
        """One drawing of each frame, premultiplied, shape (frame, 4, height, width)."""
        parts = self._placed(number, event, seconds, slot)
        x, y, wide, high, tilt = (part[:, None, None] for part in parts)
        u, v = _grid(height, width, seconds.device)
        # Turned where lengths are the same both ways, then measured in halves of the drawing.
        across, down = (u * 0.5 + 0.5 - x) * ASPECT, v * 0.5 + 0.5 - y
        cos, sin = tilt.cos(), tilt.sin()
        turned = (across * cos + down * sin) / (wide * ASPECT)
        if slot == 0:
            turned = turned * self.worlds["look"][number, event, 1][:, None, None]
        grid = torch.stack([turned, (down * cos - across * sin) / high], dim=-1)
        drawings = self.atlas.index_select(0, self.worlds["thing"][number, event, slot])
        return F.grid_sample(drawings, grid, align_corners=False)

    def _cover(
        self, frames: Tensor, number: Tensor, event: Tensor, seconds: Tensor, shown: Tensor
    ) -> None:
        """Bars that pass before what is shown."""
        cover = self.worlds["cover"][number, event]
        places = (shown & (cover[:, 2] > 0)).nonzero()[:, 0]
        if not len(places):
            return
        first, last, half = (part[:, None, None] for part in cover[places, :3].unbind(-1))
        chosen = (number[places], event[places])
        start, end = self.worlds["start"][chosen], self.worlds["end"][chosen]
        share = ((seconds[places] - start) / (end - start))[:, None, None]
        u, _ = _grid(frames.shape[2], frames.shape[3], frames.device)
        hidden = ((u * 0.5 + 0.5 - first - (last - first) * share).abs() < half)[:, None]
        colour = cover[places, 3:, None, None]
        frames.index_copy_(0, places, torch.where(hidden, colour, frames[places]))

    def _change(self, frames: Tensor, number: Tensor, seconds: Tensor) -> None:
        """What has happened to the whole picture."""
        kind, second = self.worlds["change"][number].unbind(-1)
        places = ((kind > 0) & (seconds >= second)).nonzero()[:, 0]
        if not len(places):
            return
        code = kind[places].long()[:, None, None, None]
        picture = frames[places]
        luma = picture.new_tensor([0.299, 0.587, 0.114])[:, None, None]
        grey = (picture * luma).sum(1, keepdim=True).expand_as(picture)
        picture = torch.where(code == _CODES[Change.GREY], grey, picture)
        picture = torch.where(code == _CODES[Change.DARK], picture * _DIM, picture)
        u, v = (axis[:, None] for axis in _grid(*frames.shape[2:], frames.device))
        edge = (u.abs() > 1 - 2 * _FRAME / ASPECT) | (v.abs() > 1 - 2 * _FRAME)
        colour = picture.new_tensor(_FRAME_COLOUR)[:, None, None]
        picture = torch.where((code == _CODES[Change.FRAME]) & edge, colour, picture)
        bar = (code == _CODES[Change.BARS]) & (v.abs() > 1 - 2 * _BAR)
        frames.index_copy_(0, places, picture.masked_fill(bar, 0.0))

    def _grain(self, frames: Tensor, number: Tensor, seconds: Tensor) -> None:
        """Film noise, a hash of place and moment: the same frame is the same pixels."""
        amplitude = self.worlds["grain"][number]
        places = (amplitude > 0).nonzero()[:, 0]
        if not len(places):
            return
        height, width = frames.shape[2:]
        rows = torch.arange(height, device=frames.device, dtype=torch.float32)[:, None] * 78.233
        columns = torch.arange(width, device=frames.device, dtype=torch.float32) * 12.9898
        moment = (seconds[places] * 37.719).remainder(2 * math.pi)[:, None, None, None]
        band = torch.arange(3, device=frames.device)[:, None, None] * 4.1414
        wave = ((rows + columns).remainder(2 * math.pi) + moment + band).sin() * 43758.5453
        noise = (wave - wave.floor() - 0.5) * 2 * amplitude[places, None, None, None]
        frames.index_add_(0, places, noise)

    def _filmed(self, frames: Tensor, number: Tensor, seconds: Tensor) -> Tensor:
        """Real clips instead of drawn backgrounds, where a world has one."""
        chosen = self.worlds["footage"][number]
        if self.footage is None:
            return frames
        places = (chosen[:, 0] >= 0).nonzero()[:, 0]
        if not len(places):
            return frames
        film = self.footage.at(chosen[places], seconds[places], size=frames.shape[2:])
        return frames.index_copy_(0, places, film)

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
) -> Float[Tensor, "drawing 4 size size"]:
    """All drawings in the order of the catalogue, last the arrow; 0 to 1, premultiplied."""
    both = [torch.from_numpy(cells) for cells in (load_atlas(size), load_signs(size))]
    return torch.cat(both).to(device).permute(0, 3, 1, 2).float().div_(255)


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


def _grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixel centres from -1 to 1, shapes (1, height, width)."""
    v = (torch.arange(height, device=device) + 0.5) / height * 2 - 1
    u = (torch.arange(width, device=device) + 0.5) / width * 2 - 1
    return u.expand(1, height, width), v[:, None].expand(1, height, width)


def _mirror(x: Tensor) -> Tensor:
    return 1 - (1 - (x + 1).remainder(4.0) / 2).abs() * 2
