"""A video file as a source of frames: measured when it is opened, decoded when it is read."""

from __future__ import annotations

from pathlib import Path
from typing import final

import av
import numpy as np
from av.container import InputContainer
from av.error import FFmpegError
from av.video.frame import VideoFrame
from av.video.stream import VideoStream
from numpy.typing import NDArray

from timeviper.core.errors import MediaError
from timeviper.video.base import Size, VideoInfo, VideoSource
from timeviper.video.decoding import FileReader
from timeviper.video.formats import (
    MOST_PIXELS,
    Format,
    check_pixels,
    open_container,
    recognise,
    regular_file,
    video_stream,
)
from timeviper.video.orientation import UPRIGHT, Orientation, parse_display_matrix
from timeviper.video.packets import PacketTable, lay_out, scan_packets
from timeviper.video.scaling import FrameScaler

# A header may round the duration; a file that stops within a second of it is whole.
_DURATION_SLACK_SECONDS = 1.0


@final
class FileSource(VideoSource):
    """A video file, or a single picture, which is a video of one frame.

    Args:
        path: the file.

    Raises:
        MediaError: it cannot be read as a video.
    """

    def __init__(self, path: Path) -> None:
        self._path = regular_file(path)
        self._kind = recognise(self._path)
        with open_container(self._path, self._kind) as container:
            stream = video_stream(container, path.name)
            claimed = _claimed_end(container, stream)
            codec = stream.codec_context.name
            columns = scan_packets(container, stream)
        self._table = lay_out(columns, path.name)
        first = first_frame(self._path, self._kind)
        self._orientation = orientation_of(first)
        self._info = _describe(path, self._kind, self._table, first, codec, claimed)

    @property
    def path(self) -> Path:
        """The file."""
        return self._path

    @property
    def info(self) -> VideoInfo:
        """Facts about the video."""
        return self._info

    @property
    def frame_times(self) -> NDArray[np.float64]:
        """Exact presentation time of every frame, (frame,) ascending seconds."""
        return self._table.times

    @property
    def entry_frames(self) -> NDArray[np.int64]:
        """Frames at which decoding can start, ascending."""
        return self._table.entry_frames

    def open_reader(self, size: Size, *, threads: int = 1) -> FileReader:
        """Open the file once more; see `VideoSource.open_reader`."""
        scaler = FrameScaler(size, self._orientation)
        return FileReader(self._path, self._kind, self._table, scaler, threads)


def _claimed_end(container: InputContainer, stream: VideoStream) -> float:
    """Seconds at which the header says that the video ends; 0 when it does not say."""
    if stream.duration and stream.time_base:
        return float(stream.duration * stream.time_base)
    return (container.duration or 0) / av.time_base


def first_frame(path: Path, kind: Format) -> VideoFrame:
    """Decode up to the first frame: proof that the codec works, and the true size of frames.

    Args:
        path: a regular file.
        kind: its row of the format table.

    Returns:
        The first frame that decodes.

    Raises:
        MediaError: there is none, or it has too many pixels.
    """
    frames: list[VideoFrame] = []
    with open_container(path, kind) as container:
        stream = video_stream(container, path.name)
        for packet in container.demux(stream):
            try:
                frames = packet.decode()
            except FFmpegError:
                continue
            if frames:
                break
    if not frames:
        raise MediaError(
            want="a video that decodes",
            got=f"not one decodable frame of at most {MOST_PIXELS:,} pixels in {path.name}",
            do="play it to see whether it is damaged, or re-encode it with ffmpeg",
        )
    check_pixels(frames[0].width, frames[0].height, path.name)
    return frames[0]


def orientation_of(frame: VideoFrame) -> Orientation:
    """Read how a decoded frame is to be turned; upright when it says nothing."""
    matrix = frame.side_data.get("DISPLAYMATRIX")
    return UPRIGHT if matrix is None else parse_display_matrix(bytes(matrix))


def _describe(
    path: Path, kind: Format, table: PacketTable, first: VideoFrame, codec: str, claimed: float
) -> VideoInfo:
    rows, columns = orientation_of(first).stored_size((first.height, first.width))
    # A picture says nothing of time: it is shown for a second, like a picture of a folder.
    duration = 1.0 if kind.is_picture else table.duration
    notes: tuple[str, ...] = ()
    # Some headers count from the first frame, others from 0.
    end = duration + max(table.origin, 0.0)
    if table.ended_early or claimed - end > _DURATION_SLACK_SECONDS:
        notes = (
            f"the file is damaged or cut off: its frames end at {duration:.3f} s, "
            f"its header claims {claimed:.3f} s",
        )
    return VideoInfo(
        path=path,
        width=columns,
        height=rows,
        duration_seconds=duration,
        average_fps=len(table.times) / duration,
        num_frames=len(table.times),
        codec=codec,
        container=kind.name,
        rotation=orientation_of(first).degrees,
        time_origin=table.origin,
        notes=notes,
    )
