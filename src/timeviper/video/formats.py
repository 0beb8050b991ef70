"""Which files we read, recognised by their first bytes, and how FFmpeg is let near them."""

from __future__ import annotations

import stat
import struct
from dataclasses import dataclass
from pathlib import Path

import av
from av.container import InputContainer
from av.error import FFmpegError
from av.stream import Disposition
from av.video.stream import VideoStream

from timeviper.core.errors import MediaError

# 64 Mpx is above 8K (33 Mpx): a frame of it takes 100 MB decoded and 200 MB as RGB.
MOST_PIXELS = 64 * 1024 * 1024
_HEAD_BYTES = 32
_ISO_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"wide", b"free", b"skip"})
WANTED = (
    "an MP4, MKV, WebM, AVI or GIF video, a PNG, JPEG, WebP or BMP picture, or a folder of them"
)


@dataclass(frozen=True)
class Format:
    """A kind of file.

    Args:
        name: as users call it.
        demuxer: the one FFmpeg demuxer that may read it.
        is_picture: holds a single still frame.
        size_at: byte order, type and offset of width and height, where they stand near the start:
            FFmpeg refuses large pictures without naming their size.
    """

    name: str
    demuxer: str
    is_picture: bool = False
    size_at: tuple[str, int] | None = None


# first bytes -> format; a file that matches none of these never reaches FFmpeg.
_SIGNATURES: tuple[tuple[bytes, Format], ...] = (
    (b"\x1a\x45\xdf\xa3", Format("matroska", "matroska")),
    (b"GIF87a", Format("gif", "gif", size_at=("<HH", 6))),
    (b"GIF89a", Format("gif", "gif", size_at=("<HH", 6))),
    (b"\x89PNG\r\n\x1a\n", Format("png", "png_pipe", is_picture=True, size_at=(">II", 16))),
    (b"\xff\xd8\xff", Format("jpeg", "jpeg_pipe", is_picture=True)),
    (b"BM", Format("bmp", "bmp_pipe", is_picture=True, size_at=("<II", 18))),
)
_RIFF = {
    b"AVI ": Format("avi", "avi"),
    b"WEBP": Format("webp", "webp_pipe", is_picture=True),
}
_MP4 = Format("mp4", "mov")


def recognise(path: Path) -> Format:
    """Tell what a file is from its first bytes; its name plays no part.

    Args:
        path: a regular file.

    Returns:
        The row of the format table.

    Raises:
        MediaError: the file is empty, unreadable or of a kind we do not read.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise MediaError(
            want="a readable file",
            got=f"{path.name} ({error.strerror})",
            do="check its permissions",
        ) from error
    if not head:
        raise MediaError(want=WANTED, got=f"{path.name}, an empty file", do="check how it was made")
    found = _match(head)
    if found is None:
        raise MediaError(
            want=WANTED,
            got=f"{path.name}, which starts with {head[:12]!r}",
            do="convert it, for example with: ffmpeg -i FILE video.mp4",
        )
    if found.size_at is not None and len(head) == _HEAD_BYTES:
        layout, offset = found.size_at
        width, height = struct.unpack_from(layout, head, offset)
        check_pixels(width, height, path.name)
    return found


def _match(head: bytes) -> Format | None:
    if head[:4] == b"RIFF":
        return _RIFF.get(head[8:12])
    if head[4:8] in _ISO_BOXES:
        return _MP4
    return next((kind for magic, kind in _SIGNATURES if head.startswith(magic)), None)


def regular_file(path: Path) -> Path:
    """Resolve a path to a regular local file.

    Args:
        path: what the user gave.

    Returns:
        The absolute path, so that FFmpeg can never read it as a protocol.

    Raises:
        MediaError: nothing is there, or it is a device, a pipe or the like.
    """
    try:
        resolved = path.resolve(strict=True)
        mode = resolved.stat().st_mode
    except (OSError, RuntimeError, ValueError) as error:
        raise MediaError(
            want="a video file or a folder of frames",
            got=f"{path}, which does not exist",
            do="check the path; network addresses are not opened, download the file first",
        ) from error
    if not stat.S_ISREG(mode):
        raise MediaError(
            want="a regular file", got=f"{path}, which is not one", do="give a video file"
        )
    return resolved


def open_container(path: Path, kind: Format) -> InputContainer:
    """Open a file with the one demuxer its first bytes call for, and no protocol but `file`.

    Args:
        path: absolute path of a regular file.
        kind: what `recognise` said.

    Returns:
        The open container; the caller closes it.

    Raises:
        MediaError: FFmpeg cannot open it.
    """
    try:
        return av.open(
            str(path),
            "r",
            format=kind.demuxer,
            options={"max_pixels": str(MOST_PIXELS)},
            container_options={
                "protocol_whitelist": "file",
                "format_whitelist": kind.demuxer,
            },
            # Titles in a broken encoding must not keep a good video from opening.
            metadata_errors="replace",
        )
    except FFmpegError as error:
        raise MediaError(
            want="a complete, undamaged video",
            got=f"{path.name} ({error.strerror})",
            do="play it to see whether it is damaged or cut off, or re-encode it with ffmpeg",
        ) from error


def video_stream(container: InputContainer, name: str) -> VideoStream:
    """Pick the video stream and refuse sizes that must not be allocated.

    Args:
        container: an open container.
        name: of its file, for the message.

    Returns:
        The first video stream that is not a cover picture.

    Raises:
        MediaError: no video, no decoder for it, or more pixels than `MOST_PIXELS`.
    """
    streams = [
        stream
        for stream in container.streams.video
        if not stream.disposition & Disposition.attached_pic
    ]
    if not streams:
        kinds = sorted({stream.type for stream in container.streams}) or ["no streams"]
        raise MediaError(
            want="a file with a video stream",
            got=f"{name} with {' and '.join(kinds)} only",
            do="give a file that has pictures",
        )
    stream = streams[0]
    # No decoder in this build of FFmpeg leaves a stream without a codec context.
    if stream.codec_context is None:
        raise MediaError(
            want="a video codec that FFmpeg decodes",
            got=f"{name} with an unknown codec",
            do="re-encode it: ffmpeg -i FILE -c:v libx264 video.mp4",
        )
    check_pixels(stream.codec_context.width, stream.codec_context.height, name)
    return stream


def check_pixels(width: int, height: int, name: str) -> None:
    """Refuse pictures too large to allocate.

    Args:
        width: columns.
        height: rows.
        name: where they come from, for the message.

    Raises:
        MediaError: more than `MOST_PIXELS` pixels.
    """
    if width * height > MOST_PIXELS:
        raise MediaError(
            want=f"frames of at most {MOST_PIXELS:,} pixels",
            got=f"{width} x {height} = {width * height:,} pixels in {name}",
            do="scale it down: ffmpeg -i FILE -vf scale=1280:-2 small.mp4",
        )
