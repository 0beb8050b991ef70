"""Keys and values that attention remembers: rows that grow, each behind what others share."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import LayoutError
from timeviper.ops.attention_parts import SharedKeys, together
from timeviper.ops.packing import to_rows

# Room that an append reserves beyond what it needs, so that chunks rarely copy the cache.
GROWTH = 1.25
_LEAST_ROOM = 16
# Own keys behind a shared prefix that a further fork still copies: a question and its answer.
_SHORT = 4096
# Room for fewer slots than this never leaves the device: copies would take longer than attention.
LEAST_IN_HOST = 8192

# Makes unwritten rows of a shape, like a tensor.
Room = Callable[[tuple[int, ...], Tensor], Tensor]


@dataclass
class _Buffer:
    """Rows shared by memories that continue one another; `used` is what the newest one holds."""

    k: Float[Tensor, "sequence capacity kv_head head_dim"]
    v: Float[Tensor, "sequence capacity kv_head head_dim"]
    used: tuple[int, ...]


@dataclass(frozen=True, eq=False)
class AttentionMemory:
    """Keys and values seen so far: a row of its own for each sequence, and what is in front of it.

    A memory never changes: `extend` returns a longer one. The newest memory of a buffer writes
    into its spare room; an older one copies its own rows first, so that two that continue the
    same memory never disturb each other. What is long is not copied by `fork`.

    Args:
        buffer: the rows of their own.
        lengths: valid keys of each sequence, those in front counted.
        shared: what each sequence has in front of its own row: keys of another memory, which
            several may share.
    """

    buffer: _Buffer
    lengths: tuple[int, ...]
    shared: tuple[SharedKeys | None, ...]

    @property
    def k(self) -> Float[Tensor, "sequence capacity kv_head head_dim"]:
        """Own keys; beyond `own` of a row anything may lie."""
        return self.buffer.k

    @property
    def v(self) -> Float[Tensor, "sequence capacity kv_head head_dim"]:
        """Own values; beyond `own` of a row anything may lie."""
        return self.buffer.v

    @property
    def own(self) -> tuple[int, ...]:
        """Keys of each sequence that lie in its own row."""
        return tuple(n - _length(front) for n, front in zip(self.lengths, self.shared, strict=True))

    @property
    def nbytes(self) -> int:
        """Bytes of the valid keys and values; shared ones lie in memory once."""
        front = sum(keys.length for keys, _ in together(self.shared))
        return (sum(self.own) + front) * 2 * self.k.shape[2] * self.k.shape[3] * self.k.itemsize

    def select(self, rows: Sequence[int]) -> AttentionMemory:
        """Memory whose row i is a copy of row `rows[i]`; what is shared stays shared."""
        own = tuple(self.own[r] for r in rows)
        index = torch.tensor(list(rows), dtype=torch.int64, device=self.k.device)
        longest = max(own, default=0)
        k, v = (t[:, :longest].index_select(0, index) for t in (self.k, self.v))
        lengths = tuple(self.lengths[r] for r in rows)
        return AttentionMemory(_Buffer(k, v, own), lengths, tuple(self.shared[r] for r in rows))

    def fork(self, count: int) -> AttentionMemory:
        """Memory of `count` sequences that all continue the only one; long keys are not copied.

        Raises:
            LayoutError: not exactly one sequence.
        """
        if len(self.lengths) != 1:
            raise LayoutError(
                want="one sequence to fork", got=len(self.lengths), do="`select` that row first"
            )
        shared = self.shared[0]
        if shared is not None and self.own[0]:
            # A little is copied along; more than that becomes part of the prefix, which copies
            # it all: as when a buffer grows, seldom enough to cost a constant a key.
            if self.own[0] <= max(_SHORT, int((GROWTH - 1) * shared.length)):
                return self.select([0] * count)
            return self.whole().fork(count)
        shared = shared or SharedKeys(k=self.k[0], v=self.v[0], length=self.lengths[0])
        k, v = (t.new_empty(count, 0, *t.shape[2:]) for t in (self.k, self.v))
        buffer = _Buffer(k, v, (0,) * count)
        return AttentionMemory(buffer, self.lengths * count, (shared,) * count)

    def whole(self) -> AttentionMemory:
        """The same keys without a prefix: copied into each row, where there is one."""
        if not any(self.shared):
            return self
        shape = len(self.lengths), max(self.lengths, default=0), *self.k.shape[2:]
        k, v = (alike(shape, t) for t in self._longest())
        for row, (front, own) in enumerate(zip(self.shared, self.own, strict=True)):
            first = _length(front)
            if front is not None:
                k[row, :first], v[row, :first] = front.k[:first], front.v[:first]
            k[row, first : first + own] = self.k[row, :own]
            v[row, first : first + own] = self.v[row, :own]
        return fresh(k, v, self.lengths)

    def _longest(self) -> tuple[Tensor, Tensor]:
        """Keys and values that lie where long ones do."""
        front = next((front for front in self.shared if front is not None), None)
        return (self.k, self.v) if front is None else (front.k, front.v)

    def reserve(self, capacity: int, room: Room | None = None) -> AttentionMemory:
        """The same keys, own rows in a buffer of their own with that many slots or more.

        Args:
            capacity: slots of each row.
            room: makes the rows of long memories, `in_host` for instance; None leaves them where
                they are.
        """
        longest = max(self.own, default=0)
        shape = (len(self.lengths), max(capacity, longest), *self.k.shape[2:])
        make = alike if room is None or shape[1] < LEAST_IN_HOST else room
        # Unwritten slots take no memory of a CPU.
        k, v = make(shape, self.k), make(shape, self.v)
        k[:, :longest], v[:, :longest] = self.k[:, :longest], self.v[:, :longest]
        return AttentionMemory(_Buffer(k, v, self.own), self.lengths, self.shared)

    def lies_on(self, device: torch.device) -> bool:
        """Whether no key lies elsewhere."""
        held = [self.k, *(front.k for front in self.shared if front is not None)]
        return all(keys.device == device for keys in held)

    def within_reach(self, device: torch.device) -> bool:
        """Whether kernels of a device can read all keys where they lie: there, or page-locked."""
        fronts = [front.k for front in self.shared if front is not None]
        return self.k.device == device and all(
            keys.device == device or keys.is_pinned() for keys in fronts
        )


def alike(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Unwritten rows where others lie; page-locked if those are."""
    if like.device.type != "cpu":
        return like.new_empty(shape)
    return torch.empty(shape, dtype=like.dtype, pin_memory=like.is_pinned())


