"""From clips of frames to vision tokens: side by side on a CPU, batch by batch on a GPU."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from contextlib import closing
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float, UInt8
from numpy.typing import NDArray
from torch import Tensor

from timeviper.inference.conveyor import Conveyor
from timeviper.inference.lookahead import Lookahead
from timeviper.inference.timing import Pacer
from timeviper.video.clips import Clip
from timeviper.video.fingerprint import PixelChain


@dataclass(frozen=True, kw_only=True)
class Seen:
    """Frames as the decoder will read them.

    Args:
        asked: float64 (frame,) the moments that were asked for.
        notes: sentences for the user.
        pixels: hash of all frames up to the last one here; see `PixelChain`.
        vision: their vision tokens.
    """

    asked: NDArray[np.float64]
    notes: tuple[str, ...]
    pixels: str
    vision: Float[Tensor, "frame kept hidden"]


def seen_side_by_side(
    clips: Iterator[Clip],
    look: Callable[[Clip], Float[Tensor, "frame kept hidden"]],
    chain: PixelChain,
    *,
    threads: int,
    clock: Pacer,
) -> Generator[Seen, None, None]:
    """Look at several clips at a time, each in a thread.

    Args:
        clips: taken in the caller's thread.
        look: vision tokens of a clip.
        chain: continued by every frame.
        threads: how many clips are looked at at a time.
        clock: counts `decode`, waiting for clips, and `encode`, waiting for their tokens.

    Yields:
        Each clip, in order.
    """
    with Lookahead(clips, look, threads=threads) as ahead:
        while True:
            with clock.stage("decode"):
                ahead.fill()
            if ahead.is_empty:
                return
            with clock.stage("encode"):
                clip, vision = ahead.take()
            chain.add(clip.frames)
            yield Seen(asked=clip.asked, notes=clip.notes, pixels=chain.digest, vision=vision)


def seen_in_batches(
    conveyor: Conveyor,
    look: Callable[[UInt8[Tensor, "frame size size 3"]], Float[Tensor, "frame kept hidden"]],
    *,
    clock: Pacer,
) -> Generator[Seen, None, None]:
    """Look at batches that a conveyor brings to the device.

    Args:
        conveyor: not started.
        look: vision tokens of frames at the device.
        clock: counts `decode`, waiting for batches, and `encode`.

    Yields:
        Each batch, in order.
    """
    with closing(conveyor.batches()) as batches:
        while True:
            with clock.stage("decode"):
                batch = next(batches, None)
            if batch is None:
                return
            with clock.stage("encode"):
                vision = look(batch.frames)
            yield Seen(asked=batch.asked, notes=batch.notes, pixels=batch.pixels, vision=vision)


def gathered(seen: Iterator[Seen], frames: int) -> Generator[Seen, None, None]:
    """Join neighbours up to a number of frames; one that is longer stays as it is.

    Args:
        seen: in order.
        frames: most frames of what is joined.

    Yields:
        The same frames in fewer pieces.
    """
    waiting: list[Seen] = []
    for piece in seen:
        if waiting and _frames(waiting) + len(piece.asked) > frames:
            yield _taken(waiting)
        waiting.append(piece)
        if _frames(waiting) >= frames:
            yield _taken(waiting)
    if waiting:
        yield _taken(waiting)


def _frames(pieces: list[Seen]) -> int:
    return sum(len(piece.asked) for piece in pieces)


def _taken(waiting: list[Seen]) -> Seen:
    """All pieces as one; none of them waits any longer, nor takes memory beside it."""
    pieces = waiting.copy()
    waiting.clear()
    if len(pieces) == 1:
        return pieces[0]
    return Seen(
        asked=np.concatenate([piece.asked for piece in pieces]),
        notes=tuple(note for piece in pieces for note in piece.notes),
        pixels=pieces[-1].pixels,
        vision=torch.cat([piece.vision for piece in pieces]),
    )
