"""Turn decoded frames into upright RGB arrays of the size asked for, in one pass of swscale."""

from __future__ import annotations

from typing import final

import numpy as np
from av.video.frame import VideoFrame
from av.video.reformatter import Interpolation, VideoReformatter

from timeviper.video.base import Pixels, Size
from timeviper.video.orientation import UPRIGHT, Orientation


@final
class FrameScaler:
    """Converts frames of one video; keeps swscale's tables from frame to frame.

    Args:
        size: rows and columns of the result, after turning. The aspect ratio is not kept: this is
            the plain resize that the vision towers were trained with.
        orientation: how stored frames are turned to be shown.
    """

    def __init__(self, size: Size, orientation: Orientation = UPRIGHT) -> None:
        self._rows, self._columns = orientation.stored_size(size)
        self._orientation = orientation
        self._reformatter = VideoReformatter()

    def convert(self, frame: VideoFrame) -> Pixels:
        """Scale, convert and turn one frame.

        Args:
            frame: as it comes from the decoder, in any pixel format.

        Returns:
            uint8 (row, column, channel) RGB pixels; a view into memory that nothing else writes.
        """
        scaled = self._reformatter.reformat(
            frame,
            width=self._columns,
            height=self._rows,
            format="rgb24",
            interpolation=Interpolation.BILINEAR,
            # The workers are the parallelism: swscale's own threads would fight them.
            threads=1,
        )
        plane = scaled.planes[0]
        # Rows may be padded for alignment: cut the padding off, without a copy.
        lines = np.frombuffer(memoryview(plane), np.uint8).reshape(-1, plane.line_size)
        stored = lines[: self._rows, : self._columns * 3].reshape(self._rows, self._columns, 3)
        return self._orientation.apply(stored)
