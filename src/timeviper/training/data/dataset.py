"""A data set: some files of any known format, read sample by sample; the table of formats."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol, final

from timeviper.training.data.files import RecordFile, open_array, open_lines
from timeviper.training.data.records import read_record
from timeviper.training.data.samples import DataError, Sample
from timeviper.training.data.shards import ShardRecords

# Indices that stay in memory: of the file being read and of those that open packs point into.
_MOST_OPEN = 16
_HEAD_BYTES = 4096


@dataclass(frozen=True, kw_only=True)
class Format:
    """A kind of file.

    Args:
        name: as users call it.
        fits: tells it by the file's name in lower case and its first bytes without space.
        open: indexes a file; media start from the folder given.
    """

    name: str
    fits: Callable[[str, bytes], bool]
    open: Callable[[Path, Path], RecordFile]


# One line a format; the first that fits is taken.
FORMATS: tuple[Format, ...] = (
    Format(name="webdataset", fits=lambda n, h: n.endswith(".tar"), open=ShardRecords),
    Format(name="json array", fits=lambda n, h: h.startswith(b"["), open=open_array),
    Format(
        name="json lines",
        fits=lambda n, h: h.startswith(b"{") or n.endswith(".jsonl"),
        open=open_lines,
    ),
)


class Samples(Protocol):
    """Samples in numbered parts, each readable by its place; files, or worlds drawn on the fly."""

    @property
    def name(self) -> str:
        """Names the data set in cursors and reports."""
        ...

    @property
    def parts(self) -> int:
        """Number of parts."""
        ...

    @property
    def identity(self) -> str:
        """Changes when the samples or their places change."""
        ...

    def length(self, part: int) -> int:
        """Samples of a part, bad ones included."""
        ...

    def read(self, part: int, item: int) -> Sample:
        """One sample.

        Raises:
            SampleError: it cannot be used.
        """
        ...


@final
class FileDataset:
    """Samples of files; each file is a part and is indexed when it is reached.

    Args:
        files: paths.
        media_root: folder that paths of media start from; each file's own folder when not given.
        name: in cursors and reports; the first file's name when not given.

    Raises:
        DataError: no files, a missing file, or one of a format that is not known.
    """

    def __init__(
        self,
        files: Sequence[Path | str],
        *,
        media_root: Path | str | None = None,
        name: str | None = None,
    ) -> None:
        self.files = tuple(Path(file) for file in files)
        if not self.files:
            raise DataError(want="at least one file", got="none", do="name the files of the data")
        self._formats = tuple(recognise_format(file) for file in self.files)
        self._roots = tuple(Path(media_root or file.parent) for file in self.files)
        self._name = name or self.files[0].name
        self._open: OrderedDict[int, RecordFile] = OrderedDict()
        self._lock = threading.Lock()

    @property
    def name(self) -> str:
        """Names the data set in cursors and reports."""
        return self._name

    @property
    def parts(self) -> int:
        """Number of files."""
        return len(self.files)

    @property
    def identity(self) -> str:
        """Names and sizes of the files."""
        return " ".join(f"{file.name}:{file.stat().st_size}" for file in self.files)

    def kind(self, part: int) -> str:
        """Name of a file's format."""
        return self._formats[part].name

    def length(self, part: int) -> int:
        """Records of a file."""
        return len(self._part(part))

    def read(self, part: int, item: int) -> Sample:
        """One sample; see `Samples.read`."""
        try:
            return read_record(self._part(part).read(item))
        except OSError as error:
            # The file was there when the run began: no fault of one sample.
            raise _unreadable(self.files[part], error) from None

    def _part(self, part: int) -> RecordFile:
        with self._lock:
            if part not in self._open:
                found = self._formats[part].open(self.files[part], self._roots[part])
                self._open[part] = found
            self._open.move_to_end(part)
            while len(self._open) > _MOST_OPEN:
                self._open.popitem(last=False)
            return self._open[part]


def recognise_format(path: Path) -> Format:
    """Tell the format of a file by its name and first bytes.

    Raises:
        DataError: it is missing, empty or of no known format.
    """
    try:
        with path.open("rb") as file:
            head = file.read(_HEAD_BYTES)
    except OSError as error:
        raise _unreadable(path, error) from None
    text = head.removeprefix(b"\xef\xbb\xbf").lstrip()
    found = next((f for f in FORMATS if f.fits(path.name.lower(), text)), None)
    if found is None or not head.strip():
        raise DataError(
            want="a JSON array, one JSON object a line, or an uncompressed .tar of a webdataset",
            got=f"{path}, which starts with {head[:16]!r}" if head else f"{path}, an empty file",
            do="convert the file, or unpack it if it is compressed",
        )
    return found


def _unreadable(path: Path, error: OSError) -> DataError:
    return DataError(
        want="a readable file", got=f"{path} ({error.strerror})", do="check the path and the disk"
    )
