"""Who trains what and for how long: a list of variants that processes share through a folder."""

from __future__ import annotations

import heapq
import json
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

# Most steps that are worth taking.
MOST_STEPS = 4000
# Seconds that a variant spends besides its steps: loading, building kernels; and evaluating it
# under each plan.
OVERHEAD_SECONDS, PLAN_SECONDS = 6.0, 2.5
# How long the fastest of the first variants waits for the slowest to tell its speed.
PATIENCE_SECONDS = 12.0


@dataclass(frozen=True, kw_only=True)
class Item:
    """A variant with a seed."""

    name: str
    seed: int

    @property
    def key(self) -> str:
        """Stem of its files."""
        return f"{self.name}.{self.seed}"


@dataclass(frozen=True, kw_only=True)
class Cost:
    """What a variant is guessed to take.

    Args:
        step: of a step, against the first variant's.
        plans: that it is evaluated under.
    """

    step: float = 1.0
    plans: int = 1

    @property
    def rest(self) -> float:
        """Seconds besides the steps."""
        return OVERHEAD_SECONDS + PLAN_SECONDS * self.plans


@dataclass(frozen=True, kw_only=True)
class _Pace:
    """Seconds of a step, steps by now, seconds since that was told."""

    step: float
    reached: float
    age: float


class Plan:
    """The list, who took what, how fast it went, and the results, as files of a folder."""

    def __init__(self, out: Path) -> None:
        self.folder = out / "runs"

    def begin(self, items: Sequence[Item], steps: int | None) -> None:
        """Write the list; what has a result is not done again.

        Args:
            items: the most important first.
            steps: of each; None to decide later.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        done = {path.name.removesuffix(".json") for path in self.folder.glob("*.*.json")}
        for kind in ("claim", "rate", "error"):
            for path in self.folder.glob(f"*.{kind}"):
                path.unlink()
        todo = [asdict(item) for item in items if item.key not in done]
        _replace(self.folder / "items", json.dumps(todo))
        if steps is not None:
            _replace(self.folder / "steps", str(steps))
        elif not done:
            (self.folder / "steps").unlink(missing_ok=True)

    def items(self) -> list[Item]:
        """What is to be done, the most important first."""
        return [Item(**item) for item in json.loads((self.folder / "items").read_text())]

    def claims(self) -> Iterator[Item]:
        """Items that no other process took, one at a time."""
        taken: set[str] = set()
        while True:
            item = next((i for i in self.items() if i.key not in taken), None)
            if item is None:
                return
            taken.add(item.key)
            try:
                # Made by one process only, however many try.
                os.close(os.open(self.folder / f"{item.key}.claim", os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                continue
            yield item

    def steps(self) -> int | None:
        """Steps of each variant; None while that is not decided."""
        path = self.folder / "steps"
        return int(path.read_text()) if path.exists() else None

    def tell(self, item: Item, seconds: float, *, steps: int) -> None:
        """Say how long a step of a variant takes while others run beside it, after some steps."""
        _replace(self.folder / f"{item.key}.rate", f"{seconds} {steps}")

    def decide(
        self, costs: Mapping[str, Cost], *, parallel: int, seconds_left: float, least: int
    ) -> None:
        """Choose the steps once the first variants' speeds are known.

        Args:
            costs: of each variant.
            parallel: processes.
            seconds_left: for training and evaluating.
            least: steps; variants at the end of the list are left out before there are fewer.
        """
        items = self.items()
        first = items[:parallel]
        told = {i: found for i in first if (found := self._told(i)) is not None}
        waited = max((pace.age for pace in told.values()), default=0.0)
        if not told or (len(told) < len(first) and waited < PATIENCE_SECONDS):
            return
        unit = sum(p.step for p in told.values()) / sum(costs[i.name].step for i in told)
        each = [
            # What the first ones did so far is not to be done again.
            (told[i].step, costs[i.name].rest - told[i].step * told[i].reached)
            if i in told
            else (unit * costs[i.name].step, costs[i.name].rest)
            for i in items
        ]
        # All take as many steps, so nobody may be past the end when it is known.
        reached = 5 + math.ceil(1.05 * max(pace.reached for pace in told.values()))
        least = max(least, reached)
        while len(each) > parallel and most_steps(each, parallel, seconds_left) < least:
            each.pop()
        steps = max(reached, most_steps(each, parallel, seconds_left))
        _replace(self.folder / "items", json.dumps([asdict(i) for i in items[: len(each)]]))
        _replace(self.folder / "steps", str(steps))

    def _told(self, item: Item) -> _Pace | None:
        path = self.folder / f"{item.key}.rate"
        if not path.exists():
            return None
        step, steps = path.read_text().split()
        age = time.time() - path.stat().st_mtime
        return _Pace(step=float(step), reached=int(steps) + age / float(step), age=age)

    def write(self, item: Item, result: dict[str, Any]) -> None:
        """Keep a result."""
        _replace(self.folder / f"{item.key}.json", json.dumps(result))

    def fail(self, item: Item, error: Exception) -> None:
        """Keep what went wrong."""
        _replace(self.folder / f"{item.key}.error", f"{type(error).__name__}: {error}")

    def results(self) -> list[dict[str, Any]]:
        """All results so far."""
        return [json.loads(path.read_text()) for path in sorted(self.folder.glob("*.*.json"))]


def most_steps(seconds: Sequence[tuple[float, float]], parallel: int, budget: float) -> int:
    """Steps of each variant such that all end in time.

    Args:
        seconds: of a step, and besides the steps, in the order in which processes take variants.
        parallel: processes.
        budget: seconds.
    """
    low, high = 0, MOST_STEPS
    while low < high:
        middle = (low + high + 1) // 2
        if _ends(seconds, parallel, middle) <= budget:
            low = middle
        else:
            high = middle - 1
    return low


def _ends(seconds: Sequence[tuple[float, float]], parallel: int, steps: int) -> float:
    free = [0.0] * parallel
    for step, rest in seconds:
        heapq.heapreplace(free, free[0] + step * steps + rest)
    return max(free)


def _replace(path: Path, text: str) -> None:
    """Write a file that no reader sees half of."""
    part = path.with_name(f".{path.name}.{os.getpid()}")
    part.write_text(text)
    part.replace(path)
