"""The outer form of a state file: safetensors whose header is sealed; needs no torch to read."""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from timeviper.core.errors import StateFileError

SUFFIX = ".tvstate"
# Every state file starts with these words, behind the eight bytes of the header's length.
_OPENING = b'{"__metadata__":{"format":"timeviper-state"'
_NO_HASH = "0" * 64
_MOST_HEADER_BYTES = 100_000_000
_BLOCK_BYTES = 2**23
_MOST_THREADS = 16
# The data begins at a multiple of this: mapped numbers of every format lie where they should.
_ALIGNMENT = 64


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Where one tensor lies.

    Args:
        name: of the tensor.
        format: of its numbers, as safetensors calls it.
        shape: of the tensor.
        start: its first byte, counted from the end of the header.
        end: one past its last byte.
    """

    name: str
    format: str
    shape: tuple[int, ...]
    start: int
    end: int


@dataclass(frozen=True, kw_only=True)
class Sealed:
    """The header of a state file, checked.

    Args:
        path: the file.
        info: what the file says of itself, plain JSON values.
        pieces: its tensors, in the order of the file.
        hashes: SHA-256 of each tensor's bytes, in the same order.
        data: byte of the file at which the tensors begin.
    """

    path: Path
    info: Mapping[str, Any]
    pieces: tuple[Piece, ...]
    hashes: tuple[str, ...]
    data: int

    @property
    def file_bytes(self) -> int:
        """Bytes of the whole file."""
        return self.data + (self.pieces[-1].end if self.pieces else 0)


def is_state_file(path: Path) -> bool:
    """Whether a file begins as a state file does, whatever its name; no error if it cannot be read.

    Args:
        path: any path.
    """
    try:
        if not os.path.isfile(path):
            return False
        with path.open("rb") as file:
            return file.read(8 + len(_OPENING))[8:] == _OPENING
    except (OSError, ValueError):
        return False


def write_header(
    info: Mapping[str, Any], pieces: Sequence[Piece], hashes: Sequence[str] | None = None
) -> bytes:
    """The first bytes of a state file, padded and sealed.

    Args:
        info: what the file says of itself.
        pieces: its tensors in order, one after another without gaps.
        hashes: of each tensor's bytes; zeros stand for them while they are not known.

    Returns:
        The bytes; as many whatever the hashes are.
    """
    metadata = {
        "format": "timeviper-state",
        "seal": _NO_HASH,
        "sha256": " ".join(hashes or [_NO_HASH] * len(pieces)),
        "timeviper": json.dumps(info, allow_nan=False, separators=(",", ":")),
    }
    tensors = {
        piece.name: {
            "dtype": piece.format,
            "shape": list(piece.shape),
            "data_offsets": [piece.start, piece.end],
        }
        for piece in pieces
    }
    text = json.dumps({"__metadata__": metadata, **tensors}, separators=(",", ":")).encode()
    text += b" " * (-(len(text) + 8) % _ALIGNMENT)
    seal = hashlib.sha256(text).hexdigest().encode()
    text = text.replace(b'"seal":"' + _NO_HASH.encode(), b'"seal":"' + seal, 1)
    return struct.pack("<Q", len(text)) + text


def read_header(path: Path, *, version: int) -> Sealed:
    """Read and check what a state file says of itself; the tensors are not touched.

    Args:
        path: the file.
        version: the only version of the format that is understood.

    Returns:
        The header.

    Raises:
        StateFileError: no such file, not a state file, cut short, changed, or another version.
    """
    text, file_bytes = _header_bytes(path)
    header = _parsed(text, path)
    metadata = _metadata(header.pop("__metadata__", None), path)
    info = _parsed(metadata["timeviper"].encode(), path)
    if info.get("version") != version:
        # Before the seal: another version may seal otherwise.
        raise StateFileError(
            want=f"a state file of version {version}",
            got=f"version {info.get('version')!r} in {path}",
            do="use the timeviper that wrote it, or encode the video again",
        )
    _check_seal(text, metadata, path)
    pieces = _pieces(header, path)
    sealed = Sealed(
        path=path,
        info=info,
        pieces=pieces,
        hashes=tuple(metadata["sha256"].split()),
        data=8 + len(text),
    )
    if file_bytes != sealed.file_bytes:
        raise _cut(path, f"{file_bytes:,} bytes of {sealed.file_bytes:,}")
    return sealed


def check_hashes(sealed: Sealed) -> None:
    """Compare every byte with what was written, several tensors at a time.

    Args:
        sealed: the checked header.

    Raises:
        StateFileError: a tensor differs; it is named.
    """
    with ThreadPoolExecutor(min(_MOST_THREADS, os.cpu_count() or 1)) as pool:
        found = list(pool.map(lambda piece: _hash(sealed, piece), sealed.pieces))
    if len(found) != len(sealed.hashes):
        raise damaged(sealed.path, f"{len(sealed.hashes)} hashes of {len(found)} tensors")
    for piece, got, want in zip(sealed.pieces, found, sealed.hashes, strict=True):
        if got != want:
            raise damaged(sealed.path, f"other bytes in {piece.name}")


def read_piece(sealed: Sealed, name: str) -> bytes:
    """The bytes of one tensor.

    Args:
        sealed: the checked header.
        name: of the tensor.

    Raises:
        StateFileError: there is none of that name, or it cannot be read.
    """
    piece = next((piece for piece in sealed.pieces if piece.name == name), None)
    if piece is None:
        raise damaged(sealed.path, f"no {name}")
    return b"".join(_blocks(sealed, piece))


def damaged(path: Path, got: object) -> StateFileError:
    """What is said of a state file whose bytes are not those that were written.

    Args:
        path: the file.
        got: what was found.
    """
    return StateFileError(
        want=f"the state file {path} as it was written",
        got=got,
        do="copy it again from where it is whole, or encode the video again",
    )


def _hash(sealed: Sealed, piece: Piece) -> str:
    said = hashlib.sha256()
    for block in _blocks(sealed, piece):
        said.update(block)
    return said.hexdigest()


def _blocks(sealed: Sealed, piece: Piece) -> Iterator[bytes]:
    try:
        with sealed.path.open("rb") as file:
            file.seek(sealed.data + piece.start)
            left = piece.end - piece.start
            while left > 0:
                block = file.read(min(left, _BLOCK_BYTES))
                if not block:
                    raise _cut(sealed.path, f"a file that ends inside {piece.name}")
                left -= len(block)
                yield block
    except OSError as error:
        raise damaged(sealed.path, error) from None


def _header_bytes(path: Path) -> tuple[bytes, int]:
    try:
        with path.open("rb") as file:
            file_bytes = os.fstat(file.fileno()).st_size
            first = file.read(8)
            if len(first) < 8:
                raise _cut(path, f"{file_bytes} bytes")
            length = int(struct.unpack("<Q", first)[0])
            opening = file.read(len(_OPENING))
            if opening != _OPENING[: len(opening)] or not opening or length > _MOST_HEADER_BYTES:
                raise StateFileError(
                    want="a state file, as `timeviper encode` writes",
                    got=f"another kind of file, {path}",
                    do="give the .tvstate file of an encoded video",
                )
            text = opening + file.read(length - len(opening))
    except (OSError, ValueError) as error:
        raise StateFileError(
            want=f"a state file at {path}", got=error, do="check the path, or encode the video"
        ) from None
    if len(text) < length:
        raise _cut(path, f"{file_bytes:,} bytes, which end inside its header")
    return text, file_bytes


def _parsed(text: bytes, path: Path) -> dict[str, Any]:
    try:
        value: object = json.loads(text, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        raise damaged(path, f"a header that is no JSON: {error}") from None
    if not isinstance(value, dict):
        raise damaged(path, "a header that is no JSON object")
    return cast("dict[str, Any]", value)


def _metadata(value: object, path: Path) -> dict[str, str]:
    found = cast("dict[str, str]", value if isinstance(value, dict) else {})
    if not all(isinstance(found.get(key), str) for key in ("seal", "sha256", "timeviper")):
        raise damaged(path, "a header without its parts")
    return found


def _refuse_constant(name: str) -> None:
    raise ValueError(f"{name} is no JSON")


def _check_seal(text: bytes, metadata: Mapping[str, str], path: Path) -> None:
    seal = metadata.get("seal", "")
    blank = text.replace(f'"seal":"{seal}'.encode(), f'"seal":"{_NO_HASH}'.encode(), 1)
    if hashlib.sha256(blank).hexdigest() != seal:
        raise damaged(path, "a header that does not fit its seal")


def _pieces(header: Mapping[str, Any], path: Path) -> tuple[Piece, ...]:
    pieces: list[Piece] = []
    end = 0
    for name, entry in header.items():
        try:
            piece = Piece(
                name=name,
                format=str(entry["dtype"]),
                shape=tuple(int(length) for length in entry["shape"]),
                start=int(entry["data_offsets"][0]),
                end=int(entry["data_offsets"][1]),
            )
        except (KeyError, IndexError, TypeError, ValueError) as error:
            raise damaged(path, f"a strange entry for {name}: {error!r}") from None
        if not end == piece.start <= piece.end:
            raise damaged(path, f"{name} at another place than behind the tensor before it")
        pieces.append(piece)
        end = piece.end
    return tuple(pieces)


def _cut(path: Path, got: str) -> StateFileError:
    return StateFileError(
        want=f"the whole state file {path}",
        got=got,
        do="copy it again from where it is whole, or encode the video again",
    )
