"""Files that appear whole or not at all, with their room taken before the work begins."""

from __future__ import annotations

import errno
import os
import shutil
import sys
import tempfile
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

from timeviper.core.errors import StateFileError
from timeviper.inference.files.locks import still_there, try_lock

_DRAFT = ".part"
# What a disk says that takes no more.
_FULL = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO})
# What file systems answer that cannot set room aside.
_CANNOT = frozenset({errno.EOPNOTSUPP, errno.EINVAL, errno.ENOSYS})


@contextmanager
def whole_file(path: Path, *, room: int = 0) -> Generator[BinaryIO]:
    """Write a file under a temporary name beside `path`, which it takes when the block ends well.

    Args:
        path: the file to make or to replace; its folder is made when missing.
        room: bytes to set aside at once, so that a disk that fills up later does no harm.

    Yields:
        The open temporary file, readable and seekable. It is cut where the last write ended.

    Raises:
        StateFileError: no room or no permission; nothing is left and `path` is as it was.

    Law: whatever happens, `path` is as it was or complete. What a killed process leaves is
    swept by the next writer of the same name.
    """
    try:
        handle, draft = _begin(path, room)
    except OSError as error:
        raise no_room(path, error) from error
    try:
        with os.fdopen(handle, "w+b") as file:
            yield file
            file.flush()
            file.truncate(file.tell())
            os.fsync(file.fileno())
            os.replace(draft, path)
        _sync_folder(path.parent)
    except OSError as error:
        # What the caller does in between may fail for reasons of its own.
        if error.errno not in _FULL:
            raise
        raise no_room(path, error) from error
    finally:
        with suppress(OSError):
            draft.unlink()


def no_room(path: Path, got: object) -> StateFileError:
    """What is said when a disk does not take a file.

    Args:
        path: the file.
        got: the error, or words.
    """
    return StateFileError(
        want=f"room and permission to write {path}",
        got=got,
        do="free some space or name a place on another disk; nothing was left behind",
    )


def free_bytes(folder: Path) -> int:
    """Bytes that may still be written where a folder is or would be made.

    Args:
        folder: it may not exist yet.
    """
    there = folder.absolute()
    while not there.exists():
        there = there.parent
    return shutil.disk_usage(there).free


def sweep_drafts(folder: Path, name: str = "") -> None:
    """Remove temporary files whose writer is gone.

    Args:
        folder: where to look.
        name: only those of this file; of all when empty.
    """
    start = f".{name}." if name else "."
    with suppress(OSError):
        for item in folder.iterdir():
            if item.name.startswith(start) and item.name.endswith(_DRAFT):
                _remove_if_orphaned(item)


def _begin(path: Path, room: int) -> tuple[int, Path]:
    if path.exists() and not path.is_file():
        # A folder, and as well a device or a pipe: the new file would take its place.
        what = "the folder" if path.is_dir() else "no regular file:"
        raise StateFileError(want="a file to write", got=f"{what} {path}", do="name a file")
    path.parent.mkdir(parents=True, exist_ok=True)
    sweep_drafts(path.parent, path.name)
    handle, draft = _draft_of(path)
    try:
        _set_aside(handle, path, room)
    except BaseException:
        os.close(handle)
        draft.unlink()
        raise
    return handle, draft


def _draft_of(path: Path) -> tuple[int, Path]:
    while True:
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=_DRAFT, dir=path.parent)
        draft = Path(name)
        # Another writer may have swept it in the moment before it was locked.
        if _claimed(handle) and still_there(handle, draft):
            draft.chmod(0o644)
            return handle, draft
        os.close(handle)


def _claimed(handle: int) -> bool:
    try:
        return try_lock(handle)
    except OSError:
        # Where nobody can lock, nobody sweeps either.
        return True


def _remove_if_orphaned(item: Path) -> None:
    with suppress(OSError):
        handle = os.open(item, os.O_RDWR)
        try:
            if try_lock(handle):
                item.unlink()
        finally:
            os.close(handle)


def _set_aside(handle: int, path: Path, room: int) -> None:
    free = free_bytes(path.parent)
    if room > free:
        raise no_room(path, f"{free:,} bytes free of {room:,} needed")
    if not room or sys.platform != "linux":
        return
    try:
        os.posix_fallocate(handle, 0, room)
    except OSError as error:
        if error.errno not in _CANNOT:
            raise


def _sync_folder(folder: Path) -> None:
    if sys.platform == "win32":
        return
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
