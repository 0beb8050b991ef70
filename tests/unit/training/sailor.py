"""One process of a toy run, by the rules of torchrun; `-m tests.unit.training.sailor WHAT FOLDER`.

Each batch of the toy is rows of a number; which rows a step sees is the same however many ranks
and batches it is cut into.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from timeviper.core.seeding import stream
from timeviper.training.distributed import Group, PeerError, join
from timeviper.training.loop import LoopConfig, Outcome, Report, train
from timeviper.training.optimizer import OptimizerConfig
from timeviper.training.source import Steps

STEPS = 6
# Batches of a step, over all ranks.
BATCHES = 4


class Toy(nn.Module):
    """A part that all batches use, one that only some do, and one that none does."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.last = nn.Linear(6, 8), nn.Linear(8, 6)
        self.sometimes, self.never = nn.Linear(8, 8), nn.Linear(8, 8)

    def forward(self, x: Tensor, *, detour: bool) -> Tensor:
        h = self.first(x).tanh()
        return self.last(self.sometimes(h) if detour else h)


def batch_of(number: int) -> tuple[int, Tensor]:
    """Rows of a batch; their count differs from batch to batch."""
    if os.environ.get("DIE_AT") == str(number):
        os.kill(os.getpid(), signal.SIGKILL)
    rng = stream(11, number)
    return number, torch.from_numpy(rng.normal(size=(2 + number % 3, 6)).astype(np.float32))


def loss_of(model: Toy, batch: tuple[int, Tensor]) -> Outcome:
    """Mean over rows, weighted by their count; every third step takes the detour in one batch."""
    number, rows = batch
    loss = (model(rows, detour=number % (3 * BATCHES) == 0) - rows.roll(1, 1)).square().mean()
    return Outcome(loss=loss, weight=float(len(rows)), tokens=len(rows))


def toy(seed: int = 0) -> Toy:
    torch.manual_seed(seed)
    return Toy()


def sail(group: Group, folder: Path, **fields) -> tuple[Toy, list[Report]]:
    """Train the toy; ranks start from different weights and are given rank 0's."""
    model, lines = toy(group.rank).to(group.device), []
    config = LoopConfig(
        folder=folder,
        optimizer=OptimizerConfig(steps=STEPS, warmup=2, learning_rate=1e-2),
        accumulate=BATCHES // group.ranks,
        log_every=1,
        **fields,
    )
    source = Steps(make=batch_of, total=STEPS * BATCHES)

    def step(batch: tuple[int, Tensor]) -> Outcome:
        return loss_of(model, (batch[0], batch[1].to(group.device)))

    train(model, source, step, config, tell=lines.append, group=group)
    return model, lines


def main() -> None:
    what, folder = sys.argv[1], Path(sys.argv[2])
    torch.set_num_threads(1)
    group = join(os.environ.get("CREW_DEVICE", "cpu"), patience_seconds=20)
    if what == "stop":
        # Each rank has a clock of its own; rank 0's decides.
        late = time.monotonic() + (-1.0 if group.main else 1e6)
        sail(group, folder, stop_at=late)
        print(json.dumps({"rank": group.rank}))
        return
    try:
        # Each step is saved, so that a death always falls beside one being written.
        model, lines = sail(group, folder, save_every_seconds=0.0)
    except PeerError as error:
        print(f"PeerError: {error}", file=sys.stderr, flush=True)
        # Threads of gloo that lost their peer may abort a process that ends in the usual way.
        os._exit(3)
    save_file(
        {n: t.cpu() for n, t in model.state_dict().items()},
        folder.with_name(f"{folder.name}.rank{group.rank}"),
    )
    print(json.dumps(lines))
    group.leave()


if __name__ == "__main__":
    main()
