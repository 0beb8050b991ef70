"""Rates of this machine: measured, kept, found again; seconds of a load made of them."""

from __future__ import annotations

import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tests.toy_engine import noise, toy_config, toy_engine
from timeviper.core.precision import Precision
from timeviper.inference.planning.advice import Load, with_plan
from timeviper.inference.planning.calibration import (
    LayerRate,
    Rates,
    keep_rates,
    known_rates,
    measure_rates,
    rates_file,
)
from timeviper.inference.planning.planner import Setting
from timeviper.inference.planning.seconds import reckon, told
from timeviper.model.config import TransferPlan

CPU = torch.device("cpu")
NONE = LayerRate(token=0.0, few=0.0, step=0.0)
# One second a token in each attention layer, a thousandth a pair, a millionth a key in a step.
ATTENTION = LayerRate(token=1.0, few=10.0, step=0.5, pair=1e-3, key=1e-6)
RATES = Rates(
    device="a machine",
    torch="2",
    precision=Precision.FLOAT32,
    copy=1e9,
    product=1e9,
    mamba=NONE,
    attention=ATTENTION,
    mlp=NONE,
    head=0.25,
    frame=3.0,
    video=0.01,
    cores=2,
)


def _load(sites: str = "plain", **changes) -> Load:
    load = Load(
        config=toy_config(sites),
        frames=10,
        chunk=64,
        precision=Precision.FLOAT32,
        setting=Setting(device_type="cpu", prefix=0, question=4),
    )
    return replace(load, **changes)


def test_seconds_by_hand() -> None:
    found = reckon(_load(), RATES)
    # Two attention layers; 30 tokens each behind all before it.
    assert found.prefill == pytest.approx(2 * (30 + 1e-3 * 30 * 15))
    assert found.tower == 30.0
    assert found.reading == pytest.approx((found.prefill + 30.0) / 2)
    assert found.question == pytest.approx(2 * (10 + 1e-3 * 4 * 30) + 0.25)
    assert found.token == pytest.approx(2 * (0.5 + 1e-6 * 34) + 0.25)
    assert found.video == 36.0


def test_dropped_tokens_cost_less_and_parked_ones_wait_for_the_question() -> None:
    plain, dropping = (reckon(_load(sites), RATES) for sites in ("plain", "transv"))
    assert dropping.prefill < plain.prefill
    assert dropping.question > plain.question
    bare = reckon(with_plan(_load("transv"), TransferPlan()), RATES)
    assert bare == plain


def test_a_whole_video_waits_for_the_question() -> None:
    found = reckon(_load("whole"), RATES)
    assert found.prefill == 0
    assert found.question > 15


def test_rates_are_measured_kept_and_found_again(tmp_path: Path) -> None:
    config, file = toy_config("transv"), tmp_path / "deep" / "rates.json"
    assert known_rates(config, Precision.FLOAT32, CPU, file=file) is None
    began = time.perf_counter()
    rates = measure_rates(config, Precision.FLOAT32, device="cpu")
    assert time.perf_counter() - began < 20
    assert min(rates.copy, rates.product, rates.frame, rates.head) > 0
    assert min(rates.mamba.token, rates.mlp.few, rates.attention.step) >= 0
    assert keep_rates(config, rates, file=file) == file
    assert known_rates(config, Precision.FLOAT32, CPU, file=file) == rates
    # Sites are no sizes; another precision or size is another model.
    plain = toy_config("plain")
    assert known_rates(plain, Precision.FLOAT32, CPU, file=file) == rates
    assert known_rates(config, Precision.BFLOAT16, CPU, file=file) is None
    wider = replace(config, decoder=replace(config.decoder, intermediate_size=64))
    assert known_rates(wider, Precision.FLOAT32, CPU, file=file) is None
    keep_rates(wider, rates, file=file)
    assert known_rates(config, Precision.FLOAT32, CPU, file=file) == rates
    assert not list(file.parent.glob("*.part"))


@pytest.mark.parametrize("text", ["", "[]", "{", '{"a": 1}'])
def test_a_damaged_file_is_as_none(tmp_path: Path, text: str) -> None:
    file = tmp_path / "rates.json"
    file.write_text(text)
    config = toy_config()
    assert known_rates(config, Precision.FLOAT32, CPU, file=file) is None
    keep_rates(
        config, replace(RATES, device=f"{torch.get_num_threads()} threads of a CPU"), file=file
    )
    assert known_rates(config, Precision.FLOAT32, CPU, file=file) is not None


def test_rates_of_another_version_are_as_none(tmp_path: Path) -> None:
    file, config = tmp_path / "rates.json", toy_config()
    mine = replace(RATES, device=f"{torch.get_num_threads()} threads of a CPU")
    keep_rates(config, mine, file=file)
    record = json.loads(file.read_text())
    next(iter(record.values()))["unknown"] = 1
    file.write_text(json.dumps(record))
    assert known_rates(config, Precision.FLOAT32, CPU, file=file) is None


def test_rates_lie_in_the_users_cache(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert rates_file() == tmp_path / "timeviper" / "rates.json"


def test_without_rates_it_says_so() -> None:
    found = told(_load(), None)
    assert found["stages"] == {}
    assert "--calibrate" in found["from"]
    assert told(_load(), RATES)["from"] == "measured on a machine, torch 2"


def test_seconds_foreseen_are_of_the_size_of_seconds_measured() -> None:
    """Within a factor of four at toy size on a machine that others use too."""
    engine = toy_engine("plain", clip_frames=64)
    rates = measure_rates(engine.model.config, Precision.FLOAT64, device="cpu")
    load = _load(frames=512, chunk=512, precision=Precision.FLOAT64)
    spent = engine.encode(noise(512)).timing
    foreseen = reckon(load, rates)
    assert foreseen.prefill / 4 < spent.prefill < foreseen.prefill * 4
