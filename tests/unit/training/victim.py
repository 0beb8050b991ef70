"""A toy run in processes that are killed; `python -m tests.unit.training.victim FOLDER KILLS`.

The parent forks a child a time, so that torch is imported once, and ends it with SIGKILL: first
before each file operation of a save in turn, then at random moments, until one child comes through.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from timeviper.core.seeding import stream
from timeviper.training import storage
from timeviper.training.loop import LoopConfig, Outcome, train
from timeviper.training.optimizer import OptimizerConfig, build_optimizers
from timeviper.training.source import Steps

STEPS = 12
# Each file operation of a save; twice, since the first round has no checkpoint to remove.
OPERATIONS = (*range(11), *range(11))


def build() -> nn.Module:
    torch.manual_seed(0)
    return nn.ModuleDict(
        {"embed": nn.Embedding(9, 16), "layer": nn.Linear(16, 16), "head": nn.Linear(16, 9)}
    )


def run(folder: Path, *, save_every_seconds: float = 0.0) -> None:
    """Train, saving after every step unless told otherwise; batches depend on the step alone."""
    model = build()

    def make(step: int) -> Tensor:
        return torch.from_numpy(stream(7, step).integers(0, 9, 32))

    def step(batch: Tensor) -> Outcome:
        hidden = model["layer"](model["embed"](batch)).relu()
        return Outcome(loss=nn.functional.cross_entropy(model["head"](hidden), (batch + 1) % 9))

    config = LoopConfig(
        folder=folder,
        optimizer=OptimizerConfig(steps=STEPS, warmup=3, learning_rate=1e-2),
        log_every=1,
        save_every_seconds=save_every_seconds,
    )
    train(model, Steps(make=make), step, config, tell=lambda line: None)
    save_file(model.state_dict(), folder.with_name(folder.name + ".final"))


def die_before(operation: int) -> None:
    """End this process just before that file operation from now on."""
    left = operation

    def counted(function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **kwargs: Any) -> Any:
            nonlocal left
            left -= 1
            if left < 0:
                os.kill(os.getpid(), signal.SIGKILL)
            return function(*args, **kwargs)

        return call

    storage.save_file = counted(storage.save_file)
    os.fsync = counted(os.fsync)
    shutil.rmtree = counted(shutil.rmtree)
    Path.rename = counted(Path.rename)
    Path.unlink = counted(Path.unlink)


def killed(work: Callable[[], None], after: float | None) -> bool:
    """Whether a child that does this work was killed; at a moment of ours, or of its own."""
    child = os.fork()
    if child == 0:
        work()
        os._exit(0)
    if after is not None:
        time.sleep(after)
        os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    if not os.WIFSIGNALED(status) and os.WEXITSTATUS(status):
        raise SystemExit("the run failed by itself")
    return os.WIFSIGNALED(status)


def warm_up() -> None:
    """Let torch import what its optimisers want, once for all children."""
    model = build()
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    for optimizer in build_optimizers(model, OptimizerConfig()):
        optimizer.step()


def main() -> None:
    folder, kills = Path(sys.argv[1]), int(sys.argv[2])
    torch.set_num_threads(1)
    warm_up()

    def dying(operation: int) -> None:
        die_before(operation)
        run(folder)

    count = sum(killed(lambda n=n: dying(n), None) for n in OPERATIONS)
    # From before the first step to some steps later, however fast the disk is.
    moments = np.geomspace(0.001, 0.5, kills) * np.random.default_rng(kills).uniform(
        0.7, 1.0, kills
    )
    count += sum(killed(lambda: run(folder), float(moment)) for moment in moments)
    killed(lambda: run(folder), None)
    print(count)


if __name__ == "__main__":
    main()
