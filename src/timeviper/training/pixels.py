"""Drawn frames for training, straight from the GPU: what the tower would see of a file."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor

from timeviper.synth.canvas import degrade
from timeviper.synth.draw import Painter

# Frames drawn at once: bounds the memory of the grids.
_AT_ONCE = 4096


def seen_frames(
    painter: Painter,
    number: Int[Tensor, " frame"],
    seconds: Float[Tensor, " frame"],
    *,
    size: int,
    generator: torch.Generator,
    spoil: Callable[[Tensor, torch.Generator], Tensor] = degrade,
) -> Iterator[Float[Tensor, "frame 3 size size"]]:
    """Draw, squeeze and degrade moments of worlds, a bounded number at a time.

    Args:
        painter: the worlds.
        number: world of each frame.
        seconds: moment of each frame.
        size: pixels of a side, as the tower wants them.
        generator: source of chance, on the painter's device.
        spoil: what cameras and codecs do to them, `degrade` or a compiled form of it.

    Yields:
        Normalised frames, -1 to 1, in order.
    """
    for part in torch.arange(len(number), device=number.device).split(_AT_ONCE):
        # Twice the width, then halved: a 16:9 frame loses more width than height on the way in.
        wide = painter.draw(number[part], seconds[part], height=size, width=2 * size)
        frames = spoil(F.avg_pool2d(wide, (1, 2)), generator)
        yield frames * 2 - 1
