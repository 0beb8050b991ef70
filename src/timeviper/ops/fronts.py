"""Where the keys in front of each query lie: a table on the device that kernels read."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import accumulate
from typing import final

import torch
from torch import Tensor

from timeviper.core.errors import LayoutError
from timeviper.ops.attention_parts import Shared, SharedKeys, together

# Rows of the matrix unit that a step's queries of one key head fill; several sequences behind the
# same keys share them. One number for one sequence and for many, so that each is added up alike.
STEP_ROWS = 64


@final
class Fronts:
    """Queries in tiles, those behind the same keys together, and where these keys lie.

    The keys stay where they are. `load` puts others in their place: a captured CUDA graph that
    reads the tables then reads those.

    Args:
        shared: what each sequence has in front.
        at_once: queries a tile.
        device: where the tables are; the keys lie there too.
        counts: queries of each sequence, one after another; one of each if not given.
    """

    def __init__(
        self,
        shared: Shared,
        *,
        at_once: int,
        device: torch.device,
        counts: Sequence[int] | None = None,
    ) -> None:
        tiles = _tiles(shared, at_once, counts)
        self._at_once, self._counts = at_once, counts
        self.queries = len(shared) if counts is None else sum(counts)
        self.shared = tuple(shared)
        self.places, self.members = (
            t.to(device, non_blocking=True) for t in _tables(tiles, at_once)
        )

    @classmethod
    def of_step(cls, shared: Shared, *, ratio: int, device: torch.device) -> Fronts:
        """Tables for one query a sequence, `ratio` query heads reading a key head."""
        return cls(shared, at_once=step_tile(ratio), device=device)

    def tiles(self) -> list[tuple[SharedKeys, list[int]]]:
        """Keys, and the numbers of the queries that read them together."""
        return _tiles(self.shared, self._at_once, self._counts)

    def takes(self, shared: Shared) -> bool:
        """Whether `load` can put these in the place of what is here."""
        fits = len(shared) == len(self.shared) and _everywhere(shared) == self.everywhere
        return fits and len(_tiles(shared, self._at_once, self._counts)) == len(self.places)

    @property
    def everywhere(self) -> bool:
        """Whether every query has keys in front."""
        return _everywhere(self.shared)

    def load(self, shared: Shared) -> None:
        """Point to other keys, in place.

        Raises:
            LayoutError: it does not take these.
        """
        if not self.takes(shared):
            raise LayoutError(
                want=f"{len(self.shared)} sequences in {len(self.places)} tiles",
                got=f"{len(shared)} sequences in others",
                do="make a new table",
            )
        self.shared = tuple(shared)
        places, members = _tables(self.tiles(), self._at_once)
        self.places.copy_(places)
        self.members.copy_(members)


def _everywhere(shared: Shared) -> bool:
    return all(front is not None and front.length for front in shared)


def step_tile(ratio: int) -> int:
    """Sequences a tile of a step, with so many query heads a key head."""
    return max(1, STEP_ROWS // ratio)


def _tiles(
    shared: Shared, at_once: int, counts: Sequence[int] | None
) -> list[tuple[SharedKeys, list[int]]]:
    """Keys and the numbers of the queries that read them together."""
    sizes = [1] * len(shared) if counts is None else list(counts)
    ends = list(accumulate(sizes))
    found: list[tuple[SharedKeys, list[int]]] = []
    for front, members in together(shared):
        queries = [n for s in members for n in range(ends[s] - sizes[s], ends[s])]
        parts = range(0, len(queries), at_once)
        found += [(front, queries[first : first + at_once]) for first in parts]
    return found


def _tables(tiles: list[tuple[SharedKeys, list[int]]], at_once: int) -> tuple[Tensor, Tensor]:
    """Addresses of keys and values with their number, (tile, 3); queries, -1 for none."""
    for front, _ in tiles:
        if not (front.k.is_contiguous() and front.v.is_contiguous()):
            raise LayoutError(
                want="keys and values that lie one after another",
                got=f"strides {front.k.stride()} and {front.v.stride()}",
                do="share rows of a key buffer",
            )
    places = torch.tensor(
        [[front.k.data_ptr(), front.v.data_ptr(), front.length] for front, _ in tiles],
        dtype=torch.int64,
    ).view(len(tiles), 3)
    rows = [members + [-1] * (at_once - len(members)) for _, members in tiles]
    return places, torch.tensor(rows, dtype=torch.int32).view(len(tiles), at_once)