def in_host(shape: tuple[int, ...], like: Tensor) -> Tensor:
    """Unwritten rows in host memory; page-locked, so that a GPU copies them at the link's rate."""
    pinned = like.device.type == "cuda" or like.is_pinned()
    return torch.empty(shape, dtype=like.dtype, pin_memory=pinned)


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
        return fresh(to_rows(k, added), to_rows(v, added), added)
    total = tuple(a + b for a, b in zip(memory.lengths, added, strict=True))
    needed = max(a + b for a, b in zip(memory.own, added, strict=True))
    if torch.is_grad_enabled() and (k.requires_grad or memory.k.requires_grad):
        return _append_out_of_place(_copied(memory, needed), k, v, added)
    if not _writable(memory) or needed > memory.k.shape[1]:
        memory = _grown(memory, max(int(needed * GROWTH), needed + _LEAST_ROOM), k)
    _write(memory.k, k, memory.own, added)
    _write(memory.v, v, memory.own, added)
    longer = AttentionMemory(memory.buffer, total, memory.shared)
    memory.buffer.used = longer.own
    return longer


def fresh(k: Tensor, v: Tensor, lengths: tuple[int, ...]) -> AttentionMemory:
    """Memory of these rows, with nothing shared."""
    return AttentionMemory(_Buffer(k, v, lengths), lengths, (None,) * len(lengths))


