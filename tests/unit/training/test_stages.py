"""Who learns in which stage, at which rate, with which decay."""

from __future__ import annotations

import pytest
import torch

from tests.unit.model.toys import PLANS
from tests.unit.training.toys import toy_model
from timeviper.core.errors import ConfigError
from timeviper.model.presets import nano_9b_transv
from timeviper.training.data.config import DataConfig, DatasetConfig
from timeviper.training.data.reading import ReadingConfig
from timeviper.training.optimizer import rate_factor
from timeviper.training.stages import (
    Part,
    Stage,
    align,
    freeze,
    freeze_table,
    instruct,
    model_of_stage,
    part_of,
    parts_of,
    transfer_only,
)

DATA = DataConfig(
    datasets=(DatasetConfig(name="films", files=("films.jsonl",)),),
    reading=ReadingConfig(budget=4096),
)
STAGES = {
    one.name: one for one in (f(steps=100, data=DATA) for f in (align, instruct, transfer_only))
}
LEARN = {
    "align": {"projector"},
    "instruct": {"projector", "language", "transfer"},
    "transfer": {"transfer"},
}


def model_of(name: str):
    model = model_of_stage(toy_model(PLANS["paper"]), STAGES[name])
    freeze(model, STAGES[name])
    return model


@pytest.mark.parametrize("name", STAGES)
def test_only_the_named_parts_learn(name: str) -> None:
    learns = {part_of(n).value for n, p in model_of(name).named_parameters() if p.requires_grad}
    assert learns == LEARN[name]


@pytest.mark.parametrize("name", STAGES)
def test_the_table_tells_what_the_paper_says(name: str) -> None:
    model = model_of(name)
    rows = freeze_table(model, STAGES[name].optimizer)
    assert sum(row.parameters for row in rows) == sum(p.numel() for p in model.parameters())
    assert {row.part.value for row in rows if row.trained} == LEARN[name]
    for row in rows:
        if row.trained:
            assert row.rate == pytest.approx(5e-5 if row.part is Part.TRANSFER else 1e-5)
            assert row.decay in (0.0, 0.01)
            assert row.optimizer == "AdamW"
        else:
            assert (row.optimizer, row.rate, row.decay) == ("", 0.0, 0.0)


def test_what_must_not_shrink_never_decays() -> None:
    model = model_of("instruct")
    small = ("norm", "bias", "alpha", "A_log", ".D", "embed", "conv1d")
    kept = sum(
        p.numel() for n, p in model.named_parameters()
        if p.requires_grad and any(part in n for part in small)
    )  # fmt: skip
    rows = freeze_table(model, STAGES["instruct"].optimizer)
    assert sum(row.parameters for row in rows if row.trained and row.decay == 0) == kept


def test_the_first_stage_reads_all_tokens_and_drops_none() -> None:
    base = toy_model(PLANS["paper"])
    first = model_of_stage(base, STAGES["align"])
    assert first.config.tokens_per_frame == base.config.vision.patches
    assert first.decoder.config.transfer.sites == ()
    second = model_of_stage(base, STAGES["instruct"])
    assert second.decoder.config.transfer.sites == PLANS["paper"]
    # The same weights under both.
    pairs = zip(first.state_dict().items(), second.state_dict().items(), strict=True)
    assert all(a == b and x.data_ptr() == y.data_ptr() for (a, x), (b, y) in pairs)


def test_the_rate_rises_in_3_percent_and_falls_as_a_cosine() -> None:
    config = STAGES["instruct"].optimizer
    factors = [rate_factor(step, config) for step in range(101)]
    assert factors[:3] == pytest.approx([1 / 3, 2 / 3, 1.0])
    assert factors[3] == pytest.approx(1.0)
    assert factors[-1] == pytest.approx(0.0)


def test_the_9b_model_has_the_parts_that_the_paper_names() -> None:
    from timeviper.model.vlm import TimeViper

    with torch.device("meta"):
        model = TimeViper(nano_9b_transv())
    sizes = {part: sum(p.numel() for _, p in named) for part, named in parts_of(model).items()}
    assert sizes[Part.LANGUAGE] == pytest.approx(8.9e9, rel=0.02)
    # One attention's weights at each of two sites.
    assert sizes[Part.TRANSFER] == 2 * (4480 * (2 * 5120 + 2 * 1024) + 1)


def test_transfers_that_are_not_there_cannot_learn() -> None:
    with pytest.raises(ConfigError, match="none in use"):
        model_of_stage(toy_model(), STAGES["transfer"])
    with pytest.raises(ConfigError, match="with a transfer part"):
        freeze(toy_model(), STAGES["transfer"])


@pytest.mark.parametrize(
    "change",
    [{"train": ()}, {"steps": 0}, {"accumulate": 0}, {"learning_rate": 0.0}, {"warmup_ratio": 1.0}],
)
def test_stages_that_make_no_sense_are_refused(change: dict) -> None:
    fields = {"name": "x", "train": (Part.PROJECTOR,), "steps": 5, "data": DATA}
    with pytest.raises(ConfigError):
        Stage(**(fields | change))
