"""Toy models over several processes; `python -m tests.unit.training.convoy WHAT FOLDER`.

WHAT is `whole` or `sharded`, with `-recomputed` behind it where blocks run again backwards.
"""

from __future__ import annotations

import json
import os
import sys
from pathlib import Path

import numpy as np
import torch
from torch import nn
from torch.distributed.tensor import DTensor

from tests.unit.model.toys import PLANS, one
from tests.unit.training.toys import packed_inputs, toy_model
from timeviper.core.inputs import ModelInputs
from timeviper.training.distributed import Group, join
from timeviper.training.loop import LoopConfig, Outcome, Report, train
from timeviper.training.objective import packed_loss, to_device
from timeviper.training.optimizer import OptimizerConfig
from timeviper.training.sharding import recompute, shard, tie
from timeviper.training.source import Steps

STEPS = 4


class Lesson(nn.Module):
    """The model with its loss, so that one call is a whole step."""

    def __init__(self) -> None:
        super().__init__()
        self.model = toy_model(PLANS["paper"])

    def forward(self, inputs: ModelInputs):
        found = packed_loss(self.model, inputs)
        return tie(found.loss, self), found.taught


def batch_of(number: int) -> ModelInputs:
    """Two samples; every other batch shows nothing, so that ranks see different kinds."""
    frames = [] if number % 2 else [(1, 4)] * (2 + number % 3)
    return packed_inputs([one(2, frames, 3, 4), one(1, frames[:1], 2, 2)], seed=number)


def run(what: str, folder: Path, group: Group, steps: int = STEPS, **fields) -> list[Report]:
    lesson, lines = Lesson().to(group.device), []
    if what.endswith("recomputed"):
        recompute(lesson.model.decoder)
    if what.startswith("sharded"):
        shard(lesson, lesson.model.decoder, device=group.device, ranks=group.ranks,
              compute=torch.float32)  # fmt: skip
        assert any(isinstance(p, DTensor) for p in lesson.parameters())

    def step(batch: ModelInputs) -> Outcome:
        loss, taught = lesson(to_device(batch, group.device))
        return Outcome(loss=loss, weight=float(taught), tokens=batch.layout.total)

    config = LoopConfig(
        folder=folder,
        optimizer=OptimizerConfig(steps=STEPS, warmup=1, learning_rate=1e-2, muon=False),
        accumulate=2 // group.ranks,
        log_every=1,
        average=0.9,
        **fields,
    )
    source = Steps(make=batch_of, total=2 * steps)
    train(lesson, source, step, config, tell=lines.append, group=group)
    return lines


def main() -> None:
    what, folder, steps = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3])
    torch.set_num_threads(1)
    np.random.seed(0)
    group = join(os.environ.get("CREW_DEVICE", "cpu"), patience_seconds=60)
    print(json.dumps(run(what, folder, group, steps)))
    group.leave()


if __name__ == "__main__":
    main()
