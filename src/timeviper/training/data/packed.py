"""Batches of packed samples for any number of ranks: planned from durations, built by threads."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, final

from timeviper.core.errors import CheckpointError, ConfigError
from timeviper.core.seeding import seed_of
from timeviper.training.data.collate import Batch, collate
from timeviper.training.data.mixture import Mixture
from timeviper.training.data.packing import MOST_OPEN, Item, Pack, Packer
from timeviper.training.data.reading import Example, SampleReader
from timeviper.training.data.samples import Reason, SampleError
from timeviper.training.data.tally import GRACE, Tally

Cursor = dict[str, Any]


@dataclass(frozen=True, kw_only=True)
class PackingConfig:
    """How packs are filled and built.

    Args:
        most_open: packs that are filled at a time.
        workers: threads that read, decode and collate packs ahead; 0 does it in line.
        ahead: packs that each worker holds ready.
        most_bad_share: share of bad samples above which the run stops.
        grace: bad samples that are forgiven at any share.
    """

    most_open: int = MOST_OPEN
    workers: int = 2
    ahead: int = 2
    most_bad_share: float = 0.01
    grace: int = GRACE

    def __post_init__(self) -> None:
        """Check counts and the share."""
        if min(self.most_open, self.ahead) < 1 or self.workers < 0 or self.grace < 0:
            raise ConfigError(
                want="most_open and ahead of 1 or more, workers and grace of 0 or more",
                got=f"{self.most_open}, {self.ahead}, {self.workers}, {self.grace}",
                do="correct the config",
            )
        if not 0 <= self.most_bad_share <= 1:
            raise ConfigError(
                want="most_bad_share from 0 to 1", got=self.most_bad_share, do="correct it"
            )


@dataclass(frozen=True)
class _Planned:
    """This rank's pack of a round, and the cursor after the round."""

    pack: Pack
    number: int
    cursor: Cursor


