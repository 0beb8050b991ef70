"""Read and write tensors in safetensors shards, one at a time; knows nothing of models."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from timeviper.core.errors import CheckpointError, ConfigError

WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
# What safetensors calls the number formats that weights may have.
FLOATS = {
    "F64": torch.float64,
    "F32": torch.float32,
    "BF16": torch.bfloat16,
    "F16": torch.float16,
}
_PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl")


class Shards:
    """Names, shapes and number formats of a folder's tensors; the values are read on demand.

    Args:
        folder: holds `model.safetensors`, or the index of several files.

    Raises:
        CheckpointError: no safetensors, pickled weights, a broken file, or an index that does not
            fit its files.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.files = _files(folder)
        self.shapes: dict[str, tuple[int, ...]] = {}
        self.formats: dict[str, str] = {}
        self._homes: dict[str, Path] = {}
        for path in self.files:
            self._list(path)
        if len(self.files) > 1 or not (folder / WHOLE).exists():
            _check_index(folder, {key: home.name for key, home in self._homes.items()})

    def stream(self) -> Iterator[tuple[str, Tensor]]:
        """Every tensor, file by file; each is a view of its file until it is copied."""
        for path in self.files:
            with _opened(path) as file:
                for key in file.keys():  # noqa: SIM118 (the file is no mapping)
                    yield key, _tensor(file, key, path)

    def _list(self, path: Path) -> None:
        with _opened(path) as file:
            for key in file.keys():  # noqa: SIM118 (the file is no mapping)
                if key in self._homes:
                    raise CheckpointError(
                        want=f"{key} in one file",
                        got=f"{self._homes[key].name} and {path.name}",
                        do="remove the files that do not belong to this checkpoint",
                    )
                part = file.get_slice(key)
                self._homes[key] = path
                self.shapes[key] = tuple(part.get_shape())
                self.formats[key] = part.get_dtype()


def write_shards(
    tensors: Mapping[str, Tensor],
    folder: Path,
    *,
    formats: Mapping[str, torch.dtype],
    max_shard_bytes: int,
) -> None:
    """Write tensors as one file, or as numbered shards with their index.

    Args:
        tensors: what to write, in the order of the files.
        folder: where to; it exists.
        formats: number format that each tensor is written in.
        max_shard_bytes: most bytes of one file; a larger tensor has a file of its own.

    Raises:
        ConfigError: `max_shard_bytes` is not positive.
    """
    if max_shard_bytes < 1:
        raise ConfigError(
            want="max_shard_bytes of at least 1", got=max_shard_bytes, do="raise the limit"
        )
    sizes = {k: t.numel() * formats[k].itemsize for k, t in tensors.items()}
    groups = _grouped(sizes, max_shard_bytes)
    names = _names(len(groups))
    for name, keys in zip(names, groups, strict=True):
        part = {k: tensors[k].detach().to("cpu", formats[k]).contiguous() for k in keys}
        save_file(part, folder / name, metadata={"format": "pt"})
        sync(folder / name)
    if len(groups) > 1:
        homes = {k: name for name, keys in zip(names, groups, strict=True) for k in keys}
        index = {"metadata": {"total_size": sum(sizes.values())}, "weight_map": homes}
        write_json(folder / INDEX, index)


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object, indented, and force it to the disk."""
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")
    sync(path)


def read_json(path: Path) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        CheckpointError: the file is missing, broken, or holds something else.
    """
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise _unreadable(path, "no such file", do="give the folder of a checkpoint") from None
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error), do="fetch or write the file again") from None
    if not isinstance(value, dict):
        raise _unreadable(path, type(value).__name__, do="fetch or write the file again")
    return value


def sync(path: Path) -> None:
    """Force a file, or the names in a folder, to the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def is_weights(name: str) -> bool:
    """Whether a file of that name belongs to the tensors of a checkpoint."""
    return name == INDEX or (name.startswith("model") and name.endswith(".safetensors"))


def _files(folder: Path) -> list[Path]:
    if (folder / WHOLE).is_file():
        return [folder / WHOLE]
    if not (folder / INDEX).is_file():
        raise _no_weights(folder)
    homes = sorted(set(_weight_map(folder).values()))
    # A name with a path in it could read files outside the folder.
    wrong = [h for h in homes if Path(h).name != h or not (folder / h).is_file()]
    if wrong:
        raise CheckpointError(
            want=f"the files that {INDEX} names, beside it",
            got=f"no {', '.join(map(repr, wrong))}",
            do="fetch the missing files",
        )
    return [folder / h for h in homes]


def _weight_map(folder: Path) -> dict[str, str]:
    homes = read_json(folder / INDEX).get("weight_map")
    if not isinstance(homes, dict) or not all(isinstance(h, str) for h in homes.values()):
        raise _unreadable(folder / INDEX, "no weight_map of names", do="fetch the file again")
    return homes


def _check_index(folder: Path, found: Mapping[str, str]) -> None:
    listed = _weight_map(folder)
    wrong = sorted(k for k in listed.keys() | found.keys() if listed.get(k) != found.get(k))
    if wrong:
        raise CheckpointError(
            want=f"the tensors where {INDEX} says",
            got=f"another place for {', '.join(wrong)}",
            do="fetch the index and its files again",
        )


def _no_weights(folder: Path) -> CheckpointError:
    pickled = sorted(p.name for kind in _PICKLED for p in folder.glob(kind))
    if pickled:
        return CheckpointError(
            want=f"weights as safetensors in {folder}",
            got=", ".join(pickled),
            do="convert them to safetensors: reading a pickled file can run its code",
        )
    return CheckpointError(
        want=f"{WHOLE} or {INDEX} in {folder}",
        got="neither",
        do="give the folder of a checkpoint",
    )


def _opened(path: Path) -> Any:
    try:
        return safe_open(path, framework="pt", device="cpu")
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, str(error), do="fetch or write the file again") from None


def _tensor(file: Any, key: str, path: Path) -> Tensor:
    try:
        return file.get_tensor(key)
    except (SafetensorError, OSError) as error:
        raise _unreadable(path, f"{key}: {error}", do="fetch or write the file again") from None


def _unreadable(path: Path, got: str, *, do: str) -> CheckpointError:
    kind = "safetensors" if path.suffix == ".safetensors" else "JSON object"
    return CheckpointError(want=f"a whole {kind} file {path}", got=got, do=do)


def _grouped(sizes: Mapping[str, int], most: int) -> list[list[str]]:
    groups: list[list[str]] = [[]]
    filled = 0
    for key, size in sizes.items():
        if groups[-1] and filled + size > most:
            groups.append([])
            filled = 0
        groups[-1].append(key)
        filled += size
    return groups


def _names(count: int) -> list[str]:
    if count == 1:
        return [WHOLE]
    return [f"model-{n:05d}-of-{count:05d}.safetensors" for n in range(1, count + 1)]
