"""Forecast bytes are within 10 % of measured bytes and never below: sites, policies, chunks."""

from __future__ import annotations

from dataclasses import replace
from fractions import Fraction
from itertools import pairwise

import numpy as np
import pytest
import torch

from tests.toy_engine import SITES, noise, toy_config, toy_engine
from tests.unit.inference.measured import measure, random_decoder
from timeviper.core.precision import Precision
from timeviper.inference.admission import UNLIMITED, Gate
from timeviper.inference.planning.footprint import tower_bytes
from timeviper.inference.planning.live_bytes import LiveBytes
from timeviper.inference.planning.planner import Setting, forecast, frames_at_once
from timeviper.model.config import TimeViperConfig
from timeviper.model.presets import preset
from timeviper.model.state import AttentionMemory, MambaMemory
from timeviper.model.vlm import TimeViper
from timeviper.processing.messages import VideoPart

CPU = Setting(device_type="cpu", tower=False, prefix=5, question=9, spare=32)


def _clips(config: TimeViperConfig, frames: int, chunk: int, setting: Setting) -> list[int]:
    at_once = frames_at_once(config, chunk, setting)
    whole, rest = divmod(frames, at_once)
    return [at_once * config.tokens_per_frame] * whole + [rest * config.tokens_per_frame] * (
        rest > 0
    )


def _check(
    config: TimeViperConfig,
    setting: Setting,
    *,
    frames: int,
    chunk: int,
    batch: int = 1,
    precision: Precision = Precision.FLOAT32,
) -> None:
    told = forecast(
        config, frames=frames, chunk=chunk, precision=precision, batch=batch, setting=setting
    )
    got = measure(
        random_decoder(config.decoder, precision.dtype),
        _clips(config, frames, chunk, setting),
        setting,
        per_frame=config.tokens_per_frame,
        batch=batch,
    )
    for stage, foreseen, measured in (
        ("prefill", told.prefill_peak, got.prefill),
        ("question", told.question_peak, got.question),
    ):
        ratio = foreseen / measured
        assert 1.0 <= ratio <= 1.1, f"{stage}: {foreseen} foreseen, {measured} measured"


@pytest.mark.parametrize("sites", list(SITES))
@pytest.mark.parametrize(("frames", "chunk"), [(1, 12), (41, 60), (240, 300)])
def test_every_policy_and_chunk(sites: str, frames: int, chunk: int) -> None:
    _check(toy_config(sites), CPU, frames=frames, chunk=chunk)


@pytest.mark.parametrize("sites", ["plain", "transv"])
def test_time_marks_count(sites: str) -> None:
    marked = replace(CPU, text_per_frame=Fraction(5))
    _check(toy_config(sites), marked, frames=60, chunk=80)
    bare = forecast(toy_config(sites), frames=60, chunk=80, setting=CPU)
    with_marks = forecast(toy_config(sites), frames=60, chunk=80, setting=marked)
    assert with_marks.held.total > bare.held.total


@pytest.mark.parametrize("sites", ["plain", "transv"])
def test_caches_that_grow_by_copies(sites: str) -> None:
    _check(toy_config(sites), replace(CPU, spare=None), frames=150, chunk=60)


@pytest.mark.parametrize("sites", ["transv", "whole"])
def test_several_videos_asked_together(sites: str) -> None:
    _check(toy_config(sites), CPU, frames=90, chunk=90, batch=2)


def test_half_the_numbers_half_the_bytes() -> None:
    _check(toy_config("transv"), CPU, frames=200, chunk=60, precision=Precision.BFLOAT16)


@pytest.mark.parametrize("name", ["tiny", "tiny-transv"])
def test_the_model_that_ships(name: str) -> None:
    _check(preset(name), replace(CPU, spare=1024), frames=96, chunk=256)


@pytest.mark.parametrize("frames", [1, 4])
@pytest.mark.parametrize("name", ["tiny", "toy"])
def test_the_tower(name: str, frames: int) -> None:
    config = toy_config() if name == "toy" else preset(name)
    model = TimeViper(config).eval()
    tracker = LiveBytes(ignore=(*model.parameters(), *model.buffers()))
    side = config.vision.image_size
    with torch.inference_mode(), tracker:
        model.encode_frames(torch.rand(frames, 3, side, side))
    told = tower_bytes(config, frames, dtype=torch.float32, device_type="cpu")
    assert tracker.peak <= told <= 1.1 * tracker.peak


@pytest.mark.parametrize("sites", ["plain", "transv", "whole"])
def test_what_an_engine_holds_is_what_was_foreseen(sites: str) -> None:
    engine = toy_engine(sites)
    encoded = engine.encode(noise(37))
    plan = engine.processor.plan_question("?", video=VideoPart(source="video"))
    load = Gate(engine.encoder, UNLIMITED).load(plan, np.arange(37.0))
    state, held = encoded.state, load.forecast.held
    memories = [m for m in state.memories if isinstance(m, AttentionMemory)]
    keys = sum(m.k.nbytes + m.v.nbytes for m in memories)
    mamba = sum(m.nbytes for m in state.memories if isinstance(m, MambaMemory))
    parked = sum(t.hidden.nbytes for p in state.pending if p is not None for t in p.parked)
    assert held.mamba_state == mamba
    assert keys <= held.keys_values <= 1.1 * keys
    assert parked <= held.parked <= 1.1 * parked


def test_more_frames_never_take_less() -> None:
    config = toy_config("transv")
    peaks = [
        forecast(config, frames=n, chunk=60, setting=CPU).peak for n in (1, 2, 5, 20, 21, 400, 4000)
    ]
    # A few bytes of an index may differ.
    assert all(more > 0.999 * less for less, more in pairwise(peaks))
