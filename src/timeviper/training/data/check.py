"""Look at every sample of a data set before a GPU is spent: what is wrong, how long, how full."""

from __future__ import annotations

from array import array
from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, final

import numpy as np

from timeviper.core.layout import SpanKind
from timeviper.processing.messages import ImagePart
from timeviper.training.data.dataset import FileDataset
from timeviper.training.data.mixture import Draw
from timeviper.training.data.packing import Item, Pack, Packer, fill_rate
from timeviper.training.data.reading import SampleReader
from timeviper.training.data.samples import Sample, SampleError

# Bad samples of a kind that are kept whole.
EXAMPLES = 3
_AHEAD = 16


@final
@dataclass
class Report:
    """What was found.

    Args:
        budget: tokens of a pack.
        datasets: samples by the name of their data set.
        formats: samples by the format of their file.
        forms: good samples by the form of their record.
        shows: good samples by what they show.
        bad: bad samples by reason.
        examples: the first bad samples of each reason.
        tokens: of each good sample.
        frames: of each good sample, pictures counted as one.
        packs: that the good samples fill, in the order of the files.
    """

    budget: int
    datasets: Counter[str] = field(default_factory=Counter[str])
    formats: Counter[str] = field(default_factory=Counter[str])
    forms: Counter[str] = field(default_factory=Counter[str])
    shows: Counter[str] = field(default_factory=Counter[str])
    bad: Counter[str] = field(default_factory=Counter[str])
    examples: dict[str, list[SampleError]] = field(default_factory=dict[str, list[SampleError]])
    tokens: array[int] = field(default_factory=lambda: array("q"))
    frames: array[int] = field(default_factory=lambda: array("q"))
    packs: list[Pack] = field(default_factory=list[Pack])

    @property
    def good(self) -> int:
        """Samples that can be trained on."""
        return len(self.tokens)

    def to_dict(self) -> dict[str, Any]:
        """The report as JSON values."""
        return {
            "samples": self.good + self.bad.total(),
            "good": self.good,
            "bad": self.bad.total(),
            "datasets": dict(self.datasets),
            "formats": dict(self.formats),
            "forms": dict(self.forms),
            "shows": dict(self.shows),
            "reasons": {
                reason: {
                    "count": count,
                    "examples": [
                        {"where": str(e.origin), "expected": e.want, "got": e.got, "do": e.do}
                        for e in self.examples[reason]
                    ],
                }
                for reason, count in self.bad.most_common()
            },
            "tokens": spread(self.tokens),
            "frames": spread(self.frames),
            "packs": {
                "budget": self.budget,
                "count": len(self.packs),
                "fill": round(fill_rate(self.packs, self.budget), 4),
            },
        }


def check(
    datasets: Sequence[FileDataset],
    reader: SampleReader,
    *,
    workers: int = 1,
    tell: Callable[[int, int], None] = lambda done, total: None,
) -> Report:
    """Read, measure and open every sample of some data sets, in the order of their files.

    Args:
        datasets: with the files.
        reader: how training would look at them.
        workers: threads that open media.
        tell: told how many samples are done, and how many there are.

    Returns:
        The report.

    Raises:
        DataError: a file that cannot be used at all.
    """
    report, packer = Report(reader.config.budget), Packer(reader.config.budget)
    places = [
        Draw(number, part, item)
        for number, dataset in enumerate(datasets)
        for part in range(dataset.parts)
        for item in range(dataset.length(part))
    ]
    tell(0, len(places))
    for done, (place, found) in enumerate(_looked_at(datasets, reader, places, workers), start=1):
        dataset = datasets[place.dataset]
        report.formats[dataset.kind(place.part)] += 1
        report.datasets[dataset.name] += 1
        if isinstance(found, SampleError):
            report.bad[found.reason.value] += 1
            kept = report.examples.setdefault(found.reason.value, [])
            kept += [found] if len(kept) < EXAMPLES else []
        else:
            report.forms[found.form] += 1
            report.shows[found.shows] += 1
            report.tokens.append(found.tokens)
            report.frames.append(found.frames)
            full = packer.add(Item(place, found.tokens))
            report.packs += [] if full is None else [full]
        tell(done, len(places))
    report.packs += packer.flush()
    return report


def spread(numbers: array[int]) -> dict[str, int | float] | None:
    """Sum, mean and some of the ordered numbers; None for none."""
    if not numbers:
        return None
    values = np.frombuffer(numbers, dtype=np.int64)
    low, middle, high = np.percentile(values, (5, 50, 95), method="nearest")
    return {
        "total": int(values.sum()),
        "mean": round(float(values.mean()), 1),
        "least": int(values.min()),
        "p5": int(low),
        "median": int(middle),
        "p95": int(high),
        "most": int(values.max()),
    }


@dataclass(frozen=True)
class _Good:
    form: str
    shows: str
    tokens: int
    frames: int


def _looked_at(
    datasets: Sequence[FileDataset], reader: SampleReader, places: list[Draw], workers: int
) -> Iterator[tuple[Draw, _Good | SampleError]]:
    """What each place holds, in order, a bounded number ahead."""
    waiting: deque[tuple[Draw, Future[_Good | SampleError]]] = deque()
    with ThreadPoolExecutor(workers, "check") as threads:
        for place in places:
            waiting.append((place, threads.submit(_look, datasets[place.dataset], reader, place)))
            if len(waiting) >= workers * _AHEAD:
                done, found = waiting.popleft()
                yield done, found.result()
        for done, found in waiting:
            yield done, found.result()


def _look(dataset: FileDataset, reader: SampleReader, place: Draw) -> _Good | SampleError:
    try:
        sample = dataset.read(place.part, place.item)
        reader.check_media(sample)
        tokens = reader.measure(sample).tokens
    except SampleError as error:
        return error
    vision = sum(tokens.layout.count(SpanKind.VISION))
    frames = vision // reader.processor.config.tokens_per_frame
    return _Good(sample.form, _shows(sample), len(tokens), frames)


def _shows(sample: Sample) -> str:
    images = sum(isinstance(part, ImagePart) for part in sample.media)
    videos = len(sample.media) - images
    names = [("picture", images), ("video", videos)]
    said = [name if count == 1 else f"{name}s" for name, count in names if count]
    return " and ".join(said) or "words only"
