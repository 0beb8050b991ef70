"""One training loop: batches by cursor, clipped updates, a log, and checkpoints to resume."""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from timeviper.core.config import to_dict
from timeviper.core.device import peak_bytes
from timeviper.core.errors import ConfigError
from timeviper.training.average import Average
from timeviper.training.checkpoint import Checkpoints, Learner
from timeviper.training.diagnosis import DivergedError, bad_weights, name_the_layer
from timeviper.training.distributed import Group
from timeviper.training.flops import peak_flops
from timeviper.training.optimizer import (
    OptimizerConfig,
    build_optimizers,
    clip_gradients,
    gradient_norm,
    rate_factor,
    set_rate,
)
from timeviper.training.source import Cursor, Source

Batch = TypeVar("Batch")
# What a step reports besides its loss: names to numbers.
Report = dict[str, float]


@dataclass(frozen=True, eq=False, kw_only=True)
class Outcome:
    """What a batch gave.

    Args:
        loss: mean over what the batch holds.
        weight: how much that is; a step's gradient is the weighted mean over its batches.
        tokens: that went through the model, for the log.
        flops: what that cost, for the log.
        report: gives further numbers when asked.
    """

    loss: Float[Tensor, ""]
    weight: float = 1.0
    tokens: int = 0
    flops: float = 0.0
    report: Callable[[], Report] = dict


