"""Rows and columns to decode a video at: no larger than the vision tower looks at."""

from __future__ import annotations

from timeviper.processing.image import ImageConfig, Resize
from timeviper.video.base import Size, VideoInfo


def decode_size(info: VideoInfo, image: ImageConfig) -> Size:
    """Rows and columns to decode at, so that nothing larger than needed is ever held.

    Args:
        info: of the video.
        image: what the vision tower reads.

    Returns:
        The tower's square for a plain resize; otherwise the frame's own shape, scaled so that the
        square is cut from it or filled by it.
    """
    return fitted((info.height, info.width), image)


def fitted(sides: Size, image: ImageConfig) -> Size:
    """As `decode_size`, from rows and columns as shown."""
    if not image.do_resize:
        return sides
    if image.resize is Resize.NAIVE:
        return image.size, image.size
    reference = min(sides) if image.resize is Resize.CROP else max(sides)
    height, width = (max(1, round(image.size * side / reference)) for side in sides)
    return height, width
