"""Open what a message shows: a video, a list of its frames, or a picture, with its moments."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from timeviper.inference.fitting import decode_size
from timeviper.inference.request import AskOptions
from timeviper.processing.image import ImageConfig
from timeviper.processing.messages import ImagePart, VideoPart
from timeviper.processing.processor import Processor
from timeviper.video.base import Pixels, VideoSource
from timeviper.video.clips import iterate_clips
from timeviper.video.sampling import Sampling, sample_times
from timeviper.video.source import open_video


def open_media(
    part: VideoPart | ImagePart, processor: Processor, options: AskOptions
) -> tuple[VideoSource, Sampling]:
    """Open a video or a picture of a message and choose its moments.

    Args:
        part: what the message shows, with its own wishes.
        processor: supplies the rate and the ceiling where nobody wishes anything.
        options: of the request; the part's wishes go first.

    Returns:
        The source and the moments to look at.

    Raises:
        MediaError: it is not there or cannot be read.
        RequestError: wishes that the video cannot meet.
    """
    if isinstance(part, ImagePart):
        return open_video(part.source), Sampling(np.zeros(1))
    policy = options.look(processor.config, part)
    if isinstance(part.source, str):
        source = open_video(part.source)
    else:
        # Frames given one by one have no times: they lie as close as the rate that was asked for.
        source = open_video(pictures(part.source, processor.image), fps=policy.fps or 1.0)
    return source, sample_times(source.info.duration_seconds, policy)


def pictures(paths: Sequence[str], image: ImageConfig) -> list[Pixels]:
    """Read pictures at the size that the vision tower wants, one file a frame.

    Raises:
        MediaError: one is not there or cannot be read.
    """
    frames: list[Pixels] = []
    for path in paths:
        source = open_video(path)
        size = decode_size(source.info, image)
        frames += [
            frame for clip in iterate_clips(source, [0.0], size=size) for frame in clip.frames
        ]
    return frames
