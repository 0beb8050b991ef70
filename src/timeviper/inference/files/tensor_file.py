"""Write the tensors of a state file one by one, and map them back without copying."""

from __future__ import annotations

import hashlib
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, BinaryIO

import torch
from torch import Tensor

from timeviper.core.errors import StateFileError
from timeviper.inference.files.sealed import Piece, Sealed, damaged, write_header

_FORMATS = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.bfloat16: "BF16",
    torch.float16: "F16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.int64: "I64",
    torch.int8: "I8",
    torch.uint8: "U8",
}
_DTYPES = {name: dtype for dtype, name in _FORMATS.items()}
_BLOCK_BYTES = 2**23


@dataclass(frozen=True, kw_only=True)
class Entry:
    """A tensor to be written, made only when its turn comes.

    Args:
        name: its key.
        dtype: of its numbers.
        shape: of the whole.
        make: gives its parts, which lie one behind another along the first axis.
    """

    name: str
    dtype: torch.dtype
    shape: tuple[int, ...]
    make: Callable[[], Sequence[Tensor]]

    @property
    def nbytes(self) -> int:
        """Bytes of the whole."""
        return math.prod(self.shape) * self.dtype.itemsize


def entry_of(name: str, *parts: Tensor) -> Entry:
    """An entry of tensors that are there already, one behind another along the first axis."""
    shape = (sum(len(part) for part in parts), *parts[0].shape[1:])
    return Entry(name=name, dtype=parts[0].dtype, shape=shape, make=lambda: parts)


def file_bytes(info: Mapping[str, Any], entries: Sequence[Entry]) -> int:
    """Bytes of the file that `write_file` would write."""
    return len(write_header(info, _pieces(_ordered(entries)))) + sum(e.nbytes for e in entries)


def write_file(file: BinaryIO, info: Mapping[str, Any], entries: Sequence[Entry]) -> None:
    """Write a whole state file; only one tensor is copied at a time.

    Args:
        file: open for writing, at its start.
        info: what the file says of itself, with the number `version` of its format.
        entries: its tensors.

    Raises:
        OSError: the disk does not take it.
    """
    ordered = _ordered(entries)
    pieces = _pieces(ordered)
    file.write(write_header(info, pieces))
    hashes = [_write(file, entry) for entry in ordered]
    end = file.tell()
    file.seek(0)
    file.write(write_header(info, pieces, hashes))
    file.seek(end)


def map_file(sealed: Sealed) -> dict[str, Tensor]:
    """The tensors of a state file, mapped: a page is read when it is first used.

    Args:
        sealed: the checked header.

    Returns:
        Tensors by name on the CPU. They may be written to; the file never changes by that.

    Raises:
        StateFileError: the file is gone, or holds what no state file holds.
    """
    # Nothing but a header: a file of length 0 behind it could not be mapped.
    if not sealed.pieces or sealed.pieces[-1].end == 0:
        return {piece.name: _empty(piece, sealed) for piece in sealed.pieces}
    try:
        storage = torch.UntypedStorage.from_file(str(sealed.path), False, sealed.file_bytes)
    except RuntimeError as error:
        raise StateFileError(
            want=f"a state file at {sealed.path}", got=error, do="try again"
        ) from None
    whole = torch.empty(0, dtype=torch.uint8).set_(storage)  # pyright: ignore[reportArgumentType]
    return {piece.name: _mapped(whole, piece, sealed) for piece in sealed.pieces}


def _ordered(entries: Sequence[Entry]) -> list[Entry]:
    """Wide numbers first, so that each tensor begins where its numbers may be read in place."""
    return sorted(entries, key=lambda entry: -entry.dtype.itemsize)


def _pieces(entries: Sequence[Entry]) -> list[Piece]:
    pieces: list[Piece] = []
    start = 0
    for entry in entries:
        end = start + entry.nbytes
        pieces.append(
            Piece(
                name=entry.name,
                format=_FORMATS[entry.dtype],
                shape=entry.shape,
                start=start,
                end=end,
            )
        )
        start = end
    return pieces


def _write(file: BinaryIO, entry: Entry) -> str:
    said = hashlib.sha256()
    for part in entry.make():
        data = _bytes(part)
        for start in range(0, len(data), _BLOCK_BYTES):
            block = data[start : start + _BLOCK_BYTES]
            said.update(block)
            file.write(block)
    return said.hexdigest()


def _bytes(tensor: Tensor) -> memoryview:
    if tensor.numel() == 0:
        return memoryview(b"")
    flat = tensor.detach().cpu().contiguous().reshape(-1)
    return flat.view(torch.uint8).numpy().data


def _mapped(whole: Tensor, piece: Piece, sealed: Sealed) -> Tensor:
    if piece.start == piece.end:
        return _empty(piece, sealed)
    data = whole[sealed.data + piece.start : sealed.data + piece.end]
    try:
        return data.view(_DTYPES[piece.format]).view(piece.shape)
    except (KeyError, RuntimeError) as error:
        raise damaged(sealed.path, f"{piece.name}: {error}") from None


def _empty(piece: Piece, sealed: Sealed) -> Tensor:
    if piece.format not in _DTYPES:
        raise damaged(sealed.path, f"{piece.name} of numbers called {piece.format}")
    return torch.empty(piece.shape, dtype=_DTYPES[piece.format])
