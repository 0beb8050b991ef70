"""Walk through chosen moments of a video, a bounded clip of frames at a time, in order of time."""

from __future__ import annotations

import os
import sys
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from functools import partial

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timeviper.core.errors import ConfigError, MediaError
from timeviper.video.base import Pixels, Size, VideoSource
from timeviper.video.formats import MOST_PIXELS
from timeviper.video.workers import run_in_order

CLIP_FRAMES = 64
# Finer than the clock of any container (MPEG's: 11 microseconds), coarser than a float's last bit.
TIME_SLACK_SECONDS = 1e-6
# Decoded frames that wait for the consumer, a worker: with less, workers stop for those before them
# (one buffer for all: 907 frames of 720p a second on 16 cores, one each: 5,527).
_BUFFER_BYTES = 32 * 1024 * 1024
_MOST_BUFFERED_FRAMES = 256
_MOST_JOB_FRAMES = 32
_JOBS_PER_WORKER = 4
_MOST_WORKERS = 16


@dataclass(frozen=True)
class Clip:
    """A few frames of a video; frames and times never part.

    Args:
        frames: uint8 (frame, row, column, channel) RGB pixels.
        times: float64 (frame,) exact presentation time of each frame, in seconds.
        asked: float64 (frame,) the moment that was asked for: the frame is the one on screen then.
        notes: sentences for the user, such as frames that could not be decoded.
    """

    frames: Pixels
    times: NDArray[np.float64]
    asked: NDArray[np.float64]
    notes: tuple[str, ...] = ()


def iterate_clips(
    source: VideoSource,
    times: ArrayLike,
    *,
    size: Size | None = None,
    clip_frames: int = CLIP_FRAMES,
    workers: int | None = None,
) -> Generator[Clip, None, None]:
    """Decode the frames that are on screen at given moments.

    The timeline is cut where decoding can start afresh, and workers (threads: the decoder runs
    outside Python's lock) take the pieces in order. Memory is bounded whatever the number of
    moments. Closing the generator stops the workers.

    Args:
        source: an open video.
        times: (moment,) ascending seconds. At t the frame on screen is the last one whose
            presentation time is at most t; before the first frame it is the first.
        size: rows and columns of the frames, by plain resize; the video's own size when not given.
        clip_frames: most frames in a clip.
        workers: threads; one for each core when not given.

    Returns:
        An iterator over clips, in order; one frame for each moment.

    Raises:
        ConfigError: times, a size or counts that are not usable.
        MediaError: while iterating, when nothing can be decoded.

    Law: the frames do not depend on `clip_frames` or `workers`.
    """
    moments = _check_moments(times)
    shape = size or (source.info.height, source.info.width)
    _check_counts(shape, clip_frames, workers)
    return _clips(source, moments, shape, clip_frames, workers or available_cores())


def available_cores() -> int:
    """Number of cores this process may use, at most 16."""
    cores = len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
    return min(_MOST_WORKERS, cores)


def shown_frames(
    frame_times: NDArray[np.float64], moments: NDArray[np.float64]
) -> NDArray[np.int64]:
    """Tell which frame is on screen at each moment.

    Args:
        frame_times: (frame,) ascending presentation times, seconds.
        moments: (moment,) seconds.

    Returns:
        int64 (moment,) frame numbers.
    """
    after = np.searchsorted(frame_times, moments + TIME_SLACK_SECONDS, side="right")
    return np.maximum(after - 1, 0).astype(np.int64)


