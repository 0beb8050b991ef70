"""Everything that changes what a state means changes the identity, and nothing else does."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from tests.toy_engine import toy_config, toy_model, toy_processor
from timeviper.core.errors import StateFileError
from timeviper.inference.identity import check_same, identify
from timeviper.model.config import TransferPlan
from timeviper.model.vlm import under_plan
from timeviper.processing.prompt import TimePrompt


@pytest.fixture(scope="module")
def model():
    return toy_model(toy_config("drop-only"), dtype=torch.float32)


def test_the_same_model_in_other_formats_and_names(model):
    known = identify(model, toy_processor())
    assert identify(model, toy_processor()) == known
    named = toy_model(replace(toy_config("drop-only"), name="other"), dtype=torch.float32)
    other = identify(named, toy_processor())
    assert other.model == "other"
    check_same(known, other, "a.tvstate")


def test_weights_plan_and_processor_are_told_apart(model):
    known = identify(model, toy_processor())
    bare = identify(under_plan(model, TransferPlan()), toy_processor())
    sentence = identify(model, toy_processor(TimePrompt.SENTENCE))
    changed = toy_model(toy_config("drop-only"), dtype=torch.float32)
    with torch.no_grad():
        changed.decoder.norm.weight[0] += 1
    weights = identify(changed, toy_processor())
    for other, says in ((bare, "config"), (sentence, "processor"), (weights, "weights")):
        with pytest.raises(StateFileError, match=says) as told:
            check_same(known, other, "a.tvstate")
        assert "a.tvstate" in str(told.value)
        assert sum(word in told.value.got for word in ("config", "processor", "weights")) == 1
    with pytest.raises(StateFileError, match=r"config.* and .*processor"):
        check_same(known, replace(bare, processor=sentence.processor), "a.tvstate")
