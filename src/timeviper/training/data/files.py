"""Files of records: a JSON array or JSON lines, indexed once and read a record at a time."""

from __future__ import annotations

import json
import mmap
import re
from abc import ABC, abstractmethod
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any, cast, final

from timeviper.training.data.records import Record
from timeviper.training.data.samples import DataError, Origin, Reason, SampleError

# A structural byte, or all strings, numbers and spaces up to the next one.
_TOKEN = re.compile(rb'[\[\]{},]|(?:"[^"\\]*+(?:\\.[^"\\]*+)*+"|[^"\[\]{},]++)++', re.DOTALL)


class RecordFile(ABC):
    """Records of one file, each of them readable alone; safe to use from several threads."""

    kind: str

    @abstractmethod
    def __len__(self) -> int:
        """Number of records, bad ones included."""

    @abstractmethod
    def read(self, index: int) -> Record:
        """One record.

        Raises:
            SampleError: it is malformed.
        """


@final
class TextRecords(RecordFile):
    """Records that are stretches of a text file.

    Args:
        path: the file.
        kind: name of its format, for reports.
        spans: (first byte, byte after the last, line) of each record.
        root: folder that paths of media start from.
    """

    def __init__(
        self, path: Path, kind: str, spans: Iterator[tuple[int, int, int]], root: Path
    ) -> None:
        self.path, self.kind, self.root = path, kind, root
        # Three numbers a record: files of millions of records are never held as objects.
        self._spans = array("q", (number for span in spans for number in span))

    def __len__(self) -> int:
        """Number of records."""
        return len(self._spans) // 3

    def read(self, index: int) -> Record:
        """One record; see `RecordFile.read`."""
        start, end, line = self._spans[3 * index : 3 * index + 3]
        origin = Origin(str(self.path), line)
        with self.path.open("rb") as file:
            file.seek(start)
            text = file.read(end - start).rstrip()
        return Record(data=parse_object(text, origin), origin=origin, root=self.root)


def open_lines(path: Path, root: Path) -> TextRecords:
    """Index a file with one JSON object a line; empty lines are left out."""
    return TextRecords(path, "json lines", _line_spans(path), root)


def open_array(path: Path, root: Path) -> TextRecords:
    """Index a file that is one JSON array of objects.

    Raises:
        DataError: the array does not end, or something follows it.
    """
    return TextRecords(path, "json array", _array_spans(path), root)


def parse_object(text: bytes, origin: Origin) -> dict[str, Any]:
    """Parse one JSON object.

    Raises:
        SampleError: it is not JSON, not UTF-8 or no object, with the column.
    """
    try:
        data: object = json.loads(text)
    except (ValueError, RecursionError) as error:
        words = f"{error} in {_short(text)}"
        if isinstance(error, json.JSONDecodeError):
            near = text[max(0, error.pos - 40) : error.pos + 40]
            words = f"{error.msg} at character {error.pos + 1}, near {_short(near)}"
        raise SampleError(
            Reason.MALFORMED, origin, want="a JSON object", got=words, do="correct the record"
        ) from None
    if not isinstance(data, dict):
        raise SampleError(
            Reason.MALFORMED, origin, want="a JSON object", got=_short(text), do="correct it"
        )
    return cast("dict[str, Any]", data)


def _line_spans(path: Path) -> Iterator[tuple[int, int, int]]:
    start = 0
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            end = start + len(line)
            if not line.isspace():
                yield start, end, number
            start = end


def _array_spans(path: Path) -> Iterator[tuple[int, int, int]]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as data:
        depth, line, start, first = 0, 1, 0, 1
        for match in _TOKEN.finditer(data):
            token = match.group()
            if token not in _DEPTH:
                line += token.count(b"\n")
                continue
            if depth == 1 and token in b",]":
                found = _trimmed(data, start, match.start())
                if found is not None:
                    yield (*found, first + data[start : found[0]].count(b"\n"))
                start, first = match.end(), line
            depth += _DEPTH[token]
            if depth == 1 and token == b"[":
                start, first = match.end(), line
            if depth == 0:
                _nothing_after(data, match.end(), path)
                return
        raise DataError(
            want=f"{path} to be one complete JSON array",
            got=f"its end within {depth} open brackets",
            do="check whether the file was written to its end",
        )


_DEPTH = {b"[": 1, b"{": 1, b"]": -1, b"}": -1, b",": 0}


def _trimmed(data: mmap.mmap, start: int, end: int) -> tuple[int, int] | None:
    """Bounds of what lies there without the space around it; None for space alone."""
    text = data[start:end]
    left = len(text) - len(text.lstrip())
    return None if left == len(text) else (start + left, end)


def _nothing_after(data: mmap.mmap, end: int, path: Path) -> None:
    if data[end : end + 4096].strip():
        raise DataError(
            want=f"nothing after the JSON array of {path}",
            got=_short(data[end : end + 80].strip()),
            do="write one array, or one object a line",
        )


def _short(text: bytes) -> str:
    words = text[:80].decode("utf-8", "replace").strip()
    return repr(words if len(text) <= 80 else words + "...")
