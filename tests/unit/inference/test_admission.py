"""The gate before a video: let in, read in smaller chunks aloud, or refused in numbers."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from tests.toy_engine import noise, toy_config, toy_engine, toy_model, toy_processor
from timeviper.core.device import free_bytes, total_bytes
from timeviper.core.errors import CapacityError
from timeviper.inference.admission import UNLIMITED, Gate, Limits
from timeviper.inference.engine import AskOptions, Degrade, Engine
from timeviper.inference.watch import Progress, Watch
from timeviper.processing.messages import VideoPart

FRAMES = noise(260)
SHORT = AskOptions(max_new_tokens=4)
MODEL = toy_model(toy_config("transv"))
PLAN = toy_processor().plan_question("?", video=VideoPart(source="video"))


def _engine(limits: Limits) -> Engine:
    return Engine(MODEL, toy_processor(), clip_frames=256, threads=1, limits=limits)


def _needs(clip_frames: int) -> int:
    """Bytes that the planner foresees, weights included, for clips of so many frames."""
    engine = Engine(MODEL, toy_processor(), clip_frames=clip_frames, threads=1)
    load = Gate(engine.encoder, UNLIMITED).load(PLAN, np.arange(260.0))
    return load.forecast.reserved


def test_what_fits_is_let_in_as_it_is() -> None:
    engine = _engine(UNLIMITED)
    encoder, said = Gate(engine.encoder, UNLIMITED).admit(PLAN, np.arange(260.0))
    assert encoder is engine.encoder
    assert said == ()


def test_what_fits_in_smaller_chunks_is_read_so_and_told() -> None:
    large, small = _needs(256), _needs(64)
    assert small < large
    limited = _engine(Limits(bytes=(small + large) // 2))
    want = _engine(UNLIMITED).ask(FRAMES, "When?", SHORT)
    got = limited.ask(FRAMES, "When?", SHORT)
    assert got.text == want.text
    assert got.frames == want.frames == 260
    told = [note for note in got.notes if "chunks of" in note]
    assert len(told) == 1
    assert re.search(r"chunks of [\d,]+ tokens instead of 2,048", told[0])
    assert set(got.notes) - set(told) == set(want.notes)
    # The engine itself is as before: the next video may be short.
    assert limited.encoder.chunks.chunk_frames == 256


@pytest.mark.parametrize(
    "limits",
    [Limits(bytes=2**16), Limits(bytes=(_needs(64) + _needs(256)) // 2, degrade=Degrade.NO)],
)
def test_what_does_not_fit_is_refused_before_a_frame_is_read(limits: Limits) -> None:
    heard: list[Progress] = []
    with pytest.raises(CapacityError, match="GiB needed") as caught:
        _engine(limits).encode(FRAMES, watch=Watch(progress=heard.append))
    assert heard == []
    assert "260 frames" in caught.value.want


def test_a_refusal_names_what_would_fit() -> None:
    limit = _needs(64) // 2
    with pytest.raises(CapacityError) as caught:
        _engine(Limits(bytes=limit)).encode(FRAMES)
    named = re.search(r"max_frames=(\d+)", caught.value.do)
    assert named
    fewer = int(named[1])
    assert 0 < fewer < 260
    encoded = _engine(Limits(bytes=limit)).encode(FRAMES, AskOptions(max_frames=fewer))
    assert encoded.frames == fewer


@pytest.mark.parametrize("sites", ["plain", "transv", "whole"])
@pytest.mark.parametrize("frames", [1, 30, 3000])
def test_the_quick_bound_is_never_below_the_forecast(sites: str, frames: int) -> None:
    engine = toy_engine(sites, clip_frames=32)
    gate = Gate(engine.encoder, UNLIMITED)
    told = gate.load(PLAN, np.arange(float(frames))).forecast
    assert gate.most(PLAN, frames) >= told.reserved - told.parts["weights"]


def test_a_video_of_no_frames_needs_nothing() -> None:
    engine = _engine(Limits(bytes=0))
    assert Gate(engine.encoder, Limits(bytes=0)).admit(PLAN, np.zeros(0)) == (engine.encoder, ())


def test_memory_of_this_machine() -> None:
    device = torch.device("cpu")
    assert 0 < free_bytes(device) <= total_bytes(device)
