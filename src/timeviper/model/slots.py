"""Memories for steps of one token: buffers that stay where they are, lengths on the device."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor

from timeviper.model.keys import AttentionMemory
from timeviper.model.state import DecoderState, MambaMemory, Memory
from timeviper.ops.attention_parts import Shared, SharedKeys
from timeviper.ops.fronts import Fronts
from timeviper.ops.step import StepWeights, write_slots


@dataclass(frozen=True, eq=False)
class KeySlots:
    """Keys and values of one layer.

    Args:
        k: own keys of each sequence; beyond its length anything may lie.
        v: own values.
        lengths: own keys of each sequence, that of the token at hand counted.
        fronts: what lies in front of each sequence, where it lies.
        before: keys that lie there.
    """

    k: Float[Tensor, "sequence capacity kv_head head_dim"]
    v: Float[Tensor, "sequence capacity kv_head head_dim"]
    lengths: Int[Tensor, " sequence"]
    fronts: Fronts
    before: Int[Tensor, " sequence"]

    @property
    def places(self) -> Int[Tensor, " sequence"]:
        """Position of the token at hand within the layer."""
        return self.lengths + self.before - 1

    def write(
        self,
        k: Float[Tensor, "sequence kv_head head_dim"],
        v: Float[Tensor, "sequence kv_head head_dim"],
    ) -> None:
        """Put the keys and values of the token at hand into their slots."""
        write_slots((self.k, self.v), k, v, slots=self.lengths)


@dataclass(frozen=True, eq=False)
class ScanSlots:
    """Convolution and scan of one layer, as `ops.step` takes them."""

    ring: Float[Tensor, "sequence width channel"]
    ssm: Float[Tensor, "sequence head head_dim state"]
    place: Int[Tensor, " sequence"]
    weights: StepWeights


Slots = KeySlots | ScanSlots | None


@dataclass(frozen=True, eq=False)
class StepSlots:
    """What all layers of a decoder remember of a fixed number of sequences, changed in place.

    Args:
        layers: one a layer; None for MLP layers.
        lengths: own keys of each attention layer and sequence; `KeySlots.lengths` are its rows.
        place: steps of each sequence, as `ops.step` counts them.
    """

    layers: tuple[Slots, ...]
    lengths: Int[Tensor, "layer sequence"]
    place: Int[Tensor, " sequence"]

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers; what is shared belongs to others."""
        kept: list[Tensor] = []
        for slots in self.layers:
            if isinstance(slots, KeySlots):
                kept += [slots.k, slots.v]
            elif isinstance(slots, ScanSlots):
                kept += [slots.ring, slots.ssm]
        return sum(t.nbytes for t in kept)

    def fits(
        self,
        sequences: int,
        needed: Sequence[int],
        shared: Sequence[Shared],
    ) -> bool:
        """Whether so many sequences with so many own keys a layer behind these fit in here."""
        if sequences != len(self.place):
            return False
        return all(
            slots.k.shape[1] >= keys and slots.fronts.takes(front)
            for slots, keys, front in zip(self.layers, needed, shared, strict=True)
            if isinstance(slots, KeySlots)
        )

    def advance(self) -> None:
        """Make room for the next token of every sequence."""
        self.lengths.add_(1)
        self.place.add_(1)

    def retire(self, rows: Sequence[int]) -> None:
        """Forget the own keys of sequences that ended, so that nobody reads them any more."""
        self.lengths[:, torch.tensor(list(rows), device=self.lengths.device)] = 0

    def broken_layer(self) -> int | None:
        """The first layer that holds a number that is not finite, if any does."""
        for index, slots in enumerate(self.layers):
            if isinstance(slots, ScanSlots) and not bool(slots.ssm.isfinite().all()):
                return index
            if isinstance(slots, KeySlots):
                filled = torch.arange(slots.k.shape[1], device=slots.k.device)
                inside = filled < slots.lengths[:, None]
                if not all(bool(t.isfinite().all()) for t in (slots.k[inside], slots.v[inside])):
                    return index
        return None

    def load(self, states: Sequence[DecoderState]) -> None:
        """Copy what sequences remember into the buffers, and begin from there.

        Args:
            states: their sequences, in order, are those of the buffers.
        """
        counts = [state.sequences or 0 for state in states]
        own: list[list[int]] = []
        width = 1
        for index, slots in enumerate(self.layers):
            parts = list(zip([state.memories[index] for state in states], counts, strict=True))
            if isinstance(slots, KeySlots):
                own.append(_load_keys(slots, parts))
            elif isinstance(slots, ScanSlots):
                _load_scan(slots, parts)
                width = slots.ring.shape[1]
        self.lengths.copy_(torch.tensor(own, dtype=torch.int64).view(self.lengths.shape))
        # The newest input lies in the last but one slot: the next one takes the last.
        self.place.fill_(width - 2)


def prefixes(states: Sequence[DecoderState]) -> tuple[Shared, ...]:
    """For each layer what each sequence of all states has in front; None for nothing."""
    found: list[Shared] = []
    counts = [state.sequences or 0 for state in states]
    for parts in zip(*(state.memories for state in states), strict=True):
        fronts: list[SharedKeys | None] = []
        for part, count in zip(parts, counts, strict=True):
            fronts += part.shared if isinstance(part, AttentionMemory) else (None,) * count
        found.append(tuple(fronts))
    return tuple(found)


def most_own(states: Sequence[DecoderState]) -> tuple[int, ...]:
    """For each layer the most keys of a sequence behind what is shared; 0 where there are none."""
    layers = zip(*(state.memories for state in states), strict=True)
    return tuple(
        max((n for part in parts if isinstance(part, AttentionMemory) for n in part.own), default=0)
        for parts in layers
    )


def _load_keys(slots: KeySlots, parts: Sequence[tuple[Memory, int]]) -> list[int]:
    """Copy own rows and point to what lies in front; returns the length of each row."""
    own: list[int] = []
    fronts: list[SharedKeys | None] = []
    for part, count in parts:
        if not isinstance(part, AttentionMemory):
            own += [0] * count
            fronts += [None] * count
            continue
        rows, longest = slice(len(own), len(own) + count), max(part.own)
        slots.k[rows, :longest] = part.k[:, :longest]
        slots.v[rows, :longest] = part.v[:, :longest]
        own += part.own
        fronts += part.shared
    slots.fronts.load(fronts)
    before = [0 if front is None else front.length for front in fronts]
    slots.before.copy_(torch.tensor(before, dtype=torch.int64))
    return own


def _load_scan(slots: ScanSlots, parts: Sequence[tuple[Memory, int]]) -> None:
    """Copy tails and states; what has not begun is zero."""
    first = 0
    for part, count in parts:
        ring, ssm = slots.ring[first : first + count], slots.ssm[first : first + count]
        ring.zero_()
        if isinstance(part, MambaMemory):
            ring[:, :-1] = part.tail
            ssm.copy_(part.ssm)
        else:
            ssm.zero_()
        first += count
