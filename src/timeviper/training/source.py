"""Where batches come from: an order that can be left and taken up again by any number of ranks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Generic, Protocol, TypeVar

from torch.utils.data import DataLoader, Dataset

from timeviper.core.errors import ConfigError

Batch = TypeVar("Batch")
BatchOut = TypeVar("BatchOut", covariant=True)
# What has been taken, as JSON values.
Cursor = dict[str, Any]


class Source(Protocol[BatchOut]):
    """Batches in a fixed order that several ranks share.

    Laws: the cursor that comes with a batch, given to `batches` anew, goes on with the batch
    after it. A cursor says what all ranks together have taken: ranks that took equally many
    batches hold the same cursor, and another number of ranks may go on from it.
    """

    def batches(
        self, cursor: Cursor | None, *, rank: int, ranks: int
    ) -> Iterator[tuple[BatchOut, Cursor]]:
        """Batches of one rank.

        Args:
            cursor: where to go on, or None for the beginning.
            rank: whose batches, from 0.
            ranks: how many take part.

        Yields:
            A batch, and the cursor after it.
        """
        ...


@dataclass(frozen=True, eq=False, kw_only=True)
class Steps(Generic[Batch]):
    """Batches that are a function of a number: batch i of a rank is number i * ranks + rank.

    Args:
        make: builds the batch of a number; runs in worker processes.
        total: how many numbers there are, None for no end; ranks take equally many each.
        workers: processes that build batches; 0 builds them in line.
        ahead: batches that each worker holds ready.
    """

    make: Callable[[int], Batch]
    total: int | None = None
    workers: int = 0
    ahead: int = 4

    def __post_init__(self) -> None:
        """Check the counts."""
        if self.workers < 0 or self.ahead < 1:
            raise ConfigError(
                want="0 or more workers that hold 1 or more batches ready",
                got=f"{self.workers} workers, {self.ahead} ahead",
                do="correct the counts",
            )

    def batches(
        self, cursor: Cursor | None, *, rank: int, ranks: int
    ) -> Iterator[tuple[Batch, Cursor]]:
        """As `Source.batches`; the cursor is the next number of rank 0."""
        first = int(cursor["number"]) if cursor else 0
        last = sys.maxsize if self.total is None else self.total
        rounds = max(0, last - first) // ranks
        loader: DataLoader[Batch] = DataLoader(
            _Numbered(self.make, first + rank, ranks, rounds),
            batch_size=None,
            collate_fn=_as_made,
            num_workers=self.workers,
            prefetch_factor=self.ahead if self.workers else None,
        )
        for index, batch in enumerate(loader):
            yield batch, {"number": first + (index + 1) * ranks}


class _Numbered(Dataset[Batch], Generic[Batch]):
    """Item i is the batch of number `first + i * stride`."""

    def __init__(self, make: Callable[[int], Batch], first: int, stride: int, count: int) -> None:
        self.make = make
        self.first = first
        self.stride = stride
        self.count = count

    def __len__(self) -> int:
        return self.count

    def __getitem__(self, index: int) -> Batch:
        return self.make(self.first + index * self.stride)


def _as_made(batch: Batch) -> Batch:
    return batch
