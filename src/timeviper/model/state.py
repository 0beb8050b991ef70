"""What a decoder remembers between calls: per layer, and per transfer site."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import LayoutError
from timeviper.model.tokens import Tokens, join
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
        index = torch.tensor(list(rows), dtype=torch.int64, device=self.k.device)
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
    if memory is not None and not any(added):
        return memory
    if memory is None:
        return _fresh(to_rows(k, added), to_rows(v, added), added)
    total = tuple(a + b for a, b in zip(memory.lengths, added, strict=True))
    if torch.is_grad_enabled() and (k.requires_grad or memory.k.requires_grad):
        grown = _copied(memory, max(total))
        return _append_out_of_place(grown, k, v, added, total)
    if not _writable(memory) or max(total) > memory.k.shape[1]:
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
        index = torch.tensor(list(rows), dtype=torch.int64, device=self.ssm.device)
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
            # Joined first: thousands of clips times many rows would be as many small copies.
            (join(self.parked).only(np.array(rows, dtype=np.int64)),) if self.parked else (),
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
    def sequences(self) -> int | None:
        """Number of sequences that it remembers; None at the start of time."""
        for memory in self.memories:
            if isinstance(memory, AttentionMemory):
                return len(memory.lengths)
            if isinstance(memory, MambaMemory):
                return len(memory.ssm)
        return next((len(p.seen) for p in self.pending if p is not None), None)

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

    def reserve(self, factor: float, spare: int) -> DecoderState:
        """The same state with room for more keys, so that none are copied while it grows.

        Args:
            factor: how many times as many keys each layer and site will hold.
            spare: slots beyond that.
        """

        def roomy(memory: AttentionMemory) -> AttentionMemory:
            return _roomier(memory, int(max(memory.lengths, default=0) * factor) + spare)

        return DecoderState(
            tuple(roomy(m) if isinstance(m, AttentionMemory) else m for m in self.memories),
            tuple(
                replace(p, dropped=roomy(p.dropped)) if p is not None and p.dropped else p
                for p in self.pending
            ),
        )


def stack(states: Sequence[DecoderState]) -> DecoderState:
    """One state whose sequences are those of all `states`, in order.

    Args:
        states: of one decoder, each with at least one sequence that has begun.

    Returns:
        A state of its own; lengths may differ, and a layer that some sequences have not reached
        starts from nothing for them.

    Raises:
        LayoutError: no states, or one in which nothing has begun.

    Law: `stack(states).select` of one sequence continues as that sequence alone.
    """
    if len(states) == 1:
        return states[0]
    counts = [_sequences(state) for state in states]
    layers = zip(*(state.memories for state in states), strict=True)
    sites = zip(*(state.pending for state in states), strict=True)
    return DecoderState(
        tuple(_stack_memories(parts, counts) for parts in layers),
        tuple(_stack_pending(parts, counts) for parts in sites),
    )


def check_sequences(state: DecoderState, sequences: int) -> None:
    """Refuse tokens of another number of sequences than a state remembers.

    Raises:
        LayoutError: the numbers differ.
    """
    known = state.sequences
    if known is not None and known != sequences:
        raise LayoutError(
            want=f"tokens of {known} sequences, as the state remembers",
            got=f"{sequences} sequences",
            do="choose rows of the state with `select`, or give empty sequences their place",
        )


def _sequences(state: DecoderState) -> int:
    if state.sequences is None:
        raise LayoutError(
            want="states of sequences that have begun", got="an empty state", do="run a token first"
        )
    return state.sequences


def _stack_memories(parts: Sequence[Memory], counts: Sequence[int]) -> Memory:
    known = next((part for part in parts if part is not None), None)
    if isinstance(known, MambaMemory):
        rows = [
            part
            if isinstance(part, MambaMemory)
            else MambaMemory(
                known.tail.new_zeros(n, *known.tail.shape[1:]),
                known.ssm.new_zeros(n, *known.ssm.shape[1:]),
            )
            for part, n in zip(parts, counts, strict=True)
        ]
        return MambaMemory(torch.cat([r.tail for r in rows]), torch.cat([r.ssm for r in rows]))
    return _stack_attention(
        [part if isinstance(part, AttentionMemory) else None for part in parts], counts
    )


def _stack_attention(
    parts: Sequence[AttentionMemory | None], counts: Sequence[int]
) -> AttentionMemory | None:
    known = next((part for part in parts if part is not None), None)
    if known is None:
        return None
    lengths = tuple(
        length
        for part, n in zip(parts, counts, strict=True)
        for length in (part.lengths if part else (0,) * n)
    )
    shape = (len(lengths), int(max(lengths) * _GROWTH) + 1, *known.k.shape[2:])
    k, v = known.k.new_zeros(shape), known.v.new_zeros(shape)
    row = 0
    for part, n in zip(parts, counts, strict=True):
        if part is not None:
            longest = max(part.lengths)
            k[row : row + n, :longest] = part.k[:, :longest]
            v[row : row + n, :longest] = part.v[:, :longest]
        row += n
    return _fresh(k, v, lengths)


def _stack_pending(
    parts: Sequence[PendingTransfer | None], counts: Sequence[int]
) -> PendingTransfer | None:
    if all(part is None for part in parts):
        return None
    full = [p or PendingTransfer((0,) * n) for p, n in zip(parts, counts, strict=True)]
    return PendingTransfer(
        tuple(seen for part in full for seen in part.seen),
        _stack_attention([part.dropped for part in full], counts),
        _stack_parked([part.parked for part in full], counts),
    )


def _stack_parked(
    queues: Sequence[tuple[Tokens, ...]], counts: Sequence[int]
) -> tuple[Tokens, ...]:
    known = next((part for queue in queues for part in queue), None)
    if known is None:
        return ()
    nothing = [Tokens(known.hidden[:0], known.kinds[:0], (0,) * count) for count in counts]
    joined = [join([*queue, empty]) for queue, empty in zip(queues, nothing, strict=True)]
    return (
        Tokens(
            torch.cat([part.hidden for part in joined]),
            np.concatenate([part.kinds for part in joined]),
            tuple(length for part in joined for length in part.lengths),
        ),
    )


def _fresh(k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> AttentionMemory:
    return AttentionMemory(_Buffer(k, v, lengths), lengths)


def _writable(memory: AttentionMemory) -> bool:
    """Whether its spare room belongs to it alone, and nothing else depends on the tensor."""
    if memory.lengths != memory.buffer.used or memory.k.requires_grad or memory.v.requires_grad:
        return False
    # What inference mode made may not be written to outside of it.
    return torch.is_inference_mode_enabled() or not memory.k.is_inference()


def _roomier(memory: AttentionMemory, capacity: int) -> AttentionMemory:
    """A copy with more slots, which take no memory of a CPU before they are written."""
    longest = max(memory.lengths, default=0)
    shape = (len(memory.lengths), max(capacity, longest), *memory.k.shape[2:])
    k, v = memory.k.new_empty(shape), memory.v.new_empty(shape)
    k[:, :longest], v[:, :longest] = memory.k[:, :longest], memory.v[:, :longest]
    return _fresh(k, v, memory.lengths)


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
