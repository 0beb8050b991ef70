"""Tell whether two videos are the same: a chain over decoded pixels, a hash of stored bytes."""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from pathlib import Path
from typing import final

from timeviper.core.errors import MediaError
from timeviper.video.base import Pixels, VideoSource
from timeviper.video.clips import iterate_clips
from timeviper.video.file_source import FileSource
from timeviper.video.still_sources import FolderSource


@final
class PixelChain:
    """A hash of all frames so far that can be continued later, frame by frame.

    Each link is the hash of the link before and of one frame, so nothing but 64 digits has to be
    kept to go on, and a clip's frames may be hashed by anyone who has them.

    Args:
        digest: of the frames before; empty at the start.

    Law: it does not depend on how frames are cut into clips.
    """

    def __init__(self, digest: str = "") -> None:
        self.digest = digest

    def add(self, frames: Pixels) -> None:
        """Continue by the frames of a clip.

        Args:
            frames: uint8 (frame, row, column, channel).
        """
        for frame in frames:
            own = hashlib.sha256(frame if frame.flags.c_contiguous else frame.copy())
            shape = "x".join(map(str, frame.shape))
            link = f"{self.digest} {shape} {own.hexdigest()}"
            self.digest = hashlib.sha256(link.encode()).hexdigest()


def media_digest(source: VideoSource) -> str:
    """Hash of what a video is made of, without decoding it where it lies in files.

    Args:
        source: an open video.

    Returns:
        64 hexadecimal digits: of the file's bytes; of the pictures' bytes in order; of the pixels
        for any other source. Names and dates do not count.

    Raises:
        MediaError: a file is gone or cannot be read.
    """
    if isinstance(source, FileSource):
        return _of_files("file", [source.path])
    if isinstance(source, FolderSource):
        return _of_files("pictures", source.files)
    chain = PixelChain()
    for clip in iterate_clips(source, source.frame_times, workers=1):
        chain.add(clip.frames)
    times = hashlib.sha256(source.frame_times.tobytes()).hexdigest()
    return hashlib.sha256(f"pixels {chain.digest} {times}".encode()).hexdigest()


def media_stamp(source: VideoSource) -> tuple[tuple[int, ...], ...]:
    """Size, date and place on the disk of a source's files; empty when it has none.

    It tells cheaply whether somebody wrote to a file while it was read.

    Args:
        source: an open video.

    Raises:
        MediaError: a file is gone.
    """
    try:
        stats = [path.stat() for path in _files(source)]
    except OSError as error:
        raise _gone(error) from None
    return tuple((found.st_size, found.st_mtime_ns, found.st_ino) for found in stats)


def _files(source: VideoSource) -> tuple[Path, ...]:
    if isinstance(source, FileSource):
        return (source.path,)
    return source.files if isinstance(source, FolderSource) else ()


def _of_files(kind: str, paths: Iterable[Path]) -> str:
    whole = hashlib.sha256(f"{kind}\n".encode())
    for path in paths:
        try:
            with path.open("rb") as file:
                whole.update(hashlib.file_digest(file, "sha256").digest())
        except OSError as error:
            raise _gone(error) from None
    return whole.hexdigest()


def _gone(error: OSError) -> MediaError:
    return MediaError(
        want="the video where it was when it was opened", got=error, do="put it back and try again"
    )
