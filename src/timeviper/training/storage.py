"""Tensors of a training checkpoint on disk: DCP's plans over safetensors files, never pickles."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Mapping
from concurrent.futures import Future as HostFuture
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, final

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor
from torch.distributed.checkpoint.metadata import (
    ChunkStorageMetadata,
    Metadata,
    MetadataIndex,
    StorageMeta,
    TensorProperties,
    TensorStorageMetadata,
)
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    ReadItem,
    SavePlan,
    SavePlanner,
    WriteItem,
)
from torch.distributed.checkpoint.storage import StorageReader, StorageWriter, WriteResult
from torch.futures import Future

from timeviper.core.errors import CheckpointError

# What JSON says of each tensor: {"dtype", "shape", "chunks": [{"offsets", "sizes", "file"}]}.
Index = dict[str, dict[str, Any]]


def tensors_file(rank: int) -> str:
    """Name of the file that a rank writes."""
    return f"rank-{rank:05d}.safetensors"


def proof_file(tensors: str) -> str:
    """Name of the file that holds length and hash of a file of tensors."""
    return Path(tensors).with_suffix(".json").name


@final
class SafetensorsWriter(StorageWriter):
    """Copies what the plan asks for at once and writes it behind the caller's back.

    Args:
        folder: exists; this rank's file and its proof come into it.
        rank: of this process.

    `index` is complete on rank 0 after `dcp.save`; `written` is done when the file is on disk.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.folder = folder
        self.rank = rank
        self.index: Index = {}
        self.written: HostFuture[None] = HostFuture()
        self.written.set_result(None)

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """DCP announces a save; one writer serves one save."""

    def set_up_storage_writer(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, is_coordinator: bool
    ) -> None:
        """Nothing to prepare; DCP passes no more to a writer that asks for no more."""

    def prepare_local_plan(self, plan: SavePlan) -> SavePlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[SavePlan]) -> list[SavePlan]:
        """As planned."""
        return plans

    def storage_meta(self) -> StorageMeta | None:
        """Nothing is stored beside the tensors."""
        return None

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any folder will do."""
        return True

    def write_data(self, plan: SavePlan, planner: SavePlanner) -> Future[list[WriteResult]]:
        """Copy this rank's part to the host and start writing it."""
        copies: dict[str, Tensor] = {}
        results: list[WriteResult] = []
        for item in plan.items:
            tensor = planner.resolve_data(item)
            if not isinstance(tensor, Tensor):
                raise TypeError(f"{item.index.fqn} is no tensor; other values belong into JSON")
            # A copy also on a CPU: the next step changes the original while this is written.
            copies[_key(item.index.fqn, _offsets(item))] = tensor.detach().to("cpu", copy=True)
            size = tensor.numel() * tensor.element_size()
            results.append(WriteResult(item.index, size, tensors_file(self.rank)))
        if copies:
            path = self.folder / tensors_file(self.rank)
            self.written = _behind(lambda: _write(copies, path))
        done: Future[list[WriteResult]] = Future()
        done.set_result(results)
        return done

    def finish(self, metadata: Metadata, results: list[list[WriteResult]]) -> None:
        """Remember on rank 0 where every part will lie; the caller writes it down."""
        homes = {r.index: r.storage_data for part in results for r in part}
        for name, entry in metadata.state_dict_metadata.items():
            if not isinstance(entry, TensorStorageMetadata):
                raise TypeError(f"{name} is no tensor; other values belong into JSON")
            self.index[name] = {
                "dtype": str(entry.properties.dtype).removeprefix("torch."),
                "shape": list(entry.size),
                "chunks": [
                    {
                        "offsets": list(chunk.offsets),
                        "sizes": list(chunk.sizes),
                        "file": homes[_place(homes, name, chunk)],
                    }
                    for chunk in entry.chunks
                ],
            }


