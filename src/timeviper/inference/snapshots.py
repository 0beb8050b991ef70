"""Points of a growing video to go back to: a bounded number, dense at its end, thin behind."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import final

import numpy as np

from timeviper.inference.prefill import EncodedVideo
from timeviper.model.state import AttentionMemory, DecoderState, MambaMemory, PendingTransfer
from timeviper.model.tokens import Tokens

# Ages below this count as this: at the very end of a video no gap is small beside its age.
_YOUNGEST_SECONDS = 1e-3


@dataclass(frozen=True)
class _Waiting:
    """What a transfer site held: numbers of what only grows."""

    seen: tuple[int, ...]
    dropped: tuple[int, ...] | None
    parked: int


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Snapshot:
    """An encoded video as it was, told by what cannot be found in what it has become.

    Keys, values and waiting tokens only grow: of these the number is enough. States of Mamba
    layers are replaced, so they are kept.

    Args:
        seconds: length of the video then.
        frames: frames read then.
        tokens: tokens read then.
        notes: sentences there were then.
        pixels: chain of hashes of the frames read then.
        memories: of each layer the Mamba state, or the numbers of keys, or nothing.
        pending: of each transfer site what waited.
    """

    seconds: float
    frames: int
    tokens: int
    notes: int
    pixels: str
    memories: tuple[MambaMemory | tuple[int, ...] | None, ...]
    pending: tuple[_Waiting | None, ...]

    @classmethod
    def of(cls, encoded: EncodedVideo) -> Snapshot:
        """Remember how a video is now; nothing is copied."""
        return cls(
            seconds=encoded.duration_seconds,
            frames=encoded.frames,
            tokens=encoded.tokens,
            notes=len(encoded.notes),
            pixels=encoded.pixels,
            memories=tuple(
                memory.lengths if isinstance(memory, AttentionMemory) else memory
                for memory in encoded.state.memories
            ),
            pending=tuple(
                None if site is None else _waiting(site) for site in encoded.state.pending
            ),
        )

    @property
    def nbytes(self) -> int:
        """Bytes that this snapshot alone keeps."""
        return sum(m.nbytes for m in self.memories if isinstance(m, MambaMemory))

    def restore(self, now: EncodedVideo) -> EncodedVideo:
        """The video as it was.

        Args:
            now: what it has become since.

        Returns:
            The same as was remembered; its first append copies the keys, so `now` stays good.
        """
        memories = zip(self.memories, now.state.memories, strict=True)
        sites = zip(self.pending, now.state.pending, strict=True)
        state = DecoderState(
            tuple(
                replace(newer, lengths=older)
                if isinstance(newer, AttentionMemory) and isinstance(older, tuple)
                else older
                if isinstance(older, MambaMemory)
                else None
                for older, newer in memories
            ),
            tuple(
                None if older is None or newer is None else _as_it_was(older, newer)
                for older, newer in sites
            ),
        )
        return replace(
            now,
            state=state,
            times=now.times[: self.frames],
            duration_seconds=self.seconds,
            tokens=self.tokens,
            notes=now.notes[: self.notes],
            pixels=self.pixels,
        )


def thinned(snapshots: Sequence[Snapshot], most: int) -> tuple[Snapshot, ...]:
    """Leave out snapshots until at most so many are left.

    Args:
        snapshots: in order of time; the last one is the present.
        most: at least 2; the first and the last always stay.

    Returns:
        Those that stay: each time the one goes whose gap is then smallest beside its age.

    Law: whoever goes back lands, beside how far he wanted to go, not much further back.
    """
    kept = list(snapshots)
    while len(kept) > most:
        now = kept[-1].seconds
        gaps = [
            (after.seconds - before.seconds) / max(now - after.seconds, _YOUNGEST_SECONDS)
            for before, after in zip(kept[:-2], kept[2:], strict=True)
        ]
        del kept[1 + int(np.argmin(gaps))]
    return tuple(kept)


def _waiting(site: PendingTransfer) -> _Waiting:
    dropped = None if site.dropped is None else site.dropped.lengths
    return _Waiting(site.seen, dropped, sum(len(part.kinds) for part in site.parked))


def _as_it_was(older: _Waiting, newer: PendingTransfer) -> PendingTransfer:
    dropped = None
    if newer.dropped is not None and older.dropped is not None:
        dropped = replace(newer.dropped, lengths=older.dropped)
    return PendingTransfer(older.seen, dropped, _first(newer.parked, older.parked))


def _first(parts: Sequence[Tokens], count: int) -> tuple[Tokens, ...]:
    """The first tokens of a queue of one sequence."""
    kept: list[Tokens] = []
    for part in parts:
        if count <= 0:
            break
        kept.append(part.take(np.arange(min(count, len(part.kinds)))))
        count -= len(part.kinds)
    return tuple(kept)
