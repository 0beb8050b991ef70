"""Locks on files that vanish with the process that held them, however it ended."""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Callable, Generator
from contextlib import contextmanager, suppress
from pathlib import Path

if sys.platform == "win32":
    import msvcrt
else:
    import fcntl

_POLL_SECONDS = 0.05
# What systems answer when somebody else holds a lock.
_HELD = frozenset({errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK})


def try_lock(handle: int) -> bool:
    """Lock an open file if nobody else holds it; closing it lets go.

    Args:
        handle: a file descriptor.

    Returns:
        Whether it is ours now.

    Raises:
        OSError: this file system knows no locks.
    """
    try:
        if sys.platform == "win32":
            msvcrt.locking(handle, msvcrt.LK_NBLCK, 1)
        else:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if error.errno not in _HELD:
            raise
        return False
    return True


@contextmanager
def locked(path: Path, *, waiting: Callable[[], None] = lambda: None) -> Generator[None]:
    """Hold the lock of that name; others wait.

    Args:
        path: of the lock's file, made when missing and removed afterwards.
        waiting: called again and again while somebody else holds it; may raise to give up.

    Raises:
        OSError: the file cannot be made, or not be locked there.
    """
    handle = _taken(path, waiting)
    try:
        yield
    finally:
        # Removed while it is held: whoever waited on this very file sees that and begins anew.
        with suppress(OSError):
            path.unlink()
        os.close(handle)


def _taken(path: Path, waiting: Callable[[], None]) -> int:
    while True:
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o644)
        try:
            while not try_lock(handle):
                waiting()
                time.sleep(_POLL_SECONDS)
            if still_there(handle, path):
                return handle
        except BaseException:
            os.close(handle)
            raise
        os.close(handle)


def still_there(handle: int, path: Path) -> bool:
    """Whether a name still leads to an open file.

    Args:
        handle: a file descriptor.
        path: under which it was opened.
    """
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path))
    except OSError:
        return False
