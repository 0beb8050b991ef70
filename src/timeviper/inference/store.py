"""A folder of encoded videos, found by what they show and how it was read, never by a name."""

from __future__ import annotations

import os
import re
from collections.abc import Generator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

from timeviper.core.errors import RequestError, StateFileError
from timeviper.inference.engine import Engine
from timeviper.inference.files.locks import locked
from timeviper.inference.files.sealed import SUFFIX
from timeviper.inference.files.whole_file import sweep_drafts
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.request import DEFAULTS, AskOptions
from timeviper.inference.state_file import load_state, save_state, state_bytes
from timeviper.inference.viewing import key_of, view
from timeviper.inference.watch import SILENT, Watch
from timeviper.video.fingerprint import media_stamp
from timeviper.video.source import Openable

DEFAULT_LIMIT_BYTES = 20 * 10**9
_ENTRY = re.compile(r"[0-9a-f]{64}" + re.escape(SUFFIX))
_EVICTION_LOCK = ".eviction.lock"


@dataclass(frozen=True, kw_only=True, eq=False)
class Fetched:
    """What a store gave.

    Args:
        encoded: the video.
        found: whether it was there already.
        key: its name in the store.
    """

    encoded: EncodedVideo
    found: bool
    key: str


@final
class Store:
    """Keeps encoded videos up to a limit; those asked longest ago go first.

    Any number of processes may use one folder at once: whoever comes second for a video waits for
    the first and takes what it made; entries appear whole; locks vanish with their process.

    Args:
        folder: made when missing.
        limit_bytes: most bytes of all entries together.

    Raises:
        RequestError: a limit that is not positive.
        StateFileError: the folder cannot be made.

    Law: what it gives answers as the video read anew would.
    """

    def __init__(self, folder: Path | str, *, limit_bytes: int = DEFAULT_LIMIT_BYTES) -> None:
        if limit_bytes < 1:
            raise RequestError(
                want="room for encoded videos of at least a byte", got=limit_bytes, do="allow more"
            )
        self.folder, self.limit_bytes = Path(folder), limit_bytes
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise _unusable(self.folder, error) from None

    @property
    def nbytes(self) -> int:
        """Bytes of all entries."""
        return sum(size for _, size, _ in self._entries())

    def encode(
        self,
        engine: Engine,
        video: Openable,
        options: AskOptions = DEFAULTS,
        *,
        watch: Watch = SILENT,
    ) -> Fetched:
        """Give a video as encoded before, or encode and keep it.

        Args:
            engine: reads it.
            video: as in `Engine.encode`.
            options: how to look at it.
            watch: follows and stops the work; also the wait for another process.

        Raises:
            As `Engine.encode`; StateFileError when the folder cannot be used. A full disk is no
            error: the video is then given with a note and not kept.
        """
        viewing = view(video, engine.encoder, options)
        stamp = media_stamp(viewing.source)
        key = key_of(viewing, engine.encoder)
        found = self._load(key, engine.encoder)
        if found is not None:
            return Fetched(encoded=found, found=True, key=key)
        with self._locked(f".{key}.lock", watch):
            found = self._load(key, engine.encoder)
            if found is not None:
                return Fetched(encoded=found, found=True, key=key)
            encoded = engine.encode(viewing.source, options, watch=watch)
            # A file that was written to meanwhile is not the one that was hashed, and what was
            # read with dropped tokens to make it fit is not what was asked for.
            usual = engine.gate.reader_of(encoded.state) is engine.encoder
            if usual and media_stamp(viewing.source) == stamp:
                encoded = self._keep(key, encoded, engine.encoder)
        return Fetched(encoded=encoded, found=False, key=key)

    def path_of(self, key: str) -> Path:
        """Where the entry of a key lies, whether it is there or not."""
        return self.folder / f"{key}{SUFFIX}"

    @contextmanager
    def _locked(self, name: str, watch: Watch) -> Generator[None]:
        def waiting() -> None:
            watch.check("waiting for another process that reads this video")

        with ExitStack() as held:
            try:
                held.enter_context(locked(self.folder / name, waiting=waiting))
            except OSError as error:
                raise _unusable(self.folder, error) from None
            yield

    def _load(self, key: str, encoder: VideoEncoder) -> EncodedVideo | None:
        path = self.path_of(key)
        if not path.exists():
            return None
        try:
            encoded = load_state(path, encoder)
            # Its date says when it was last asked for.
            os.utime(path)
        except (StateFileError, OSError):
            # Damaged, or removed by another process a moment ago: it is made anew.
            with suppress(OSError):
                path.unlink()
            return None
        return encoded

    def _keep(self, key: str, encoded: EncodedVideo, encoder: VideoEncoder) -> EncodedVideo:
        size = state_bytes(encoded, encoder)
        if size > self.limit_bytes:
            return _noted(encoded, f"its {size:,} bytes are more than the cache may hold")
        try:
            sweep_drafts(self.folder)
            with self._locked(_EVICTION_LOCK, SILENT):
                self._make_room(size)
            save_state(encoded, self.path_of(key), encoder)
        except StateFileError as error:
            return _noted(encoded, error.got)
        return encoded

    def _make_room(self, size: int) -> None:
        entries = sorted(self._entries())
        total = sum(size for _, size, _ in entries)
        for _, freed, path in entries:
            if total + size <= self.limit_bytes:
                return
            # Whoever has it mapped keeps it until he is done.
            with suppress(OSError):
                path.unlink()
            total -= freed

    def _entries(self) -> list[tuple[int, int, Path]]:
        """When each was last used, its bytes, its path."""
        found: list[tuple[int, int, Path]] = []
        for path in self.folder.iterdir():
            with suppress(OSError):
                if _ENTRY.fullmatch(path.name):
                    about = path.stat()
                    found.append((about.st_mtime_ns, about.st_size, path))
        return found


def _noted(encoded: EncodedVideo, why: str) -> EncodedVideo:
    note = f"the encoded video was not kept in the cache: {why}"
    return replace(encoded, notes=(*encoded.notes, note))


def _unusable(folder: Path, error: OSError) -> StateFileError:
    return StateFileError(
        want=f"a folder for encoded videos at {folder}",
        got=error,
        do="name a folder that may be written to",
    )
