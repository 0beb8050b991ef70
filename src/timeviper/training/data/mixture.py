"""An endless order of samples out of several data sets, which a small cursor can leave and resume.

Every choice is a function of the seed and of numbers in the cursor, never of what went before.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, final

import numpy as np
from numpy.typing import NDArray

from timeviper.core.errors import ConfigError
from timeviper.core.seeding import seed_of, stream
from timeviper.training.data.dataset import Samples
from timeviper.training.data.samples import DataError, Sample

_SPAN = float(1 << 63)


@dataclass(frozen=True, slots=True)
class Draw:
    """The place of a sample: number of its data set, part and item."""

    dataset: int
    part: int
    item: int


@dataclass(slots=True)
class _Place:
    """Where the walk through a data set stands: epoch, parts done, items of the next part done."""

    epoch: int = 0
    parts: int = 0
    items: int = 0


@final
class Mixture:
    """Samples of several data sets, mixed by weight; each is walked epoch after epoch.

    Args:
        datasets: with different names.
        weights: how often each is drawn, relative to the others.
        seed: of all choices.

    Raises:
        ConfigError: names that are equal, or weights that are not above zero.

    Law: what follows a cursor does not depend on how it was reached.
    """

    def __init__(
        self, datasets: Sequence[Samples], *, weights: Sequence[float] | None = None, seed: int = 0
    ) -> None:
        self.datasets = tuple(datasets)
        self.weights = tuple(weights or (1.0,) * len(self.datasets))
        self.seed = seed
        names = [dataset.name for dataset in self.datasets]
        if not names or len(set(names)) < len(names):
            raise ConfigError(
                want="data sets with different names", got=names or "none", do="name them apart"
            )
        if len(self.weights) != len(names) or not 0 < min(self.weights) < float("inf"):
            raise ConfigError(
                want=f"{len(names)} weights above zero", got=self.weights, do="correct the weights"
            )
        self._edges = np.cumsum(self.weights) / sum(self.weights)
        self._walks = tuple(_Walk(dataset, seed) for dataset in self.datasets)

    @property
    def identity(self) -> str:
        """Changes when the order changes."""
        sets = (f"{d.name}={w}[{d.identity}]" for d, w in self._weighted())
        return f"{self.seed} {'; '.join(sets)}"

    def walk(self, cursor: Mapping[str, Any] | None = None) -> Walker:
        """Go on from a cursor of an earlier walk, or from the beginning."""
        return Walker(self, cursor)

    def read(self, draw: Draw) -> Sample:
        """The sample at a place.

        Raises:
            SampleError: it cannot be used.
        """
        return self.datasets[draw.dataset].read(draw.part, draw.item)

    def choice(self, number: int) -> int:
        """Data set of a draw, by the draw's number alone."""
        share = seed_of(self.seed, "mixture", number) / _SPAN
        return min(int(np.searchsorted(self._edges, share, side="right")), len(self.datasets) - 1)

    def next_of(self, dataset: int, place: _Place) -> Draw:
        """The sample at a place, which moves on."""
        part, item = self._walks[dataset].next(place)
        return Draw(dataset, part, item)

    def _weighted(self) -> Iterator[tuple[Samples, float]]:
        return zip(self.datasets, self.weights, strict=True)


@final
class Walker:
    """One walk through a mixture: how much was drawn, and where each data set stands."""

    def __init__(self, mixture: Mixture, cursor: Mapping[str, Any] | None) -> None:
        self._mixture = mixture
        self._drawn = int(cursor["drawn"]) if cursor else 0
        at: Mapping[str, Sequence[int]] = cursor["at"] if cursor else {}
        self._places = [_Place(*at.get(dataset.name, ())) for dataset in mixture.datasets]

    @property
    def cursor(self) -> dict[str, Any]:
        """Where to go on, as JSON values."""
        places = zip(self._mixture.datasets, self._places, strict=True)
        return {
            "drawn": self._drawn,
            "at": {dataset.name: [p.epoch, p.parts, p.items] for dataset, p in places},
        }

    def draw(self) -> Draw:
        """The next sample's place; there is always one.

        Raises:
            DataError: a data set without a sample.
        """
        dataset = self._mixture.choice(self._drawn)
        self._drawn += 1
        return self._mixture.next_of(dataset, self._places[dataset])


@final
class _Walk:
    """The order of one data set: parts shuffled in each epoch, and items in each part."""

    def __init__(self, dataset: Samples, seed: int) -> None:
        self._dataset, self._seed = dataset, seed
        self._shuffled: tuple[tuple[int, int], NDArray[np.int64]] | None = None

    def next(self, place: _Place) -> tuple[int, int]:
        """Part and item at a place, which moves on.

        Raises:
            DataError: a whole epoch without a sample.
        """
        # The rest of this epoch and all of the next may be empty parts.
        for _ in range(2 * self._dataset.parts):
            part = self._part(place)
            items = self._items(place.epoch, part)
            if place.items < len(items):
                item = int(items[place.items])
                place.items += 1
                if place.items == len(items):
                    self._next_part(place)
                return part, item
            self._next_part(place)
        raise DataError(
            want=f"samples in {self._dataset.name}",
            got="none",
            do="check the files or leave it out",
        )

    def _part(self, place: _Place) -> int:
        rng = stream(self._seed, "parts", self._dataset.name, place.epoch)
        return int(rng.permutation(self._dataset.parts)[place.parts])

    def _items(self, epoch: int, part: int) -> NDArray[np.int64]:
        key = (epoch, part)
        if self._shuffled is None or self._shuffled[0] != key:
            rng = stream(self._seed, "items", self._dataset.name, epoch, part)
            self._shuffled = (key, rng.permutation(self._dataset.length(part)))
        return self._shuffled[1]

    def _next_part(self, place: _Place) -> None:
        place.parts, place.items = place.parts + 1, 0
        if place.parts == self._dataset.parts:
            place.epoch, place.parts = place.epoch + 1, 0
