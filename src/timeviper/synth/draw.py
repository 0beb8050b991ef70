"""Draw moments of worlds as pixels with torch, on any device and at any size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Self

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from numpy.typing import NDArray
from torch import Tensor

from timeviper.synth.canvas import bar, barred, dark, framed, grain, grey, mixed, stamp
from timeviper.synth.catalogue import things
from timeviper.synth.footage import Footage
from timeviper.synth.objects import load_atlas, load_signs
from timeviper.synth.world import SLOTS, Change, Worlds

# Backgrounds are smooth: drawn at a fraction of the size and enlarged.
_COARSE = 4
_KINDS = {Change.GREY: grey, Change.DARK: dark, Change.FRAME: framed, Change.BARS: barred}
_CHANGES = {place: _KINDS[change] for place, change in enumerate(Change) if change in _KINDS}
_ARRAYS = (
    "thing", "start", "end", "place", "move", "look", "cover", "scene_start", "colours", "blobs",
    "texture", "footage", "change", "grain",
)  # fmt: skip


@dataclass(frozen=True, eq=False, kw_only=True)
class Truth:
    """What frames show, for a tower that learns to tell it.

    Args:
        thing: id of the thing on screen, `len(things())` for nothing.
        partner: id of its partner on a card, `len(things())` for none.
        geometry: of the thing at that moment: centre x, y, half height in shares of the frame,
            sine and cosine of its tilt; zeros where there is nothing.
        change: place in `Change` of what has happened to the whole picture by then.
        has_arrow: whether an arrow links thing and partner.
    """

    thing: Int[Tensor, " frame"]
    partner: Int[Tensor, " frame"]
    geometry: Float[Tensor, "frame 5"]
    change: Int[Tensor, " frame"]
    has_arrow: Bool[Tensor, " frame"]


@dataclass(frozen=True, eq=False, kw_only=True)
class Painter:
    """Worlds and drawings on a device.

    Args:
        worlds: arrays of `Worlds` by name, and `key` for their grain, on the device.
        atlas: premultiplied drawings of all things and the arrow, 0 to 1.
        footage: clips for worlds that are shown before one, on the device.
    """

    worlds: dict[str, Tensor]
    atlas: Float[Tensor, "drawing 4 cell cell"]
    footage: Footage | None = None

    @classmethod
    def of(
        cls,
        worlds: Worlds,
        atlas: Float[Tensor, "drawing 4 cell cell"],
        footage: Footage | None = None,
    ) -> Self:
        """Bring worlds to the device of the drawings.

        Raises:
            RequestError: a world before a clip that the footage lacks.
        """
        Footage.check(footage, worlds.footage[:, 0])
        moved = {n: torch.from_numpy(getattr(worlds, n)).to(atlas.device) for n in _ARRAYS}
        moved["key"] = torch.from_numpy(_keys(worlds)).to(atlas.device)
        here = None if footage is None else footage.to(atlas.device)
        return cls(worlds=moved, atlas=atlas, footage=here)

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
        frames = self._filmed(number, seconds, self._backdrop(number, seconds, height, width))
        event, shown = self.showing(number, seconds)
        for slot in range(SLOTS):
            self._stamp(frames, slot, number, event, seconds)
        places = (shown & (self.worlds["cover"][number, event, 2] > 0)).nonzero()[:, 0]
        if len(places):
            below = frames.index_select(0, places)
            hidden = self._hidden(below, number[places], event[places], seconds[places])
            frames = frames.index_copy(0, places, hidden)
        frames = self._changed(frames, number, seconds)
        strength = self.worlds["grain"][number]
        if bool((strength > 0).any()):
            # It stays for a second: noise that is new in each frame doubled the size of files.
            key = self.worlds["key"][number] ^ mixed(seconds.floor().long())
            frames = grain(frames, strength, mixed(key))
        return frames.clamp_(0, 1)

    def showing(
        self, number: Int[Tensor, " frame"], seconds: Float[Tensor, " frame"]
    ) -> tuple[Int[Tensor, " frame"], Bool[Tensor, " frame"]]:
        """Event of each frame, and whether there is one."""
        start, end = self.worlds["start"][number], self.worlds["end"][number]
        exists = self.worlds["thing"][number][..., 0] >= 0
        on = exists & (start <= seconds[:, None]) & (seconds[:, None] < end)
        return on.int().argmax(1), on.any(1)

    def truth(self, number: Int[Tensor, " frame"], seconds: Float[Tensor, " frame"]) -> Truth:
        """What each frame shows.

        Args:
            number: world of each frame.
            seconds: moment of each frame.
        """
        event, shown = self.showing(number, seconds)
        thing, partner, arrow = self.worlds["thing"][number, event].unbind(-1)
        nothing = torch.full_like(thing, len(things()))
        place, look = self._where(number, event, seconds)
        tilt = look[:, 0]
        geometry = torch.stack([*place[:, [0, 1, 3]].unbind(-1), tilt.sin(), tilt.cos()], dim=-1)
        return Truth(
            thing=torch.where(shown, thing, nothing),
            partner=torch.where(shown & (partner >= 0), partner, nothing),
            geometry=geometry * shown[:, None],
            change=self._change(number, seconds),
            has_arrow=shown & (arrow >= 0),
        )

    def _stamp(
        self, frames: Tensor, slot: int, number: Tensor, event: Tensor, seconds: Tensor
    ) -> None:
        """Lay the drawings of one slot over the frames whose event is on and has one."""
        drawing = self.worlds["thing"][number, event, slot]
        on = self.worlds["start"][number, event] <= seconds
        on &= seconds < self.worlds["end"][number, event]
        places = (on & (drawing >= 0)).nonzero()[:, 0]
        if len(places) == 0:
            return
        number, event, seconds = number[places], event[places], seconds[places]
        if slot == 0:
            place, look = self._where(number, event, seconds)
        else:
            place = self.worlds["place"][number, event, slot]
            look = place.new_tensor([0.0, 1.0]).expand(len(places), 2)
        stamp(frames, places, self.atlas.index_select(0, drawing[places]), place, look)

    def _where(self, number: Tensor, event: Tensor, seconds: Tensor) -> tuple[Tensor, Tensor]:
        """Place and look of the thing at a moment of its appearance."""
        share = self._share(number, event, seconds)
        dx, dy, growth, turn = self.worlds["move"][number, event].unbind(-1)
        x, y, half_width, half_height = self.worlds["place"][number, event, 0].unbind(-1)
        tilt, side = self.worlds["look"][number, event].unbind(-1)
        size = growth**share
        place = [x + dx * share, y + dy * share, half_width * size, half_height * size]
        return torch.stack(place, dim=-1), torch.stack([tilt + turn * share, side], dim=-1)

    def _share(self, number: Tensor, event: Tensor, seconds: Tensor) -> Tensor:
        """How much of the appearance has passed, 0 to 1."""
        start, end = self.worlds["start"][number, event], self.worlds["end"][number, event]
        return (seconds - start) / (end - start).clamp(min=1)

    def _hidden(self, frames: Tensor, number: Tensor, event: Tensor, seconds: Tensor) -> Tensor:
        cover = self.worlds["cover"][number, event]
        centre = torch.lerp(cover[:, 0], cover[:, 1], self._share(number, event, seconds))
        return bar(frames, centre, cover[:, 2], cover[:, 3:])

    def _change(self, number: Tensor, seconds: Tensor) -> Tensor:
        """Place in `Change` of what is in force."""
        kind, second = self.worlds["change"][number].unbind(-1)
        return torch.where(second <= seconds, kind, 0).long()

    def _changed(self, frames: Tensor, number: Tensor, seconds: Tensor) -> Tensor:
        kind = self._change(number, seconds)
        for place, make in _CHANGES.items():
            places = (kind == place).nonzero()[:, 0]
            if len(places):
                frames = frames.index_copy(0, places, make(frames.index_select(0, places)))
        return frames

    def _filmed(self, number: Tensor, seconds: Tensor, frames: Tensor) -> Tensor:
        """Footage in place of the drawn background, where a world has it."""
        if self.footage is None:
            return frames
        chosen = self.worlds["footage"][number]
        places = (chosen[:, 0] >= 0).nonzero()[:, 0]
        if len(places) == 0:
            return frames
        size = (frames.shape[2], frames.shape[3])
        film = self.footage.at(chosen[places], seconds[places], size=size)
        return frames.index_copy(0, places, film)

    def _backdrop(self, number: Tensor, seconds: Tensor, height: int, width: int) -> Tensor:
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
    size: int = 96, device: torch.device | str = "cpu"
) -> Float[Tensor, "drawing 4 size size"]:
    """All drawings in the order of their ids, the arrow last: 0 to 1, premultiplied."""
    cells = torch.from_numpy(np.concatenate([load_atlas(size), load_signs(size)])).to(device)
    return cells.permute(0, 3, 1, 2).float().div_(255).contiguous()


def _keys(worlds: Worlds) -> NDArray[np.int64]:
    """A number for each world that depends on nothing but its own first scene and times."""
    looks = np.ascontiguousarray(worlds.colours[:, 0].reshape(len(worlds), -1))
    words = np.concatenate([looks.view(np.uint32), worlds.start.astype(np.uint32)], axis=1)
    odd = 2 * np.arange(words.shape[1], dtype=np.uint64) + 0x9E3779B1
    return ((words * odd).sum(axis=1) & 0xFFFFFFFF).astype(np.int64)


def _grid(height: int, width: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """Pixel centres from -1 to 1, shapes (1, height, width)."""
    v = (torch.arange(height, device=device) + 0.5) / height * 2 - 1
    u = (torch.arange(width, device=device) + 0.5) / width * 2 - 1
    return u.expand(1, height, width), v[:, None].expand(1, height, width)


def _mirror(x: Tensor) -> Tensor:
    return 1 - (1 - (x + 1).remainder(4.0) / 2).abs() * 2