def cut_jobs(
    wanted: NDArray[np.int64], entries: NDArray[np.int64], workers: int
) -> list[NDArray[np.int64]]:
    """Cut wanted frames into pieces that need nothing of each other.

    Args:
        wanted: (frame,) ascending numbers.
        entries: (entry,) ascending numbers at which decoding can start.
        workers: how many will share the pieces.

    Returns:
        Pieces in order. All frames of one entry stay together; small neighbours are joined.
    """
    per_job = max(1, min(_MOST_JOB_FRAMES, len(wanted) // (workers * _JOBS_PER_WORKER)))
    group = np.searchsorted(entries, wanted, side="right")
    starts = np.flatnonzero(np.diff(group, prepend=-1))
    cuts: list[int] = []
    for start in starts.tolist():
        if not cuts or start - cuts[-1] >= per_job:
            cuts.append(start)
    return np.split(wanted, cuts[1:])


def _clips(
    source: VideoSource, moments: NDArray[np.float64], size: Size, clip_frames: int, workers: int
) -> Generator[Clip, None, None]:
    numbers = shown_frames(source.frame_times, moments)
    frames = _shown(source, numbers, size, workers)
    for start in range(0, len(numbers), clip_frames):
        asked = moments[start : start + clip_frames]
        pixels = np.empty((len(asked), *size, 3), np.uint8)
        shown = np.empty(len(asked), np.int64)
        for place in range(len(asked)):
            shown[place], pixels[place] = next(frames)
        missing = int((shown != numbers[start : start + clip_frames]).sum())
        yield Clip(pixels, source.frame_times[shown], asked, _missing_note(missing, asked))


def _shown(
    source: VideoSource, numbers: NDArray[np.int64], size: Size, workers: int
) -> Generator[tuple[int, Pixels], None, None]:
    """One frame for each number; for one that cannot be decoded the wanted one before it."""
    decoded = _decoded(source, np.unique(numbers), size, workers)
    current = next(decoded, None)
    if current is None:
        raise MediaError(
            want="a video that decodes",
            got=f"not one of {len(numbers)} frames could be decoded",
            do="play it to see whether it is damaged, or re-encode it with ffmpeg",
        )
    following = next(decoded, None)
    for number in numbers.tolist():
        while following is not None and following[0] <= number:
            current, following = following, next(decoded, None)
        yield current


def _decoded(
    source: VideoSource, wanted: NDArray[np.int64], size: Size, workers: int
) -> Iterator[tuple[int, Pixels]]:
    jobs = cut_jobs(wanted, source.entry_frames, workers)
    # A single piece cannot be shared: there the decoder's own threads help.
    threads = workers if len(jobs) == 1 else 1
    frame_bytes = size[0] * size[1] * 3
    capacity = max(2, min(_MOST_BUFFERED_FRAMES, _BUFFER_BYTES // frame_bytes))
    open_reader = partial(source.open_reader, size, threads=threads)
    return run_in_order(jobs, open_reader, workers=min(workers, len(jobs)), capacity=capacity)


def _missing_note(missing: int, asked: NDArray[np.float64]) -> tuple[str, ...]:
    if not missing:
        return ()
    return (
        f"{missing} of {len(asked)} frames between {asked[0]:.3f} s and {asked[-1]:.3f} s could "
        "not be decoded; the frame before was taken",
    )


def _check_moments(times: ArrayLike) -> NDArray[np.float64]:
    moments = np.array(times, np.float64)
    if moments.ndim != 1 or not np.isfinite(moments).all() or (np.diff(moments) < 0).any():
        raise ConfigError(
            want="a list of ascending times in seconds",
            got=f"an array of shape {moments.shape} that is not",
            do="sort the times and leave out NaN",
        )
    return moments


def _check_counts(size: Size, clip_frames: int, workers: int | None) -> None:
    if min(size) < 1 or size[0] * size[1] > MOST_PIXELS:
        raise ConfigError(
            want=f"a size of (rows, columns) with 1 to {MOST_PIXELS:,} pixels",
            got=f"size={size}",
            do="give a smaller size, such as (384, 384)",
        )
    if clip_frames < 1 or (workers is not None and workers < 1):
        raise ConfigError(
            want="clip_frames and workers of at least 1",
            got=f"clip_frames={clip_frames} and workers={workers}",
            do="give whole numbers above 0",
        )
