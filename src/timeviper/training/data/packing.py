"""Fill packs of a token budget: first fit over a few open packs. Knows no payloads."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, final

from timeviper.core.errors import ConfigError
from timeviper.training.data.mixture import Draw

MOST_OPEN = 32


@dataclass(frozen=True, slots=True)
class Item:
    """A sample's place and its tokens."""

    draw: Draw
    tokens: int


@dataclass(frozen=True)
class Pack:
    """Samples that go through the model together."""

    items: tuple[Item, ...]

    @property
    def tokens(self) -> int:
        """Tokens of all samples."""
        return sum(item.tokens for item in self.items)


@final
class Packer:
    """Open packs that samples are put into; the fullest is given out when one more is needed.

    Args:
        budget: most tokens of a pack.
        most_open: open packs; more fill better and delay samples longer.
        pending: what `pending` of an earlier packer said.

    Laws: no pack holds more than the budget; every sample comes out exactly once.
    """

    def __init__(
        self, budget: int, *, most_open: int = MOST_OPEN, pending: Iterable[Any] = ()
    ) -> None:
        if budget < 1 or most_open < 1:
            raise ConfigError(
                want="a budget and open packs of at least 1",
                got=f"{budget} and {most_open}",
                do="correct the config",
            )
        self.budget, self.most_open = budget, most_open
        self._open: list[list[Item]] = [
            [Item(Draw(*row[:3]), row[3]) for row in rows] for rows in pending
        ]
        self._used = [sum(item.tokens for item in items) for items in self._open]

    @property
    def pending(self) -> list[list[list[int]]]:
        """Places and tokens of what waits in open packs, as JSON values."""
        return [
            [[i.draw.dataset, i.draw.part, i.draw.item, i.tokens] for i in items]
            for items in self._open
        ]

    def add(self, item: Item) -> Pack | None:
        """Put a sample into the first open pack that has room.

        Args:
            item: of at most the budget.

        Returns:
            The fullest pack where none had room and no more may be opened.
        """
        fits = (n for n, used in enumerate(self._used) if used + item.tokens <= self.budget)
        place = next(fits, None)
        if place is not None:
            self._open[place].append(item)
            self._used[place] += item.tokens
            return None
        full = self._take_fullest() if len(self._open) == self.most_open else None
        self._open.append([item])
        self._used.append(item.tokens)
        return full

    def flush(self) -> list[Pack]:
        """Everything that waits, the oldest pack first."""
        packs = [Pack(tuple(items)) for items in self._open]
        self._open, self._used = [], []
        return packs

    def _take_fullest(self) -> Pack:
        # The oldest of equals.
        fullest = self._used.index(max(self._used))
        self._used.pop(fullest)
        return Pack(tuple(self._open.pop(fullest)))


def fill_rate(packs: Sequence[Pack], budget: int) -> float:
    """Share of the budget of packs that holds tokens."""
    return sum(pack.tokens for pack in packs) / (budget * len(packs)) if packs else 0.0
