"""What a decoder remembers between calls: per layer, and per transfer site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Float
from torch import Tensor

from timeviper.model.tokens import Tokens
from timeviper.ops.packing import to_rows

# Room that an append reserves beyond what it needs, so that chunks rarely copy the cache.
_GROWTH = 1.25


@dataclass
class _Buffer:
    """Rows shared by memories that continue one another; `used` is what the newest one holds."""

    k: Float[Tensor, "sequence capacity kv_head head_dim"]
    v: Float[Tensor, "sequence capacity kv_head head_dim"]
    used: tuple[int, ...]


@dataclass(frozen=True)
class AttentionMemory:
    """Keys and values seen so far, one row a sequence.

    A memory never changes: `extend` returns a longer one. The newest memory of a buffer writes
    into its spare room; an older one (a fork) copies first, so forks never disturb each other.

    Args:
        lengths: valid keys of each row.
    """

    buffer: _Buffer
    lengths: tuple[int, ...]

    @property
    def k(self) -> Float[Tensor, "sequence capacity kv_head head_dim"]:
        """Keys; beyond a row's length anything may lie."""
        return self.buffer.k

    @property
    def v(self) -> Float[Tensor, "sequence capacity kv_head head_dim"]:
        """Values; beyond a row's length anything may lie."""
        return self.buffer.v

    @property
    def nbytes(self) -> int:
        """Bytes of the valid keys and values."""
        return sum(self.lengths) * 2 * self.k.shape[2] * self.k.shape[3] * self.k.itemsize

    def select(self, rows: Sequence[int]) -> AttentionMemory:
        """Memory whose row i is a copy of row `rows[i]`."""
        lengths = tuple(self.lengths[r] for r in rows)
        index = torch.tensor(list(rows), device=self.k.device)
        longest = max(lengths, default=0)
        k, v = (t[:, :longest].index_select(0, index) for t in (self.k, self.v))
        return AttentionMemory(_Buffer(k, v, lengths), lengths)


def extend(
    memory: AttentionMemory | None,
    k: Float[Tensor, "token kv_head head_dim"],
    v: Float[Tensor, "token kv_head head_dim"],
    *,
    lengths: Sequence[int],
) -> AttentionMemory:
    """Append the keys and values of packed tokens to each sequence's row.

    Args:
        memory: what came before, or None at the start of time.
        k: new keys, packed.
        v: new values, packed.
        lengths: new tokens of each sequence.

    Returns:
        A memory of the summed lengths; `memory` still holds what it held.
    """
    added = tuple(lengths)
    if memory is None:
        return _fresh(to_rows(k, added), to_rows(v, added), added)
    total = tuple(a + b for a, b in zip(memory.lengths, added, strict=True))
    if torch.is_grad_enabled() and (k.requires_grad or memory.k.requires_grad):
        grown = _copied(memory, max(total))
        return _append_out_of_place(grown, k, v, added, total)
    if memory.lengths != memory.buffer.used or max(total) > memory.k.shape[1]:
        memory = _copied(memory, int(max(total) * _GROWTH))
    _write(memory.k, k, memory.lengths, added)
    _write(memory.v, v, memory.lengths, added)
    memory.buffer.used = total
    return AttentionMemory(memory.buffer, total)


@dataclass(frozen=True)
class MambaMemory:
    """The convolution's last inputs and the state-space state of each sequence."""

    tail: Float[Tensor, "sequence width_less_one channel"]
    ssm: Float[Tensor, "sequence head head_dim state"]

    @property
    def nbytes(self) -> int:
        """Bytes of both."""
        return self.tail.nbytes + self.ssm.nbytes

    def select(self, rows: Sequence[int]) -> MambaMemory:
        """Memory whose row i is a copy of row `rows[i]`."""
        index = torch.tensor(list(rows), device=self.ssm.device)
        return MambaMemory(self.tail.index_select(0, index), self.ssm.index_select(0, index))


