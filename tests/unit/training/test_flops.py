"""The cost of a step is what a counter of products counts."""

from __future__ import annotations

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from tests.unit.model.toys import PLANS, one
from tests.unit.training.toys import packed_inputs, toy_model
from timeviper.model.vlm import TimeViper
from timeviper.training.flops import StepCost, peak_flops
from timeviper.training.objective import packed_loss


def counted(model: TimeViper, layouts) -> tuple[float, float]:
    """Our count, and that of a counter that sees each product."""
    inputs = packed_inputs(layouts)
    with FlopCounterMode(display=False) as counter:
        found = packed_loss(model, inputs)
        found.loss.backward()
    return StepCost(model).of(inputs.layout, taught=found.taught), counter.get_total_flops()


@pytest.mark.parametrize("plan", ["none", "drop-only"])
@pytest.mark.parametrize("frozen", [(), ("vision",), ("vision", "decoder")])
def test_counts_agree_roughly_with_a_counter(plan: str, frozen: tuple[str, ...]) -> None:
    model = toy_model(PLANS[plan])
    for part in frozen:
        model.get_submodule(part).requires_grad_(False)
    ours, theirs = counted(model, [one(1, [(0, 4)] * 2, 3, 5)] * 20)
    # Samples so short that attention, which the counter does not see on a CPU, is little.
    assert ours == pytest.approx(theirs, rel=0.25)


def test_dropped_tokens_and_frozen_weights_cost_less() -> None:
    layouts = [one(3, [(1, 4)] * 30, 9, 30)]
    whole, _ = counted(toy_model(), layouts)
    dropping, _ = counted(toy_model(PLANS["paper"]), layouts)
    frozen = toy_model()
    frozen.decoder.requires_grad_(False)
    assert dropping < whole
    assert counted(frozen, layouts)[0] < whole


def test_text_alone_costs_nothing_in_the_tower() -> None:
    model = toy_model()
    text, frames = (counted(model, [one(3, shown, 9, 30)])[0] for shown in ([], [(0, 4)]))
    assert text < frames


def test_a_processor_has_no_known_peak() -> None:
    assert peak_flops(torch.device("cpu")) is None