@final
class SafetensorsReader(StorageReader):
    """Reads the slices that a load plan asks for, whoever wrote them.

    Args:
        folder: of the files.
        index: what they hold, as a writer's.
    """

    def __init__(self, folder: Path, index: Index) -> None:
        self.folder = folder
        self.index = index

    def reset(self, checkpoint_id: str | os.PathLike[str] | None = None) -> None:
        """DCP announces a load."""

    def read_metadata(self) -> Metadata:  # pyright: ignore[reportIncompatibleMethodOverride]
        """The index in DCP's words."""
        return Metadata(
            {
                name: TensorStorageMetadata(
                    properties=TensorProperties(dtype=_dtype(entry["dtype"])),
                    size=torch.Size(entry["shape"]),
                    chunks=[
                        ChunkStorageMetadata(torch.Size(c["offsets"]), torch.Size(c["sizes"]))
                        for c in entry["chunks"]
                    ],
                )
                for name, entry in self.index.items()
            }
        )

    def set_up_storage_reader(  # pyright: ignore[reportIncompatibleMethodOverride]
        self, metadata: Metadata, is_coordinator: bool
    ) -> None:
        """Nothing to prepare; DCP passes no more to a reader that asks for no more."""

    def prepare_local_plan(self, plan: LoadPlan) -> LoadPlan:
        """As planned."""
        return plan

    def prepare_global_plan(self, plans: list[LoadPlan]) -> list[LoadPlan]:
        """As planned."""
        return plans

    @classmethod
    def validate_checkpoint_id(cls, checkpoint_id: str | os.PathLike[str]) -> bool:
        """Any folder will do."""
        return True

    def read_data(self, plan: LoadPlan, planner: LoadPlanner) -> Future[None]:
        """Copy each asked slice into its place, file by file."""
        by_file: dict[str, list[ReadItem]] = {}
        for item in plan.items:
            by_file.setdefault(self._home(item.storage_index), []).append(item)
        for name, items in by_file.items():
            with safe_open(self.folder / name, framework="pt", device="cpu") as file:
                for item in items:
                    target = planner.resolve_tensor(item).detach()
                    target.copy_(_slice(file, item).view_as(target))
                    planner.commit_tensor(item, target)
        done: Future[None] = Future()
        done.set_result(None)
        return done

    def _home(self, index: MetadataIndex) -> str:
        offsets = list(index.offset or ())
        chunks = self.index[index.fqn]["chunks"]
        return next(c["file"] for c in chunks if c["offsets"] == offsets)


def check_file(folder: Path, name: str) -> None:
    """Refuse a file of tensors that is not what was written.

    Args:
        folder: of the checkpoint.
        name: of the file.

    Raises:
        CheckpointError: it is missing or another one; or its proof is.
    """
    path = folder / name
    if Path(name).name != name:
        raise _damaged(folder, f"a file outside of it, {name!r}")
    try:
        proof = json.loads((folder / proof_file(name)).read_text())
        found = {"bytes": path.stat().st_size, "sha256": _hash(path)}
    except (OSError, ValueError) as error:
        raise _damaged(folder, str(error)) from None
    if found != proof:
        raise _damaged(folder, f"{name} with other bytes than were written")


def files_of(index: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Names of all files that an index tells of, sorted."""
    return sorted({chunk["file"] for entry in index.values() for chunk in entry["chunks"]})


def write_json(path: Path, value: Mapping[str, Any]) -> None:
    """Write a JSON object and wait until it is on disk."""
    with path.open("w") as handle:
        handle.write(json.dumps(value))
        handle.flush()
        os.fsync(handle.fileno())


def sync(path: Path) -> None:
    """Wait until a file, or the names in a folder, are on disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _write(tensors: dict[str, Tensor], path: Path) -> None:
    try:
        save_file({name: t.contiguous() for name, t in tensors.items()}, path)
        sync(path)
        proof = {"bytes": path.stat().st_size, "sha256": _hash(path)}
        write_json(path.with_name(proof_file(path.name)), proof)
    except (OSError, SafetensorError) as error:
        raise CheckpointError(
            want=f"room and permission to write {path.parent}",
            got=error,
            do="free some space, then start the same command again: the run goes on from its "
            "last checkpoint",
        ) from error


def _behind(work: Any) -> HostFuture[None]:
    pool = ThreadPoolExecutor(1, thread_name_prefix="checkpoint")
    future = pool.submit(work)
    pool.shutdown(wait=False)
    return future


def _hash(path: Path) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()


def _slice(file: Any, item: ReadItem) -> Tensor:
    key = _key(item.storage_index.fqn, item.storage_index.offset or ())
    if not item.lengths:
        return file.get_tensor(key)
    ranges = zip(item.storage_offsets, item.lengths, strict=True)
    return file.get_slice(key)[tuple(slice(start, start + n) for start, n in ranges)]


def _place(
    homes: Mapping[MetadataIndex, str], name: str, chunk: ChunkStorageMetadata
) -> MetadataIndex:
    """Whole tensors are written under an index without offsets, shards under one with them."""
    shard = MetadataIndex(name, chunk.offsets)
    return shard if shard in homes else MetadataIndex(name)


def _offsets(item: WriteItem) -> torch.Size:
    if item.tensor_data is None:
        raise TypeError(f"{item.index.fqn} is no tensor; other values belong into JSON")
    return item.tensor_data.chunk.offsets


def _key(name: str, offsets: Any) -> str:
    return f"{name}@{','.join(map(str, offsets))}"


def _dtype(name: str) -> torch.dtype:
    return {str(t).removeprefix("torch."): t for t in _FORMATS}[name]


_FORMATS = (
    torch.float64,
    torch.float32,
    torch.bfloat16,
    torch.float16,
    torch.int64,
    torch.int32,
    torch.uint8,
    torch.bool,
)


def _damaged(folder: Path, got: str) -> CheckpointError:
    return CheckpointError(
        want=f"a whole checkpoint in {folder}",
        got=got,
        do="remove that folder: the run then goes on from the checkpoint before it",
    )