@dataclass(frozen=True)
class PendingTransfer:
    """What a transfer site holds until the question arrives.

    Args:
        seen: vision tokens that reached the site so far, a sequence.
        dropped: cross-attention keys and values of the dropped tokens; None while there are none.
        parked: tokens that wait for the question to choose among them, oldest part first.
    """

    seen: tuple[int, ...]
    dropped: AttentionMemory | None = None
    parked: tuple[Tokens, ...] = ()

    @property
    def nbytes(self) -> int:
        """Bytes of the waiting keys, values and parked tokens."""
        waiting = sum(part.hidden.nbytes for part in self.parked)
        return waiting + (self.dropped.nbytes if self.dropped else 0)

    def select(self, rows: Sequence[int]) -> PendingTransfer:
        """What waits for the sequences `rows`, in that order."""
        return PendingTransfer(
            tuple(self.seen[r] for r in rows),
            None if self.dropped is None else self.dropped.select(rows),
            tuple(_select_tokens(part, rows) for part in self.parked),
        )


Memory = AttentionMemory | MambaMemory | None


@dataclass(frozen=True)
class DecoderState:
    """All that a decoder carries from one call to the next; immutable, so forking is free.

    Args:
        memories: one a layer; None for MLP layers and for layers not reached yet.
        pending: one a transfer site; None before anything reached it.
    """

    memories: tuple[Memory, ...]
    pending: tuple[PendingTransfer | None, ...] = field(default=())

    @property
    def nbytes(self) -> int:
        """Bytes of everything remembered."""
        return sum(part.nbytes for part in (*self.memories, *self.pending) if part is not None)

    def select(self, rows: Sequence[int]) -> DecoderState:
        """State whose sequence i continues from sequence `rows[i]` of this one."""
        return DecoderState(
            tuple(None if m is None else m.select(rows) for m in self.memories),
            tuple(None if p is None else p.select(rows) for p in self.pending),
        )

    def drop_pending_tokens(self) -> DecoderState:
        """The same state without parked tokens, for callers that ask nothing more."""
        kept = tuple(None if p is None else replace(p, parked=()) for p in self.pending)
        return replace(self, pending=kept)


def _fresh(k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> AttentionMemory:
    return AttentionMemory(_Buffer(k, v, lengths), lengths)


def _copied(memory: AttentionMemory, capacity: int) -> AttentionMemory:
    longest = max(memory.lengths, default=0)
    room = max(capacity, longest) - longest
    pad = (0, 0, 0, 0, 0, room)
    k, v = (torch.nn.functional.pad(t[:, :longest], pad) for t in (memory.k, memory.v))
    return _fresh(k, v, memory.lengths)


def _append_out_of_place(
    memory: AttentionMemory, k: Tensor, v: Tensor, added: tuple[int, ...], total: tuple[int, ...]
) -> AttentionMemory:
    row, slot = _slots(memory.lengths, added, k.device)
    new_k = memory.k.index_put((row, slot), k.to(memory.k.dtype))
    new_v = memory.v.index_put((row, slot), v.to(memory.v.dtype))
    return _fresh(new_k, new_v, total)


def _write(rows: Tensor, new: Tensor, lengths: tuple[int, ...], added: tuple[int, ...]) -> None:
    if len(set(lengths)) == 1 and len(set(added)) == 1:
        rows[:, lengths[0] : lengths[0] + added[0]] = to_rows(new, added)
    else:
        row, slot = _slots(lengths, added, rows.device)
        rows[row, slot] = new.to(rows.dtype)


def _slots(
    lengths: tuple[int, ...], added: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    counts = torch.tensor(added)
    row = torch.repeat_interleave(torch.arange(len(added)), counts)
    within = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    return row.to(device), (torch.tensor(lengths)[row] + within).to(device)


def _select_tokens(tokens: Tokens, rows: Sequence[int]) -> Tokens:
    if len(tokens.lengths) == 1 and len(rows) == 1:
        return tokens
    starts = tokens.starts
    index = torch.cat([torch.arange(starts[r], starts[r] + tokens.lengths[r]) for r in rows])
    hidden = tokens.hidden.index_select(0, index.to(tokens.hidden.device))
    lengths = tuple(tokens.lengths[r] for r in rows)
    return Tokens(hidden, tokens.kinds[index.numpy()], lengths)
