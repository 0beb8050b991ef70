"""Take a decoder's state apart into named tensors, and put it together from them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
import torch
from torch import Tensor

from timeviper.core.errors import LayoutError
from timeviper.inference.files.compress import Compress, from_fp8, num_blocks, to_fp8
from timeviper.inference.files.tensor_file import Entry, entry_of
from timeviper.inference.state_info import LayerInfo, SiteInfo
from timeviper.model.keys import LEAST_IN_HOST, fresh, in_host
from timeviper.model.state import (
    AttentionMemory,
    DecoderState,
    MambaMemory,
    Memory,
    PendingTransfer,
    extend,
)
from timeviper.model.tokens import Tokens, join
from timeviper.ops.packing import from_rows

_FP8, _SCALES = ".fp8", ".scales"


def layers_of(state: DecoderState) -> tuple[LayerInfo, ...]:
    """What each layer remembers, as numbers."""
    return tuple(_layer_info(memory) for memory in state.memories)


def sites_of(state: DecoderState) -> tuple[SiteInfo | None, ...]:
    """What waits at each site, as numbers."""
    return tuple(None if site is None else _site_info(site) for site in state.pending)


def entries_of(state: DecoderState, compress: Compress) -> list[Entry]:
    """All tensors of a state; of keys and values only what is valid.

    Args:
        state: stays as it is.
        compress: how keys, values and parked tokens are stored.
    """
    return [
        *(
            entry
            for number, memory in enumerate(state.memories)
            for entry in _memory_entries(f"layers.{number}", memory, compress)
        ),
        *(
            entry
            for number, site in enumerate(state.pending)
            if site is not None
            for entry in _site_entries(f"sites.{number}", site, compress)
        ),
    ]


@final
@dataclass(frozen=True, kw_only=True)
class StateReader:
    """Puts a state together.

    Args:
        tensors: of the file, on the CPU.
        dtype: number format that the model computes in.
        device: where it computes.
        keys_in_host: whether long keys and values stay in host memory, page-locked for a GPU.
    """

    tensors: Mapping[str, Tensor]
    dtype: torch.dtype
    device: torch.device
    keys_in_host: bool = False

    def state(self, layers: Sequence[LayerInfo], sites: Sequence[SiteInfo | None]) -> DecoderState:
        """The state; tensors that need no other format and no other device are not copied.

        Args:
            layers: as `layers_of` told them.
            sites: as `sites_of` told them.

        Raises:
            KeyError: a tensor is missing.
            TimeviperError: lengths that do not fit the tensors.
        """
        return DecoderState(
            tuple(self._memory(f"layers.{n}", info) for n, info in enumerate(layers)),
            tuple(
                None if info is None else self._site(f"sites.{n}", info)
                for n, info in enumerate(sites)
            ),
        )

    def _memory(self, name: str, info: LayerInfo) -> Memory:
        if info.kind == "attention":
            return self._attention(name, info.lengths)
        if info.kind == "mamba":
            # What the scan carries is never narrower than float32.
            carried = torch.promote_types(self.dtype, torch.float32)
            return MambaMemory(
                self._computed(f"{name}.tail", self.dtype), self._computed(f"{name}.ssm", carried)
            )
        return None

    def _site(self, name: str, info: SiteInfo) -> PendingTransfer:
        dropped = None if info.dropped is None else self._attention(f"{name}.dropped", info.dropped)
        parked: tuple[Tokens, ...] = ()
        if info.parked is not None:
            kinds = self.tensors[f"{name}.parked.kinds"].numpy()
            hidden = self._computed(f"{name}.parked.hidden", self.dtype)
            parked = (Tokens(hidden, kinds, info.parked),)
        return PendingTransfer(info.seen, dropped, parked)

    def _attention(self, name: str, lengths: tuple[int, ...]) -> AttentionMemory:
        if self.keys_in_host and len(lengths) == 1 and lengths[0] >= LEAST_IN_HOST:
            rows = [self._in_host(f"{name}.{letter}", lengths[0]) for letter in "kv"]
            return fresh(rows[0], rows[1], lengths)
        k, v = self._packed(f"{name}.k"), self._packed(f"{name}.v")
        return extend(None, k, v, lengths=lengths)

    def _in_host(self, name: str, length: int) -> Tensor:
        """One row that stays here; one of another length than told is no such row."""
        found = self._packed(name, torch.device("cpu"))
        if len(found) != length:
            raise LayoutError(want=f"{length} keys", got=len(found), do="encode the video again")
        place = torch.empty(0, dtype=found.dtype, device=self.device)
        row = in_host((1, *found.shape), place)
        row[0] = found
        return row

    def _packed(self, name: str, device: torch.device | None = None) -> Tensor:
        if name + _FP8 not in self.tensors:
            return self._computed(name, self.dtype, device)
        small, scales = (
            self.tensors[name + end].to(device or self.device) for end in (_FP8, _SCALES)
        )
        return from_fp8(small, scales, self.dtype)

    def _computed(
        self, name: str, dtype: torch.dtype, device: torch.device | None = None
    ) -> Tensor:
        return self.tensors[name].to(device or self.device, dtype)


def _layer_info(memory: Memory) -> LayerInfo:
    if isinstance(memory, AttentionMemory):
        return LayerInfo(kind="attention", lengths=memory.lengths)
    return LayerInfo(kind="none" if memory is None else "mamba")


def _site_info(site: PendingTransfer) -> SiteInfo:
    parked = None
    if site.parked:
        sums = np.sum([part.lengths for part in site.parked], axis=0)
        parked = tuple(int(n) for n in sums)
    return SiteInfo(
        seen=site.seen,
        dropped=None if site.dropped is None else site.dropped.lengths,
        parked=parked,
    )


def _memory_entries(name: str, memory: Memory, compress: Compress) -> Iterator[Entry]:
    if isinstance(memory, AttentionMemory):
        yield from _attention_entries(name, memory, compress)
    elif memory is not None:
        yield entry_of(f"{name}.tail", memory.tail)
        yield entry_of(f"{name}.ssm", memory.ssm)


def _site_entries(name: str, site: PendingTransfer, compress: Compress) -> Iterator[Entry]:
    if site.dropped is not None:
        yield from _attention_entries(f"{name}.dropped", site.dropped, compress)
    if site.parked:
        parts = _parts(site.parked)
        yield entry_of(
            f"{name}.parked.kinds", *(torch.from_numpy(part.kinds.copy()) for part in parts)
        )
        hidden = [part.hidden for part in parts]
        dtype = _stored(hidden[0].dtype, compress)
        yield Entry(
            name=f"{name}.parked.hidden",
            dtype=dtype,
            shape=(sum(map(len, hidden)), *hidden[0].shape[1:]),
            make=lambda: [part.to(dtype) for part in hidden],
        )


def _parts(parked: Sequence[Tokens]) -> Sequence[Tokens]:
    """Parts whose tokens lie in the order of the joined ones; of one sequence without a copy."""
    return parked if len(parked[0].lengths) == 1 else [join(parked)]


def _attention_entries(name: str, memory: AttentionMemory, compress: Compress) -> Iterator[Entry]:
    lengths = memory.lengths

    # Made when they are written, one after the other: a shared prefix is copied into each row.
    def keys() -> Tensor:
        return from_rows(memory.whole().k[:, : max(lengths, default=0)], lengths)

    def values() -> Tensor:
        return from_rows(memory.whole().v[:, : max(lengths, default=0)], lengths)

    shape = (sum(lengths), *memory.k.shape[2:])
    for letter, packed in (("k", keys), ("v", values)):
        yield from _packed_entries(
            f"{name}.{letter}", packed, shape=shape, dtype=memory.k.dtype, compress=compress
        )


def _packed_entries(
    name: str,
    packed: Callable[[], Tensor],
    *,
    shape: tuple[int, ...],
    dtype: torch.dtype,
    compress: Compress,
) -> Iterator[Entry]:
    if compress is Compress.FP8:
        yield Entry(
            name=name + _FP8,
            dtype=torch.float8_e4m3fn,
            shape=shape,
            make=lambda: [to_fp8(packed())[0]],
        )
        yield Entry(
            name=name + _SCALES,
            dtype=torch.float32,
            shape=(num_blocks(shape[0]), shape[1]),
            make=lambda: [to_fp8(packed())[1]],
        )
        return
    stored = _stored(dtype, compress)
    yield Entry(name=name, dtype=stored, shape=shape, make=lambda: [packed().to(stored)])


def _stored(dtype: torch.dtype, compress: Compress) -> torch.dtype:
    narrow = compress is not Compress.NONE and dtype.itemsize > torch.bfloat16.itemsize
    return torch.bfloat16 if narrow else dtype
