"""What a decoder remembers between calls: per layer, and per transfer site."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import groupby

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import LayoutError
from timeviper.model.keys import AttentionMemory, Room, extend, stack_attention
from timeviper.model.tokens import Tokens, join

__all__ = [
    "AttentionMemory",
    "DecoderState",
    "MambaMemory",
    "Memory",
    "PendingTransfer",
    "check_sequences",
    "extend",
    "fork_each",
    "stack",
]


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

    def fork(self, count: int) -> MambaMemory:
        """Memory of `count` sequences that all continue the only one."""
        return self if count == 1 else self.select([0] * count)


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

    def fork(self, count: int) -> PendingTransfer:
        """What waits for `count` sequences that all continue the only one.

        Keys of dropped tokens are shared; parked tokens are copied, once a sequence.
        """
        return PendingTransfer(
            self.seen * count,
            None if self.dropped is None else self.dropped.fork(count),
            self.parked if count == 1 else self.select([0] * count).parked,
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

    def fork(self, count: int = 1) -> DecoderState:
        """State of `count` sequences that all continue this state's only one.

        The keys so far are shared, not copied, and this state stays as it is.

        Raises:
            LayoutError: not exactly one sequence.

        Law: each continues as the sequence itself would.
        """
        if self.sequences != 1:
            raise LayoutError(
                want="one sequence to fork", got=self.sequences, do="`select` that row first"
            )
        return DecoderState(
            tuple(None if m is None else m.fork(count) for m in self.memories),
            tuple(None if p is None else p.fork(count) for p in self.pending),
        )

    def reserve(
        self,
        factor: float,
        spare: int,
        *,
        since: DecoderState | None = None,
        room: Room | None = None,
    ) -> DecoderState:
        """The same state with room for more keys, so that none are copied while it grows.

        Args:
            factor: how many times as many keys each layer and site will hold.
            spare: slots beyond that.
            since: an earlier state; only what came after it is counted `factor` times.
            room: makes the rows of long memories, as in `AttentionMemory.reserve`.
        """
        before = since or DecoderState((None,) * len(self.memories), (None,) * len(self.pending))

        def roomy(memory: AttentionMemory, earlier: object) -> AttentionMemory:
            known = isinstance(earlier, AttentionMemory)
            base = max(earlier.own, default=0) if known else 0
            grown = max(memory.own, default=0) - base
            return memory.reserve(base + math.ceil(grown * factor) + spare, room)

        return DecoderState(
            tuple(
                roomy(m, b) if isinstance(m, AttentionMemory) else m
                for m, b in zip(self.memories, before.memories, strict=True)
            ),
            tuple(
                replace(p, dropped=roomy(p.dropped, b and b.dropped)) if p and p.dropped else p
                for p, b in zip(self.pending, before.pending, strict=True)
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


def fork_each(states: Sequence[DecoderState]) -> DecoderState:
    """One state whose sequence i continues the only one of `states[i]`, sharing its keys.

    Args:
        states: the same one several times in a row is forked once. At the start of time there is
            nothing to continue: such a state can be repeated, but not beside others.

    Raises:
        LayoutError: several sequences in one, or one that has begun beside one that has not.
    """
    forks: list[DecoderState] = []
    for _, same in groupby(states, key=id):
        state, *more = same
        forks.append(state if state.sequences is None else state.fork(1 + len(more)))
    return stack(forks)


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
    return stack_attention(
        [part if isinstance(part, AttentionMemory) else None for part in parts], counts
    )


def _stack_pending(
    parts: Sequence[PendingTransfer | None], counts: Sequence[int]
) -> PendingTransfer | None:
    if all(part is None for part in parts):
        return None
    full = [p or PendingTransfer((0,) * n) for p, n in zip(parts, counts, strict=True)]
    return PendingTransfer(
        tuple(seen for part in full for seen in part.seen),
        stack_attention([part.dropped for part in full], counts),
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
