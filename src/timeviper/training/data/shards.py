"""Webdataset shards: tar files whose neighbours of one name are a sample; read where they lie."""

from __future__ import annotations

import tarfile
import tempfile
from collections.abc import Generator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

from timeviper.core.errors import MediaError
from timeviper.training.data.files import RecordFile, parse_object
from timeviper.training.data.records import Record
from timeviper.training.data.samples import DataError, Opener, Origin, Reason, SampleError
from timeviper.video.base import VideoSource
from timeviper.video.source import open_video

# Largest member that is copied out of a shard: two hours of video at 2 Mbit/s.
MOST_MEMBER_BYTES = 2 * 1024**3
_PICTURES = frozenset({"jpg", "jpeg", "png", "webp", "bmp"})
_VIDEOS = frozenset({"mp4", "mkv", "webm", "avi", "mov", "gif"})
_BLOCK, _COPY_BYTES = 512, 1 << 20


@final
@dataclass(frozen=True, kw_only=True)
class Member:
    """A file inside a shard, read at its place.

    Args:
        shard: the tar file.
        name: of the member.
        offset: of its first byte.
        size: its bytes.
    """

    shard: Path
    name: str
    offset: int
    size: int

    @property
    def identity(self) -> str:
        """Shard and place."""
        return f"{self.shard}:{self.offset}+{self.size}"

    def read(self) -> bytes:
        """All bytes; for records, not for media."""
        with self.shard.open("rb") as file:
            file.seek(self.offset)
            return file.read(self.size)

    @contextmanager
    def open(self) -> Generator[VideoSource]:
        """Copy the member to a temporary file that is removed when the block ends.

        Raises:
            MediaError: it is too large, or cannot be read as a video or picture.
            DataError: the shard is gone or the disk is full.
        """
        if self.size > MOST_MEMBER_BYTES:
            raise MediaError(
                want=f"members of at most {MOST_MEMBER_BYTES:,} bytes",
                got=f"{self.name} with {self.size:,}",
                do="keep long videos beside the shards and name their paths",
            )
        # A folder of its own, so that the file keeps its name in messages.
        with tempfile.TemporaryDirectory(prefix="timeviper-") as folder:
            path = Path(folder) / Path(self.name).name
            try:
                self._copy(path)
            except OSError as error:
                raise DataError(
                    want=f"{self.shard} to be readable, and {self.size:,} bytes free in {folder}",
                    got=error,
                    do="free some space, or let TMPDIR name a larger disk",
                ) from None
            yield open_video(path)

    def _copy(self, path: Path) -> None:
        with self.shard.open("rb") as source, path.open("wb") as target:
            source.seek(self.offset)
            left = self.size
            while left:
                part = source.read(min(left, _COPY_BYTES))
                if not part:
                    raise MediaError(
                        want=f"{self.size:,} bytes of {self.name}",
                        got=f"{self.size - left:,}",
                        do="fetch the shard again",
                    )
                target.write(part)
                left -= len(part)


# Members of one sample by what follows the first dot of their name.
_Group = dict[str, Member]


@final
class ShardRecords(RecordFile):
    """Samples of a tar file: neighbours whose names agree up to the first dot.

    Args:
        path: an uncompressed tar file.
        root: folder that paths of media outside the shard start from.
    """

    kind = "webdataset"

    def __init__(self, path: Path, root: Path) -> None:
        self.path, self.root = path, root
        self._groups: list[tuple[str, _Group]] = []
        self._broken = ""
        try:
            for member in _members(path):
                self._put(member)
        except tarfile.TarError as error:
            self._broken = str(error)

    def __len__(self) -> int:
        """Samples, and one more where the file breaks off."""
        return len(self._groups) + bool(self._broken)

    def read(self, index: int) -> Record:
        """One record; see `RecordFile.read`."""
        if index == len(self._groups):
            raise SampleError(
                Reason.TRUNCATED,
                Origin(str(self.path), "end"),
                want="a complete, uncompressed tar file",
                got=self._broken,
                do="fetch or write the shard again; the samples before the break are used",
            )
        key, group = self._groups[index]
        origin = Origin(str(self.path), key)
        media = {ext: m for ext, m in group.items() if _kind(ext)}
        openers: dict[str, Opener] = {m.name: m for m in media.values()}
        data = self._data(group, origin)
        if not data.keys() & {"image", "images", "video", "videos"}:
            data |= {f"{kind}s": _named(media, kind) for kind in ("image", "video")}
        else:
            # Records may call a member by its last name or by its ending alone.
            openers |= {Path(m.name).name: m for m in media.values()} | dict(media)
        return Record(data=data, origin=origin, root=self.root, openers=openers)

    def _data(self, group: _Group, origin: Origin) -> dict[str, Any]:
        data: dict[str, Any] = {}
        if "json" in group:
            data = parse_object(group["json"].read(), origin)
        if "txt" in group and not data.keys() & {"conversations", "messages", "caption"}:
            data["caption"] = group["txt"].read().decode("utf-8", "replace").strip()
        return data

    def _put(self, member: Member) -> None:
        path = Path(member.name)
        stem, _, ending = path.name.partition(".")
        key = str(path.parent / stem)
        if not self._groups or self._groups[-1][0] != key:
            self._groups.append((key, {}))
        self._groups[-1][1][ending.lower()] = member


def _members(path: Path) -> Iterator[Member]:
    """Files of a tar in order.

    Raises:
        TarError: it is compressed, damaged or ends early.
    """
    with tarfile.open(path, "r:") as tar:
        for info in tar:
            if info.isfile():
                end = info.offset_data + info.size
                if end > path.stat().st_size:
                    raise tarfile.ReadError(f"an end within the member {info.name}")
                yield Member(shard=path, name=info.name, offset=info.offset_data, size=info.size)
        # Python takes an end between two members for the end of the file.
        with path.open("rb") as file:
            file.seek(tar.offset)
            if file.read(_BLOCK) != bytes(_BLOCK):
                raise tarfile.ReadError("an end without the closing block")


def _named(media: _Group, kind: str) -> list[str]:
    return [member.name for ending, member in media.items() if _kind(ending) == kind]


def _kind(ending: str) -> str:
    last = ending.rpartition(".")[2]
    return "image" if last in _PICTURES else "video" if last in _VIDEOS else ""
