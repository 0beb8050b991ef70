"""Films of a benchmark: named by what is in them, rendered once, by several processes if wanted."""

from __future__ import annotations

import hashlib
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Generator, Iterable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass, fields
from functools import lru_cache
from multiprocessing import get_context, parent_process
from pathlib import Path

import numpy as np
import torch

from timeviper.core.errors import RequestError, TimeviperError
from timeviper.synth.footage import Footage, load_footage
from timeviper.synth.render import Film, render_video
from timeviper.synth.world import Worlds

# Raised when the same worlds are drawn differently, so that old films are not taken for new ones.
DRAWING = 1
# A film that a killed process left half-written is swept away after this long.
_STALE_SECONDS = 3600.0
_Trouble = tuple[str, str, str]


@dataclass(frozen=True, kw_only=True, eq=False)
class FilmJob:
    """A film to render.

    Args:
        worlds: one world.
        path: file of the film.
        film: frame rate, size and quality.
        clips: files of the footage.
    """

    worlds: Worlds
    path: Path
    film: Film
    clips: tuple[Path, ...] = ()


def film_key(worlds: Worlds, film: Film, clips: Iterable[Path] = ()) -> str:
    """Name of a film that says what is in it: equal worlds, settings and footage, equal key.

    Args:
        worlds: one world.
        film: frame rate, size and quality.
        clips: files of the footage; their bytes count, not their names.
    """
    digest = hashlib.sha256(f"{DRAWING} {film} {worlds.num_frames}".encode())
    for field in fields(worlds):
        value = getattr(worlds, field.name)
        if isinstance(value, np.ndarray):
            digest.update(f"{field.name} {value.dtype} {value.shape}".encode())
            digest.update(np.ascontiguousarray(value).tobytes())
    for clip in clips:
        digest.update(file_digest(clip).encode())
    return digest.hexdigest()[:20]


def rendered(
    jobs: Iterable[FilmJob], *, workers: int = 0, ahead: int = 2
) -> Generator[Path, None, None]:
    """Render films in order; a film that is there already is left as it is.

    Args:
        jobs: films; taken only as far ahead as needed.
        workers: processes that render; 0 renders in this one when a film is wanted.
        ahead: finished films that wait a worker at most.

    Yields:
        Files, complete, in the order of the jobs.

    Raises:
        RequestError: a folder that cannot be written, or a process that was ended from outside.
    """
    if workers < 1:
        for job in jobs:
            render(job)
            yield job.path
        return
    # Spawned: a forked child would inherit torch's threads and a CUDA context.
    pool = ProcessPoolExecutor(workers, mp_context=get_context("spawn"), initializer=_begin)
    try:
        yield from _in_order(pool, iter(jobs), workers * ahead)
    except BrokenProcessPool:
        raise RequestError(
            want="processes that render films to live",
            got="one that was ended, perhaps for want of memory",
            do="use fewer --workers and run the same command again",
        ) from None
    finally:
        pool.shutdown(wait=True, cancel_futures=True)


def render(job: FilmJob) -> None:
    """Render one film, if it is not there yet."""
    if job.path.exists():
        return
    make_folder(job.path.parent)
    # A name of its own: two processes may render the same film, and either may win.
    own = job.path.with_name(f"{job.path.stem}.{os.getpid()}{job.path.suffix}")
    size = (job.film.height, job.film.width)
    footage = _footage(job.clips, size) if job.clips else None
    render_video(job.worlds, own, film=job.film, footage=footage)
    os.replace(own, job.path)


def make_folder(folder: Path) -> None:
    """Make a folder that can be written.

    Raises:
        RequestError: it cannot be.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise RequestError(
            want=f"a folder to write to at {folder}",
            got=error.strerror or error,
            do="choose a folder that is yours",
        ) from None
    if not os.access(folder, os.W_OK):
        raise RequestError(
            want=f"a folder to write to at {folder}",
            got="one that is read-only",
            do="choose a folder that is yours",
        )


def sweep(folder: Path) -> None:
    """Remove what killed processes left half-written long ago."""
    for part in folder.glob(".*.part"):
        try:
            if time.time() - part.stat().st_mtime > _STALE_SECONDS:
                part.unlink()
        except FileNotFoundError:
            # Another process finished or swept it.
            continue


def _in_order(
    pool: ProcessPoolExecutor, jobs: Iterator[FilmJob], depth: int
) -> Generator[Path, None, None]:
    waiting: deque[tuple[Path, Future[_Trouble | None] | None]] = deque()
    for job in jobs:
        # A process begins with the first film that it is needed for.
        future = None if job.path.exists() else pool.submit(_attempt, job)
        waiting.append((job.path, future))
        if len(waiting) > depth:
            yield _finished(*waiting.popleft())
    while waiting:
        yield _finished(*waiting.popleft())


def _finished(path: Path, future: Future[_Trouble | None] | None) -> Path:
    trouble = None if future is None else future.result()
    if trouble is not None:
        raise RequestError(want=trouble[0], got=trouble[1], do=trouble[2])
    return path


def _attempt(job: FilmJob) -> _Trouble | None:
    """Render; what users must be told travels as words, since our errors do not as objects."""
    try:
        render(job)
    except TimeviperError as error:
        return error.want, error.got, error.do
    return None


def _begin() -> None:
    """A process that renders: one thread, ends silently on Ctrl-C and with its parent."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, _leave)
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _leave(number: int, frame: object) -> None:
    raise SystemExit(128 + number)


def _end_with_parent() -> None:
    parent = parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)


@lru_cache(maxsize=1)
def _footage(clips: tuple[Path, ...], size: tuple[int, int]) -> Footage:
    return load_footage(clips, height=size[0], width=size[1])


def file_digest(path: Path) -> str:
    """SHA-256 of a file, remembered while it does not change: it is asked for with every film."""
    found = path.stat()
    return _digest(path, found.st_size, found.st_mtime_ns)


@lru_cache(maxsize=256)
def _digest(path: Path, size: int, changed: int) -> str:
    with path.open("rb") as handle:
        return hashlib.file_digest(handle, "sha256").hexdigest()
