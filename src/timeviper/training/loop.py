"""One training loop: batches by step number, clipped updates, a log, and checkpoints to resume."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.utils.data import DataLoader, Dataset

from timeviper.core.log import get_logger
from timeviper.training import checkpoint
from timeviper.training.optimizer import (
    OptimizerConfig,
    build_optimizers,
    check_finite,
    clip_gradients,
    gradient_norm,
    rate_factor,
    set_rate,
)

Batch = TypeVar("Batch")
# What a step reports besides its loss: names to numbers.
Report = dict[str, float]
StepFunction = Callable[[Batch], tuple[Float[Tensor, ""], Callable[[], Report]]]

_LOG = get_logger("training")


class Steps(Dataset[Batch], Generic[Batch]):
    """Batches that are a function of the step number alone, so resuming needs no sampler state.

    Args:
        make: builds the batch of a step; runs in worker processes.
        first: step of item 0.
        last: step after the final one.
    """

    def __init__(self, make: Callable[[int], Batch], first: int, last: int) -> None:
        self.make = make
        self.first = first
        self.last = last

    def __len__(self) -> int:
        """Steps left."""
        return max(0, self.last - self.first)

    def __getitem__(self, index: int) -> Batch:
        """Batch of step `first + index`."""
        return self.make(self.first + index)


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a run is logged, saved and bounded.

    Args:
        folder: checkpoint and log live here.
        optimizer: rates and number of steps.
        workers: processes that build batches; 0 builds them in line.
        log_every: steps between log lines.
        save_every_seconds: time between checkpoints; one is always written at the end.
        stop_at: value of `time.monotonic()` after which the run saves and stops; None for never.
    """

    folder: Path
    optimizer: OptimizerConfig
    workers: int = 0
    log_every: int = 20
    save_every_seconds: float = 120.0
    stop_at: float | None = None


@dataclass
class _Meter:
    """What happened since the last log line."""

    loss: float = 0.0
    waited: float = 0.0
    began: float = field(default_factory=time.monotonic)
    steps: int = 0


def train(
    model: nn.Module,
    make: Callable[[int], Batch],
    step: StepFunction[Batch],
    config: LoopConfig,
    *,
    tell: Callable[[Report], None],
) -> int:
    """Train until the last step or the time limit, resuming what `config.folder` holds.

    Args:
        model: whose trainable parameters learn.
        make: batch of a step number.
        step: loss of a batch, and a function that reports further numbers when asked.
        config: bounds and folders.
        tell: receives each log line's numbers.

    Returns:
        The step reached; `config.optimizer.steps` when the run is complete.

    Raises:
        FloatingPointError: the loss or a gradient is not a number; the last checkpoint stays.
    """
    optimizers = build_optimizers(model, config.optimizer)
    progress = checkpoint.load(config.folder, model, optimizers) or {"step": 0}
    reached, meter, saved = int(progress["step"]), _Meter(), time.monotonic()
    for batch, waited in _timed(_loader(make, reached, config)):
        meter.waited += waited
        set_rate(optimizers, rate_factor(reached, config.optimizer))
        loss, report = step(batch)
        torch.autograd.backward(loss)
        norm = gradient_norm(model.parameters())
        reached += 1
        meter.steps += 1
        last = reached == config.optimizer.steps
        told = last or reached % config.log_every == 0
        late = config.stop_at is not None and time.monotonic() > config.stop_at
        kept = last or late or time.monotonic() - saved > config.save_every_seconds
        if told or kept:
            # Before anything is changed or written; not each step, since looking makes a GPU wait.
            check_finite(model.named_parameters(), loss, norm, step=reached)
        _update(model, optimizers, norm, config.optimizer.clip)
        if told:
            line = _line(reached, loss, norm, meter, config) | report()
            tell(line)
            _append(config.folder.with_name(config.folder.name + ".jsonl"), line)
            meter = _Meter()
        if kept:
            checkpoint.save(config.folder, model, optimizers, {"step": reached})
            saved = time.monotonic()
        if late:
            break
    return reached


def _update(model: nn.Module, optimizers: Sequence[Optimizer], norm: Tensor, clip: float) -> None:
    clip_gradients(model.parameters(), norm, limit=clip)
    for optimizer in optimizers:
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)


def _loader(make: Callable[[int], Batch], first: int, config: LoopConfig) -> DataLoader[Batch]:
    return DataLoader(
        Steps(make, first, config.optimizer.steps),
        batch_size=None,
        collate_fn=_as_made,
        num_workers=config.workers,
        prefetch_factor=4 if config.workers else None,
    )


def _as_made(batch: Batch) -> Batch:
    return batch


def _timed(batches: DataLoader[Batch]) -> Iterator[tuple[Batch, float]]:
    source = iter(batches)
    while True:
        began = time.monotonic()
        try:
            batch = next(source)
        except StopIteration:
            return
        yield batch, time.monotonic() - began


def _line(step: int, loss: Tensor, norm: Tensor, meter: _Meter, config: LoopConfig) -> Report:
    spent = time.monotonic() - meter.began
    return {
        "step": step,
        "loss": round(loss.item(), 5),
        "gradient_norm": round(norm.item(), 4),
        "rate": rate_factor(step - 1, config.optimizer) * config.optimizer.learning_rate,
        "steps_per_second": round(meter.steps / spent, 3),
        "data_wait_percent": round(100 * meter.waited / spent, 1),
    }


def _append(path: Path, line: Report) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        handle.write(json.dumps(line) + "\n")
