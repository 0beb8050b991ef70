"""Where a live video comes from, told by its name, and how FFmpeg is let near it."""

from __future__ import annotations

import os
import re
import select
import stat
import sys
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import final

import av
from av.container import InputContainer
from av.error import FFmpegError

from timeviper.core.errors import MediaError
from timeviper.video.formats import MOST_PIXELS, open_container, recognise, regular_file

STDIN = "-"
WANTED = "a video file, a camera such as /dev/video0, an rtsp:// or http:// address, a pipe, or -"
_ADDRESS = re.compile(r"([A-Za-z][A-Za-z0-9+.-]*)://(?:[^/@]*@)?([^?#]*)")
# What an address may lead to: nothing on this machine, whatever a playlist says.
_PROTOCOLS = {
    "http": "http,https,tcp,tls,crypto",
    "https": "http,https,tcp,tls,crypto",
    "rtsp": "rtsp,rtp,srtp,udp,tcp",
    "rtsps": "rtsp,rtsps,rtp,srtp,udp,tcp,tls",
    "rtmp": "rtmp,tcp",
    "tcp": "tcp",
    "udp": "udp",
}
_OPEN_SECONDS = 10.0
# A stream is looked at no longer than this before its first frame is shown: its rate is a hint.
_PROBE = {"max_pixels": str(MOST_PIXELS), "analyzeduration": "1000000", "fpsprobesize": "4"}
_STEP_SECONDS = 0.1


class PlaceKind(StrEnum):
    """What a place is, which decides who waits for whom."""

    DEVICE = "camera"
    NETWORK = "stream"
    PIPE = "pipe"
    FILE = "file"


@dataclass(frozen=True, kw_only=True)
class Place:
    """Where a video comes from.

    Args:
        kind: camera, stream, pipe or file.
        target: path, address, or `-` for standard input.
        name: for messages; without passwords.
    """

    kind: PlaceKind
    target: str
    name: str


@final
class Pipe:
    """Reads a pipe for FFmpeg, and ends when nobody wants more: a silent pipe blocks nobody."""

    def __init__(self, target: str, stopped: Callable[[], bool]) -> None:
        self._owned = target != STDIN
        # Without blocking: nobody may have opened the other end yet.
        flags = os.O_RDONLY | os.O_NONBLOCK
        self._fd = os.open(target, flags) if self._owned else sys.stdin.fileno()
        self._stopped = stopped

    def read(self, size: int) -> bytes:
        """The next bytes, at most `size`; none at the end."""
        while not self._stopped():
            ready, _, _ = select.select([self._fd], [], [], _STEP_SECONDS)
            if ready:
                return os.read(self._fd, size)
        return b""

    def close(self) -> None:
        """Release it; standard input stays open."""
        if self._owned:
            os.close(self._fd)
            self._owned = False


@dataclass(frozen=True, eq=False, kw_only=True)
class Connection:
    """An open place.

    Args:
        container: what FFmpeg reads.
        real_time: frames come as they are taken, whether somebody reads or not.
        pipe: what it is read from, where that is ours.
    """

    container: InputContainer
    real_time: bool
    pipe: Pipe | None = None

    def close(self) -> None:
        """Release everything."""
        self.container.close()
        if self.pipe is not None:
            self.pipe.close()


def find_place(source: str) -> Place:
    """Tell what a name means.

    Args:
        source: path of a file, a device or a named pipe; an address; `-` for standard input.

    Raises:
        MediaError: nothing is there, or it is of a kind that cannot be watched.
    """
    if source == STDIN:
        return Place(kind=PlaceKind.PIPE, target=source, name="standard input")
    address = _ADDRESS.match(source)
    if address is not None:
        scheme = address.group(1).lower()
        if scheme not in _PROTOCOLS:
            raise MediaError(want=WANTED, got=f"a {scheme}:// address", do="use rtsp or http")
        name = f"{scheme}://{address.group(2)}"
        return Place(kind=PlaceKind.NETWORK, target=source, name=name)
    kind = _kind_of(source)
    if kind is PlaceKind.FILE:
        recognise(Path(source))
    return Place(kind=kind, target=source, name=Path(source).name)


def connect(place: Place, stopped: Callable[[], bool], *, silence: float | int) -> Connection:
    """Open a place.

    Args:
        place: as found.
        stopped: asked often while a pipe is silent; True ends it as if it had been closed.
        silence: seconds without a byte after which a stream is given up.

    Raises:
        MediaError: it is not there, or holds nothing that FFmpeg reads.
    """
    try:
        return _connect(place, stopped, silence)
    except (FFmpegError, OSError) as error:
        raise MediaError(
            want=f"a video from {place.name}",
            got=error.strerror or type(error).__name__,
            do="check that it is there, switched on and not in use elsewhere",
        ) from error


def _connect(place: Place, stopped: Callable[[], bool], silence: float | int) -> Connection:
    if place.kind is PlaceKind.FILE:
        path = regular_file(Path(place.target))
        container = open_container(path, recognise(path))
        return Connection(container=container, real_time=False)
    if place.kind is PlaceKind.PIPE:
        return _connect_pipe(Pipe(place.target, stopped))
    options = dict(_PROBE)
    timeout = (_OPEN_SECONDS, silence)
    if place.kind is PlaceKind.DEVICE:
        container = av.open(place.target, "r", format="v4l2", options=options, timeout=timeout)
        return Connection(container=container, real_time=True)
    scheme = place.target.partition("://")[0].lower()
    if scheme in ("rtsp", "rtsps"):
        options["rtsp_transport"] = "tcp"
    container = av.open(
        place.target,
        "r",
        options=options,
        container_options={"protocol_whitelist": _PROTOCOLS[scheme]},
        timeout=timeout,
        metadata_errors="replace",
    )
    # What knows its own length was recorded: it waits for us.
    recorded = bool(container.duration and container.duration > 0)
    return Connection(container=container, real_time=not recorded)


def _connect_pipe(pipe: Pipe) -> Connection:
    try:
        container = av.open(pipe, "r", options=dict(_PROBE), metadata_errors="replace")
    except BaseException:
        pipe.close()
        raise
    return Connection(container=container, real_time=False, pipe=pipe)


def _kind_of(source: str) -> PlaceKind:
    try:
        mode = os.stat(source).st_mode
    except (OSError, ValueError) as error:
        camera = source.startswith("/dev/video")
        raise MediaError(
            want=WANTED,
            got=f"{source!r}, which does not exist",
            do="plug the camera in, or list cameras with: ls /dev/video*"
            if camera
            else "check the path or the address",
        ) from error
    for is_kind, kind in (
        (stat.S_ISREG, PlaceKind.FILE),
        (stat.S_ISFIFO, PlaceKind.PIPE),
        (stat.S_ISCHR, PlaceKind.DEVICE),
    ):
        if is_kind(mode):
            return kind
    raise MediaError(want=WANTED, got=f"{source!r}, which is neither", do="give one of these")