def stack_attention(
    parts: Sequence[AttentionMemory | None], counts: Sequence[int]
) -> AttentionMemory | None:
    """One memory of the sequences of all parts; what is in front of each stays where it is.

    Args:
        parts: memories of one layer, None where nothing reached it.
        counts: sequences of each part.

    Returns:
        Rows of its own, with a little room to grow; None where no part holds anything.
    """
    known = next((part for part in parts if part is not None), None)
    if known is None:
        return None
    held = list(zip(parts, counts, strict=True))
    own = tuple(n for part, count in held for n in (part.own if part else (0,) * count))
    shape = (len(own), int(max(own) * GROWTH) + 1, *known.k.shape[2:])
    # In host memory if any of them is: there they fit.
    lying = [part.k for part in parts if part is not None]
    like = next((keys for keys in lying if keys.device.type == "cpu"), lying[0])
    k, v = (alike(shape, like).zero_() for _ in range(2))
    row = 0
    for part, count in held:
        if part is not None:
            longest = max(part.own)
            k[row : row + count, :longest] = part.k[:, :longest]
            v[row : row + count, :longest] = part.v[:, :longest]
        row += count
    shared = tuple(f for part, n in held for f in (part.shared if part else (None,) * n))
    lengths = tuple(n for part, count in held for n in (part.lengths if part else (0,) * count))
    return AttentionMemory(_Buffer(k, v, own), lengths, shared)


def _length(front: SharedKeys | None) -> int:
    return 0 if front is None else front.length


def _writable(memory: AttentionMemory) -> bool:
    """Whether its spare room belongs to it alone, and nothing else depends on the tensor."""
    if memory.own != memory.buffer.used or memory.k.requires_grad or memory.v.requires_grad:
        return False
    # What inference mode made may not be written to outside of it.
    return torch.is_inference_mode_enabled() or not memory.k.is_inference()


def _grown(memory: AttentionMemory, capacity: int, new: Tensor) -> AttentionMemory:
    """Its own rows with more room; the first keys behind a prefix stay where they are made."""
    longest, shape = max(memory.own, default=0), (len(memory.own), capacity, *memory.k.shape[2:])
    like = memory.k if longest else new.to(memory.k.dtype)
    k, v = (alike(shape, like).zero_() for _ in range(2))
    if longest:
        k[:, :longest], v[:, :longest] = memory.k[:, :longest], memory.v[:, :longest]
    return AttentionMemory(_Buffer(k, v, memory.own), memory.lengths, memory.shared)


def _copied(memory: AttentionMemory, capacity: int) -> AttentionMemory:
    longest = max(memory.own, default=0)
    room = max(capacity, longest) - longest
    pad = (0, 0, 0, 0, 0, room)
    k, v = (torch.nn.functional.pad(t[:, :longest], pad) for t in (memory.k, memory.v))
    return AttentionMemory(_Buffer(k, v, memory.own), memory.lengths, memory.shared)


def _append_out_of_place(
    memory: AttentionMemory, k: Tensor, v: Tensor, added: tuple[int, ...]
) -> AttentionMemory:
    row, slot = _slots(memory.own, added, k.device)
    new_k = memory.k.index_put((row, slot), k.to(memory.k.dtype))
    new_v = memory.v.index_put((row, slot), v.to(memory.v.dtype))
    own, total = (
        tuple(a + b for a, b in zip(before, added, strict=True))
        for before in (memory.own, memory.lengths)
    )
    return AttentionMemory(_Buffer(new_k, new_v, own), total, memory.shared)


def _write(rows: Tensor, new: Tensor, lengths: tuple[int, ...], added: tuple[int, ...]) -> None:
    if len(set(lengths)) == 1 and len(set(added)) == 1:
        rows[:, lengths[0] : lengths[0] + added[0]] = to_rows(new, added)
    else:
        row, slot = _slots(lengths, added, rows.device)
        rows[row, slot] = new.to(rows)


def _slots(
    lengths: tuple[int, ...], added: tuple[int, ...], device: torch.device
) -> tuple[Tensor, Tensor]:
    counts = torch.tensor(added)
    row = torch.repeat_interleave(torch.arange(len(added)), counts)
    within = torch.arange(len(row)) - (counts.cumsum(0) - counts)[row]
    return row.to(device), (torch.tensor(lengths)[row] + within).to(device)
