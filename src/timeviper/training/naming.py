"""Stage 1: a tower learns to tell what it sees, frame by frame, from every merged token."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from timeviper.model.vision.tower import VisionTower
from timeviper.ops.merge import tome

# Centre x and y, half height, sine and cosine of the tilt.
GEOMETRY = 5


@dataclass(frozen=True, eq=False, kw_only=True)
class Seen:
    """What a frame shows.

    Args:
        thing: class of the thing on screen; the last class is nothing.
        partner: class of its partner on a card; the last class is none.
        geometry: place, size and tilt of the thing, shape (frame, GEOMETRY).
        moving: whether the geometry counts: a thing alone, which may move.
        change: what has happened to the whole picture.
    """

    thing: Int[Tensor, " frame"]
    partner: Int[Tensor, " frame"]
    geometry: Float[Tensor, "frame 5"]
    moving: Bool[Tensor, " frame"]
    change: Int[Tensor, " frame"]


class Namer(nn.Module):
    """A tower with linear heads over its merged tokens; the heads are thrown away.

    Args:
        tower: learns; its features are what the language model will read.
        tokens_per_frame: as in the projector that follows.
        merge_heads: as in the projector that follows.
        names: classes of things, of which the last is "nothing".
        changes: classes of what can happen to the picture.
    """

    def __init__(
        self,
        tower: VisionTower,
        *,
        tokens_per_frame: int,
        merge_heads: int,
        names: int,
        changes: int,
    ) -> None:
        super().__init__()
        self.tower = tower
        self.tokens_per_frame = tokens_per_frame
        self.merge_heads = merge_heads
        self.sizes = (names, names, GEOMETRY, changes)
        self.heads = nn.Linear(tower.config.hidden_size, sum(self.sizes))

    def forward(
        self, pixels: Float[Tensor, "frame 3 height width"], seen: Seen
    ) -> tuple[Float[Tensor, ""], Float[Tensor, " measure"]]:
        """Loss and accuracy.

        Args:
            pixels: normalised frames.
            seen: what each shows.

        Returns:
            The loss averaged over every merged token alone (each must carry everything, since a
            transfer site may drop the others), and from the mean over a frame's tokens: share of
            right things and of right partners among frames that have one, mean error of the
            place, share of right changes.
        """
        tokens, _ = tome(self.tower(pixels), self.tokens_per_frame, metric_heads=self.merge_heads)
        told = self.heads(tokens).float()
        thing, partner, geometry, change = told.split(self.sizes, dim=-1)
        error = (geometry - seen.geometry[:, None]).abs().mean((1, 2))
        moving = seen.moving.float()
        place = (error * moving).sum() / moving.sum().clamp(min=1)
        loss = _each(thing, seen.thing) + _each(partner, seen.partner) + 2 * place
        loss = loss + 0.5 * _each(change, seen.change)
        measures = [
            _right(thing, seen.thing, thing.shape[-1] - 1),
            _right(partner, seen.partner, partner.shape[-1] - 1),
            place,
            _right(change, seen.change, -1),
        ]
        return loss, torch.stack(measures).detach()


def _each(scores: Float[Tensor, "frame token name"], names: Int[Tensor, " frame"]) -> Tensor:
    return F.cross_entropy(scores.flatten(0, 1), names.repeat_interleave(scores.shape[1]))


def _right(
    scores: Float[Tensor, "frame token name"], names: Int[Tensor, " frame"], none: int
) -> Tensor:
    """Share of right classes among the frames whose class is not `none`."""
    counts = names != none
    right = (scores.detach().mean(1).argmax(-1) == names) & counts
    return right.sum() / counts.sum().clamp(min=1)
