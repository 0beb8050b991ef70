"""The gate before a video: let in, read in smaller chunks aloud, or refused in numbers."""

from __future__ import annotations

import re
from dataclasses import replace

import numpy as np
import pytest
import torch

from tests.toy_engine import noise, toy_config, toy_engine, toy_model, toy_processor
from timeviper.core.device import free_bytes, total_bytes
from timeviper.core.errors import CapacityError
from timeviper.inference import admission
from timeviper.inference.admission import UNLIMITED, Gate, Limits
from timeviper.inference.engine import AskOptions, Degrade, Engine
from timeviper.inference.ladder import Rung, rungs
from timeviper.inference.watch import Progress, Watch
from timeviper.model import keys as keys_module
from timeviper.model.config import TransferPlan
from timeviper.model.vlm import under_plan
from timeviper.processing.messages import VideoPart

FRAMES = noise(260)
SHORT = AskOptions(max_new_tokens=4)
MODEL = toy_model(toy_config("transv"))
PLAIN = toy_engine("plain", clip_frames=256)
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
    heard: list[object] = []
    got = limited.ask(FRAMES, "When?", SHORT, watch=Watch(progress=heard.append, note=heard.append))
    assert got.text == want.text
    assert got.frames == want.frames == 260
    told = [note for note in got.notes if "chunks of" in note]
    assert len(told) == 1
    # Before a frame is read.
    assert heard[0] == told[0]
    assert isinstance(heard[1], Progress)
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


def _gate(limits: Limits, monkeypatch: pytest.MonkeyPatch) -> Gate:
    """A gate that believes its device to be a GPU with a host beside it."""
    monkeypatch.setattr(admission, "_has_host", lambda device: True)
    return Gate(PLAIN.encoder, limits)


def test_keys_go_to_host_memory_when_smaller_chunks_do_not_help(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(keys_module, "LEAST_IN_HOST", 64)
    # More keys than the blocks that attention copies take.
    times = np.arange(100_000.0)
    ways = list(
        rungs(
            _gate(UNLIMITED, monkeypatch).load(PLAN, times),
            degrade=Degrade.SAME_ANSWERS,
            dropping=None,
            host=True,
        )
    )
    needs = {r.keys_in_host: r.load.forecast.reserved for r in ways}
    assert needs[True] < needs[False]
    limit = (needs[True] + needs[False]) // 2
    reader, said = _gate(Limits(bytes=limit), monkeypatch).admit(PLAN, times)
    assert reader.keys_in_host
    assert any("GiB of keys and values lie in host memory" in note for note in said)
    # Neither where it was forbidden, nor where the host is full as well.
    no_room = Limits(bytes=limit, host_bytes=2**10)
    for limits in (Limits(bytes=limit, degrade=Degrade.NO), no_room):
        with pytest.raises(CapacityError) as caught:
            _gate(limits, monkeypatch).admit(PLAN, times)
    assert re.search(
        r"keys in host memory [\d.]+ GiB, and of the host's 0.00 GiB", caught.value.got
    )


def _undropped(limits: Limits) -> Engine:
    """The model with its dropping switched off."""
    plain, sites = under_plan(MODEL, TransferPlan()), MODEL.config.decoder.transfer
    return Engine(plain, toy_processor(), clip_frames=256, threads=1, limits=limits, dropping=sites)


def test_tokens_are_dropped_only_by_leave_and_questions_follow(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Which rung fits is made up here: a toy's dropped tokens take as much as they save."""
    monkeypatch.setattr(Gate, "_fits", lambda gate, rung, there: rung.dropping)
    small = Limits(bytes=MODEL.decoder.embed_tokens.weight.nbytes)
    with pytest.raises(CapacityError):
        _undropped(small).encode(FRAMES)
    engine = _undropped(replace(small, degrade=Degrade.ANY))
    encoded = engine.encode(FRAMES)
    assert any("TransV" in note and "other answers" in note for note in encoded.notes)
    monkeypatch.undo()
    trained = Engine(MODEL, toy_processor(), clip_frames=256, threads=1)
    want = trained.ask(FRAMES, "When?", SHORT)
    assert engine.ask(encoded, "When?", SHORT).text == want.text
    # A session has read frames already that were not dropped.
    gate = Gate(engine.encoder, Limits(), dropping=MODEL.config.decoder.transfer)
    assert gate.reader_of(encoded.state).identity == trained.encoder.identity
    assert gate.reader_of(engine.encoder.encode_nothing(PLAN).state) is engine.encoder
    monkeypatch.setattr(Gate, "_fits", lambda gate, rung, there: rung.dropping)
    with pytest.raises(CapacityError):
        Gate(
            engine.encoder,
            replace(small, degrade=Degrade.ANY),
            dropping=MODEL.config.decoder.transfer,
        ).admit(PLAN, np.arange(260.0))


def test_when_every_gib_counts_no_hole_between_blocks_is_hoped_for(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """An allocator's empty blocks, which a CPU does not have, are told of here by hand."""
    asked: list[bool] = []
    large = _needs(256)

    def free(device: torch.device, *, holes: bool = True) -> int:
        asked.append(holes)
        return large + 2**20 if holes else 2**16

    monkeypatch.setattr(admission, "free_bytes", free)
    gate = Gate(_engine(UNLIMITED).encoder, UNLIMITED)
    with pytest.raises(CapacityError):
        gate.admit(PLAN, np.arange(260.0))
    # First the quick look, which a video that needs half of it would pass.
    assert asked[:2] == [True, False]


def test_a_refusal_looks_at_few_ways(monkeypatch: pytest.MonkeyPatch) -> None:
    """The largest and the smallest chunks of each kind of way, and none between."""
    seen: list[Rung] = []

    def never(gate: Gate, rung: Rung, there: int) -> bool:
        seen.append(rung)
        return False

    monkeypatch.setattr(Gate, "_fits", never)
    gate = _gate(Limits(bytes=0), monkeypatch)
    with pytest.raises(CapacityError):
        gate.admit(PLAN, np.arange(260.0))
    kinds = [(rung.chunked, rung.keys_in_host) for rung in seen]
    assert kinds == [(False, False), (True, False), (False, True), (True, True)]
    assert seen[1].load.chunk == min(rung.load.chunk for rung in seen)


def test_the_largest_chunk_that_fits_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    load = _gate(UNLIMITED, monkeypatch).load(PLAN, np.arange(260.0))
    half = load.chunk // 2
    monkeypatch.setattr(Gate, "_fits", lambda gate, rung, there: rung.load.chunk <= half)
    reader, said = _gate(Limits(bytes=0), monkeypatch).admit(PLAN, np.arange(260.0))
    assert not reader.keys_in_host
    assert f"chunks of {half:,} tokens" in said[0]
