"""What a video that grows needs of models, options, frames and moments. Holds no state."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np
import torch
from numpy.typing import NDArray

from timeviper.core.errors import RequestError
from timeviper.inference.request import AskOptions
from timeviper.model.config import DropPolicy
from timeviper.model.state import DecoderState
from timeviper.model.tokens import Tokens, join
from timeviper.model.vlm import TimeViper
from timeviper.video.clips import Clip
from timeviper.video.source import Openable

# As in `video.sampling`: counting k with k / fps < seconds must not gain one from a float's end.
COUNT_SLACK = 1e-9
# Waiting tokens beyond this many are not joined any more.
_MOST_JOINED = 4096


def placed(clips: Iterator[Clip], moments: NDArray[np.float64]) -> Iterator[Clip]:
    """Clips of a part of a video, on the clock of the whole.

    Args:
        clips: of the part.
        moments: (frame,) seconds on the clock of the whole at which each frame was asked for.
    """
    done = 0
    for clip in clips:
        yield replace(clip, asked=moments[done : done + len(clip.asked)])
        done += len(clip.asked)


@torch.inference_mode()
def compacted(state: DecoderState) -> DecoderState:
    """The same state with few parts of waiting tokens, however many small appends brought them.

    Neighbours are joined as in a binary counter, so that each token is copied a few times in all,
    up to parts of a size that a copy of them takes little room.
    """
    return replace(
        state,
        pending=tuple(
            None if site is None else replace(site, parked=_joined(site.parked))
            for site in state.pending
        ),
    )


def _joined(parts: tuple[Tokens, ...]) -> tuple[Tokens, ...]:
    if len(parts) < 2 or not _belong_together(parts[-2], parts[-1]):
        return parts
    kept = list(parts)
    while len(kept) > 1 and _belong_together(kept[-2], kept[-1]):
        kept[-2:] = [join(kept[-2:])]
    return tuple(kept)


def _belong_together(older: Tokens, newer: Tokens) -> bool:
    sizes = len(older.kinds), len(newer.kinds)
    return sizes[0] <= 2 * sizes[1] and sum(sizes) <= _MOST_JOINED


def count(seconds: float, fps: float) -> int:
    """How many moments k / fps lie before a second, k from 0."""
    exact = seconds * fps
    return math.ceil(exact - COUNT_SLACK * max(1.0, exact))


def frames_of(video: Openable) -> Sequence[NDArray[np.uint8]] | NDArray[np.uint8]:
    """Frames in memory, which can be given times.

    Raises:
        RequestError: anything else.
    """
    if isinstance(video, np.ndarray) or (
        isinstance(video, Sequence) and not isinstance(video, str)
    ):
        return video
    raise RequestError(
        want="frames in memory where times are given",
        got=type(video).__name__,
        do="leave `times` out: a file has its own",
    )


def check_model(model: TimeViper) -> None:
    """Refuse a model that needs to know the end of a video.

    Raises:
        RequestError: a transfer site that chooses from the whole video.
    """
    for site in model.config.decoder.transfer.sites:
        if site.policy is DropPolicy.UNIFORM_WHOLE:
            raise RequestError(
                want="a model that drops as the video comes (uniform_stream)",
                got=f"uniform_whole at layer {site.layer}, which chooses when the video has ended",
                do="use a model with uniform_stream, or ask the finished video",
            )


def check_options(options: AskOptions, snapshots: int) -> None:
    """Refuse wishes that need to know the end of a video.

    Raises:
        RequestError: a number of frames, a range, or fewer than two snapshots.
    """
    if any(value is not None for value in (options.num_frames, options.start, options.end)):
        raise RequestError(
            want="fps and max_frames at most, for a video that grows",
            got="num_frames, start or end",
            do="leave them out",
        )
    if snapshots < 2:
        raise RequestError(want="at least 2 snapshots", got=snapshots, do="allow two")