@final
class PackedSource:
    """Samples of a mixture in packs of a token budget; a `training.source.Source`.

    Pack n of the run goes to rank n % ranks. Each rank plans all packs, which takes durations and
    words but no frames, and builds its own.

    Args:
        mixture: where samples come from.
        reader: how they are looked at; its budget is that of the packs.
        config: how packs are filled and built.

    Laws: a run resumed at any cursor goes on as the uninterrupted one; ranks together see the
    packs of one process in its order, also when their number changes at a resume; a bad sample
    is counted and logged, and no other takes its place.
    """

    def __init__(
        self, mixture: Mixture, reader: SampleReader, config: PackingConfig | None = None
    ) -> None:
        self.mixture = mixture
        self.reader = reader
        self.config = config or PackingConfig()
        # Faults that show only when frames are decoded, on this rank.
        self.unbuilt = self._tally(None)

    def batches(
        self, cursor: Mapping[str, Any] | None, *, rank: int, ranks: int
    ) -> Iterator[tuple[Batch, Cursor]]:
        """Batches of one rank without end; see `Source.batches`.

        Raises:
            CheckpointError: a cursor of other data or other settings.
            DataError: too many bad samples, or a file that cannot be used at all.
        """
        rounds = self._rounds(cursor, rank=rank, ranks=ranks)
        if not self.config.workers:
            for planned in rounds:
                yield self._build(planned), planned.cursor
            return
        yield from self._built_ahead(rounds)

    def plan(self, cursor: Mapping[str, Any] | None = None) -> Iterator[tuple[Pack, Cursor]]:
        """Packs of the whole run in order, and the cursor after each; nothing is decoded."""
        for pack, _, after in self._packs(cursor):
            yield pack, after()

    def progress(self, cursor: Mapping[str, Any]) -> dict[str, float]:
        """Numbers for a log: how full the packs up to a cursor are, bad samples, epochs."""
        samples, packs = cursor["samples"], cursor["packs"]
        places: Mapping[str, Sequence[int]] = cursor["mixture"]["at"]
        return {
            "packs": packs,
            "fill": cursor["tokens"] / (self.reader.config.budget * packs) if packs else 0.0,
            "samples": samples["taken"],
            "bad_samples": sum(samples["bad"].values()) + self.unbuilt.count,
        } | {f"epoch/{name}": place[0] for name, place in places.items()}

    def _rounds(
        self, cursor: Mapping[str, Any] | None, *, rank: int, ranks: int
    ) -> Iterator[_Planned]:
        own: tuple[Pack, int] | None = None
        for place, (pack, number, after) in enumerate(self._packs(cursor)):
            if place % ranks == rank:
                own = pack, number
            # A round is over when each rank has its pack: then their cursors agree.
            if place % ranks == ranks - 1 and own is not None:
                yield _Planned(*own, after())

    def _packs(
        self, cursor: Mapping[str, Any] | None
    ) -> Iterator[tuple[Pack, int, Callable[[], Cursor]]]:
        """Each pack, its number, and what tells the cursor after it."""
        identity = self._identity()
        if cursor is not None and cursor["data"] != identity:
            raise CheckpointError(
                want="the data, weights, seed, budget and settings of the interrupted run",
                got="others",
                do="restore them, or start in a new folder",
            )
        walker = self.mixture.walk(cursor["mixture"] if cursor else None)
        tally = self._tally(cursor["samples"] if cursor else None)
        pending: list[Any] = cursor["pending"] if cursor else []
        packer = Packer(self.reader.config.budget, most_open=self.config.most_open, pending=pending)
        number = int(cursor["packs"]) if cursor else 0
        packed = int(cursor["tokens"]) if cursor else 0

        def after() -> Cursor:
            return {
                "data": identity,
                "packs": number,
                "tokens": packed,
                "mixture": walker.cursor,
                "samples": tally.counts,
                "pending": packer.pending,
            }

        while True:
            draw = walker.draw()
            tally.took()
            try:
                tokens = len(self.reader.measure(self.mixture.read(draw)).tokens)
            except SampleError as error:
                tally.bad(error)
                continue
            pack = packer.add(Item(draw, tokens))
            if pack is not None:
                number, packed = number + 1, packed + pack.tokens
                yield pack, number - 1, after

    def _built_ahead(self, rounds: Iterator[_Planned]) -> Iterator[tuple[Batch, Cursor]]:
        # One thread plans, so that the order is kept and no step waits for a duration.
        planning = ThreadPoolExecutor(1, "plan")
        building = ThreadPoolExecutor(self.config.workers, "build")
        waiting: deque[Future[tuple[Batch, Cursor]]] = deque()

        def build(planned: Future[_Planned]) -> tuple[Batch, Cursor]:
            found = planned.result()
            return self._build(found), found.cursor

        try:
            while True:
                while len(waiting) < self.config.workers * self.config.ahead:
                    waiting.append(building.submit(build, planning.submit(next, rounds)))
                yield waiting.popleft().result()
        finally:
            for executor in (planning, building):
                executor.shutdown(cancel_futures=True)

    def _build(self, planned: _Planned) -> Batch:
        examples: list[Example] = []
        origins: list[str] = []
        for item in planned.pack.items:
            self.unbuilt.took()
            try:
                example, origin = self._load(item)
            except SampleError as error:
                self.unbuilt.bad(error)
                continue
            examples.append(example)
            origins.append(origin)
        inputs = collate(examples, filler=self.reader.processor.stop_ids[0])
        return Batch(inputs=inputs, number=planned.number, origins=tuple(origins))

    def _load(self, item: Item) -> tuple[Example, str]:
        sample = self.mixture.read(item.draw)
        example = self.reader.load(sample)
        if len(example.lesson.tokens) != item.tokens:
            raise sample.error(
                Reason.UNREADABLE,
                want=f"{item.tokens} tokens, as when the pack was planned",
                got=len(example.lesson.tokens),
                do="leave files alone while a run reads them",
            )
        return example, str(sample.origin)

    def _tally(self, counts: Mapping[str, Any] | None) -> Tally:
        share, grace = self.config.most_bad_share, self.config.grace
        return Tally(most_share=share, grace=grace, counts=counts)

    def _identity(self) -> str:
        words = (self.mixture.identity, self.reader.config, self.config.most_open)
        return f"{seed_of(0, *words):016x}"
