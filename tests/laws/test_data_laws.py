"""Laws of training data: packs change nothing, breaks change nothing, more ranks change nothing."""

from __future__ import annotations

import itertools
import json
import os
from contextlib import suppress
from dataclasses import replace
from functools import cache
from itertools import islice
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.tolerances import TOL, close
from tests.toy_engine import toy_config, toy_model
from tests.unit.training.data.toys import (
    chat,
    llava,
    mixture,
    reader,
    write_lines,
    write_media,
)
from timeviper.core.inputs import ModelInputs
from timeviper.model.vlm import TimeViper
from timeviper.training.data.collate import Batch, collate
from timeviper.training.data.dataset import FileDataset
from timeviper.training.data.packed import PackedSource, PackingConfig
from timeviper.training.data.reading import Example
from timeviper.training.loop import LoopConfig, Outcome, Report, train
from timeviper.training.objective import packed_loss
from timeviper.training.optimizer import OptimizerConfig

STEPS = OptimizerConfig(steps=5, warmup=2, learning_rate=1e-3)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Media, and one sample of each kind."""
    media = write_media(tmp_path_factory.mktemp("laws"))
    talk = [
        llava("What is it?", "a number.", "And?", "more."),
        llava("<image>\nWhat?", "a picture.", image="c.png"),
        llava("<image> and <image>: same?", "no.", image=["c.png", "d.jpg"]),
        llava("<video>\nWhen?", "at 00:03.", "And then?", "gone.", video="a.mp4"),
        chat("<image>What?", "red.", "<video>When?", "now.", images="d.jpg", videos="b.mp4"),
    ]
    write_lines(media / "kinds.jsonl", talk)
    return media


def loss_sum(model: TimeViper, inputs: ModelInputs) -> Tensor:
    """Sum of the loss over the taught tokens, as a training step takes it."""
    pixels = None if inputs.pixels is None else inputs.pixels.double()
    found = packed_loss(model, replace(inputs, pixels=pixels))
    return found.loss * found.taught


def gradients(model: TimeViper, *packs: list[Example]) -> tuple[Tensor, dict[str, Tensor]]:
    """Loss and gradients of packs that make one step."""
    model.zero_grad()
    total = torch.zeros((), dtype=torch.float64)
    for pack in packs:
        loss = loss_sum(model, collate(pack, filler=2))
        torch.autograd.backward(loss)
        total = total + loss.detach()
    grads = {n: p.grad.clone() for n, p in model.named_parameters() if p.grad is not None}
    return total, grads


@pytest.mark.parametrize("sites", ["plain", "transv", "whole", "drop-only"])
def test_a_pack_is_each_of_its_samples_alone(folder: Path, sites: str) -> None:
    model = toy_model(toy_config(sites))
    dataset = FileDataset([folder / "kinds.jsonl"])
    made = reader(budget=10_000)
    examples = [made.load(dataset.read(0, n)) for n in range(dataset.length(0))]
    alone, want = gradients(model, *([example] for example in examples))
    packed, got = gradients(model, examples)
    close("loss", got=packed, want=alone, tol=TOL.training.f64)
    assert got.keys() == want.keys()
    assert "projector" in " ".join(want)
    size = max(float(grad.norm()) for grad in want.values())
    for name in want:
        if name.endswith("k_proj.bias"):
            # It moves all scores alike: its gradient is zero but for rounding.
            assert max(float(got[name].norm()), float(want[name].norm())) < 1e-12 * size
            continue
        close(f"gradient of {name}", got=got[name], want=want[name], tol=TOL.training.f64)


def losses(media: Path, folder: Path, breaks: list[int]) -> list[float]:
    """Losses of a run on packs that is broken off at those batches and started anew each time."""
    lines: list[Report] = []
    for broken in [*breaks, -1]:
        model = toy_model(toy_config("transv"), dtype=torch.float32)
        seen = itertools.count()

        def step(batch: Batch, model: TimeViper = model, seen=seen, broken=broken) -> Outcome:
            if next(seen) == broken:
                raise KeyboardInterrupt
            found = packed_loss(model, batch.inputs)
            return Outcome(loss=found.loss, weight=found.taught)

        config = LoopConfig(
            folder=folder, optimizer=STEPS, log_every=1, save_every_seconds=0.0, accumulate=2
        )
        packing = PackingConfig(workers=2, most_open=3)
        source = PackedSource(mixture(media, 12, 5), reader(), packing)
        with suppress(KeyboardInterrupt):
            train(model, source, step, config, tell=lines.append)
    return [line["loss"] for line in lines]


@pytest.mark.parametrize("breaks", [[3, 1]])
def test_training_on_packs_that_breaks_anywhere_is_one_run(
    folder: Path, tmp_path: Path, breaks: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Waiting for a disk proves nothing here.
    monkeypatch.setattr(os, "fsync", lambda handle: None)
    whole = losses(folder, tmp_path / "whole", [])
    assert len(whole) == STEPS.steps
    assert losses(folder, tmp_path / "cut", breaks) == whole


@cache
def _source(media: Path, seed: int) -> PackedSource:
    config = PackingConfig(workers=0, most_open=3)
    return PackedSource(mixture(media, 12, 5, seed=seed), reader(), config)


def taken(source: PackedSource, count: int, cursor, rank: int, ranks: int):
    found = islice(source.batches(cursor, rank=rank, ranks=ranks), count)
    return [(batch, json.loads(json.dumps(after))) for batch, after in found]


def same(got: Batch, want: Batch) -> None:
    assert (got.number, got.origins) == (want.number, want.origins)
    assert torch.equal(got.inputs.token_ids, want.inputs.token_ids)
    assert torch.equal(got.inputs.labels, want.inputs.labels)
    assert got.inputs.layout == want.inputs.layout
    pixels = (got.inputs.pixels, want.inputs.pixels)
    assert [p is None for p in pixels] == [pixels[1] is None] * 2
    assert pixels[1] is None or torch.equal(*pixels)


@settings(max_examples=8, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(st.integers(1, 9), min_size=1, max_size=5), st.integers(0, 2))
def test_a_plan_that_breaks_anywhere_is_one_plan(folder: Path, legs: list[int], seed: int) -> None:
    whole = list(islice(_source(folder, seed).plan(), sum(legs)))
    got, cursor = [], None
    for leg in legs:
        part = list(islice(_source(folder, seed).plan(cursor), leg))
        cursor = json.loads(json.dumps(part[-1][1]))
        got += part
    assert got == whole


@settings(max_examples=4, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.lists(st.tuples(st.integers(1, 3), st.integers(1, 3)), min_size=2, max_size=3),
    st.integers(0, 2),
)
def test_runs_of_any_ranks_that_break_anywhere_are_one_run(
    folder: Path, legs: list[tuple[int, int]], seed: int
) -> None:
    total = sum(ranks * steps for ranks, steps in legs)
    want = [batch for batch, _ in taken(_source(folder, seed), total, None, 0, 1)]
    got: dict[int, Batch] = {}
    cursor = None
    for ranks, steps in legs:
        # Each rank is a process of its own; after as many steps their cursors agree.
        sides = [taken(_source(folder, seed), steps, cursor, rank, ranks) for rank in range(ranks)]
        assert all(side[-1][1] == sides[0][-1][1] for side in sides)
        cursor = sides[0][-1][1]
        got |= {batch.number: batch for side in sides for batch, _ in side}
    assert sorted(got) == list(range(total))
    for number, batch in enumerate(want):
        same(got[number], batch)