StepFunction = Callable[[Batch], Outcome]


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How a run is logged, saved and bounded.

    Args:
        folder: checkpoints live here, the log beside it as `folder.jsonl`.
        optimizer: rates and number of steps.
        accumulate: batches of each rank that make one step.
        log_every: steps between log lines.
        check_every: steps between looks at loss and gradient, which make a GPU wait; None for
            with each log line. A checkpoint is never written without.
        save_every_seconds: time between checkpoints; one is always written at the end.
        keep: how many checkpoints stay.
        average: decay of a running mean of the weights, kept beside them; None for none.
        identity: JSON values that a run must share with the one it goes on from, besides the
            optimizer's settings.
        stop_at: value of `time.monotonic()` on rank 0 after which the run saves and stops; None
            for never.
        stopping: asked at each step on each rank; one that says yes makes all save and stop.
    """

    folder: Path
    optimizer: OptimizerConfig
    accumulate: int = 1
    log_every: int = 20
    check_every: int | None = None
    save_every_seconds: float = 120.0
    keep: int = 2
    average: float | None = None
    identity: dict[str, Any] = field(default_factory=dict[str, Any])
    stop_at: float | None = None
    stopping: Callable[[], bool] | None = None

    def __post_init__(self) -> None:
        """Check the counts."""
        if min(self.accumulate, self.log_every, self.keep) < 1:
            raise ConfigError(
                want="accumulate, log_every and keep of at least 1",
                got=f"{self.accumulate}, {self.log_every} and {self.keep}",
                do="correct the config",
            )


@dataclass
class _Meter:
    """What happened since the last log line."""

    waited: float = 0.0
    tokens: int = 0
    flops: float = 0.0
    steps: int = 0
    began: float = field(default_factory=time.monotonic)


def train(
    model: nn.Module,
    source: Source[Batch],
    step: StepFunction[Batch],
    config: LoopConfig,
    *,
    tell: Callable[[Report], None],
    group: Group | None = None,
) -> int:
    """Train until the last step or the time limit, resuming what `config.folder` holds.

    Every rank calls this with the same arguments. Laws: several ranks, or several batches a
    step, learn as one process does from all their batches at once; a run that is stopped and
    resumed is the run that was never stopped.

    Args:
        model: whose trainable parameters learn.
        source: of batches; each rank takes its own.
        step: what a batch gives.
        config: bounds and folders.
        tell: receives each log line's numbers, on rank 0.
        group: the processes of this run; None for this one alone.

    Returns:
        The step reached; `config.optimizer.steps` when the run is complete. Less when the time
        or the source came to an end.

    Raises:
        DivergedError: the loss or a gradient is not a number; the last checkpoint stays.
        CheckpointError: a checkpoint of another model or run in the folder, or one that could not
            be written; the last whole one stays.
        PeerError: another process of the run died.
    """
    run = _Run(model, step, config, group or Group())
    run.resume()
    batches = source.batches(run.cursor, rank=run.group.rank, ranks=run.group.ranks)
    try:
        while run.reached < config.optimizer.steps:
            taken = run.take(batches)
            late, due = run.agree(full=len(taken) == config.accumulate)
            if late is None:
                break
            line = run.advance(taken, keep=due or late)
            if line and run.group.main:
                tell(line)
            if late:
                break
        run.save()
    except BaseException as error:
        # What is being written is older than the trouble, and good; but to finish it takes all.
        if run.group.ranks == 1 or isinstance(error, DivergedError):
            run.checkpoints.settle(wait=True)
        raise
    run.checkpoints.settle(wait=True)
    return run.reached


class _Run(Generic[Batch]):
    """A run between two steps: what has learned so far, and when it was last written."""

    def __init__(
        self, model: nn.Module, step: StepFunction[Batch], config: LoopConfig, group: Group
    ) -> None:
        self.model = model
        self.step = step
        self.config = config
        self.group = group
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.optimizers = build_optimizers(model, config.optimizer)
        self.average = None if config.average is None else Average(model, config.average)
        self.learner = Learner(model=model, optimizers=self.optimizers, average=self.average)
        identity = {"optimizer": to_dict(config.optimizer)} | config.identity
        self.checkpoints = Checkpoints(config.folder, group, keep=config.keep, identity=identity)
        self.meter = _Meter()
        self.reached = 0
        self.cursor: Cursor | None = None
        self.saved, self.saved_step, self.checked_step = time.monotonic(), 0, 0

    def resume(self) -> None:
        """Go on from the folder's checkpoint, where there is one."""
        self.group.share(self.model)
        progress = self.checkpoints.load(self.learner)
        if progress is not None:
            self.reached, self.cursor = int(progress["step"]), progress["cursor"]
        self.saved_step = self.reached

    def take(self, batches: Iterator[tuple[Batch, Cursor]]) -> list[tuple[Batch, Cursor]]:
        """The batches of a step; fewer where the source ends."""
        began = time.monotonic()
        taken = list(islice(batches, self.config.accumulate))
        self.meter.waited += time.monotonic() - began
        return taken

    def agree(self, *, full: bool) -> tuple[bool | None, bool]:
        """Whether this is the last step for lack of time, and whether to save after it.

        Returns:
            For the first None where some rank has too few batches to take part.
        """
        now = time.monotonic()
        late = self.config.stop_at is not None and now > self.config.stop_at
        due = now - self.saved > self.config.save_every_seconds
        asked = self.config.stopping is not None and self.config.stopping()
        # Rank 0's clock decides for all; a rank that was asked, or has no batches, ends it for all.
        main = self.group.main
        short, late, due = self.group.total([not full, (main and late) or asked, main and due])
        return None if short else bool(late), bool(due)

    def advance(self, taken: Sequence[tuple[Batch, Cursor]], *, keep: bool) -> Report | None:
        """One step; its log line when one is due."""
        config = self.config
        self.checkpoints.settle()
        set_rate(self.optimizers, rate_factor(self.reached, config.optimizer))
        loss, last = self._learn([batch for batch, _ in taken])
        norm = gradient_norm(self.parameters)
        self.reached += 1
        self.meter.steps += 1
        self.cursor = taken[-1][1]
        final = self.reached == config.optimizer.steps
        told = final or self.reached % config.log_every == 0
        checked = config.check_every is not None and self.reached % config.check_every == 0
        if told or keep or final or checked:
            # Before anything is changed or written.
            loss = self.group.mean(loss)
            self._check(loss, norm, taken)
        clip_gradients(self.parameters, norm, limit=config.optimizer.clip)
        for optimizer in self.optimizers:
            optimizer.step()
            optimizer.zero_grad(set_to_none=True)
        if self.average is not None:
            self.average.update(self.parameters, step=self.reached)
        line = self._line(loss, norm) | last.report() if told else None
        if line and self.group.main:
            _append(config.folder.with_name(config.folder.name + ".jsonl"), line)
        if keep:
            self.save()
        return line

    def save(self) -> None:
        """Start to write a checkpoint, unless there is one of this step."""
        if self.reached > self.saved_step:
            if self.reached > self.checked_step:
                self._check_weights()
            progress = {"step": self.reached, "cursor": self.cursor}
            self.checkpoints.start(self.learner, progress)
        self.saved, self.saved_step = time.monotonic(), self.reached

    def _check(self, loss: Tensor, norm: Tensor, taken: Sequence[tuple[Batch, Cursor]]) -> None:
        """Stop on a bad number; loss and norm are those of all ranks, so all stop."""
        if math.isfinite(loss.item()) and math.isfinite(norm.item()):
            self.checked_step = self.reached
            return
        where = name_the_layer(self.model, lambda: [self.step(batch) for batch, _ in taken])
        numbers = f"loss {loss.item():.5g}, gradient norm {norm.item():.5g}"
        raise DivergedError(f"{numbers} at step {self.reached}: {where}")

    def _check_weights(self) -> None:
        bad = bad_weights(self.model)
        if self.group.total([bad is not None])[0]:
            where = bad or "on another process"
            raise DivergedError(f"weights not finite after step {self.reached}: {where}")

    def _learn(self, batches: Sequence[Batch]) -> tuple[Tensor, Outcome]:
        """Gradients of a step, over all its batches and ranks; its loss on this rank."""
        losses: list[Tensor] = []
        weight, outcome = 0.0, None
        for batch in batches:
            with self.group.watching():
                outcome = self.step(batch)
                part = outcome.loss * outcome.weight
                torch.autograd.backward(part)
            losses.append(part.detach())
            weight += outcome.weight
            self.meter.tokens += outcome.tokens
            self.meter.flops += outcome.flops
        if outcome is None:
            raise TypeError("a step needs a batch")
        total = self.group.sum_gradients(self.parameters, weight=weight)
        # Such that the mean over the ranks is the mean over all that their batches hold.
        return torch.stack(losses).sum() * (self.group.ranks / (total or 1.0)), outcome

    def _line(self, loss: Tensor, norm: Tensor) -> Report:
        meter, config = self.meter, self.config
        self.meter = _Meter()
        spent = time.monotonic() - meter.began
        tokens, flops = self.group.total([meter.tokens, meter.flops])
        line = {
            "step": self.reached,
            "steps": config.optimizer.steps,
            "loss": round(loss.item(), 5),
            "gradient_norm": round(norm.item(), 4),
            "rate": rate_factor(self.reached - 1, config.optimizer)
            * config.optimizer.learning_rate,
            "steps_per_second": round(meter.steps / spent, 3),
            "data_wait_percent": round(100 * meter.waited / spent, 1),
        }
        if tokens:
            line["tokens_per_second"] = round(tokens / spent, 1)
        if self.group.device.type == "cuda":
            line["gpu_memory_bytes"] = peak_bytes(self.group.device)
        peak = peak_flops(self.group.device)
        if flops and peak:
            line["mfu_percent"] = round(100 * flops / (spent * peak * self.group.ranks), 2)
        return line


def _append(path: Path, line: Report) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a") as handle:
        handle.write(json.dumps(line) + "\n")
