"""Forecasts by part, the largest video, and what to change when it does not fit."""

from __future__ import annotations

from dataclasses import replace

import pytest

from tests.toy_engine import toy_config
from timeviper.core.precision import Precision
from timeviper.inference.planning.advice import Load, advise, with_plan
from timeviper.inference.planning.footprint import parameters_by_part, weight_bytes
from timeviper.inference.planning.planner import Setting, forecast, largest
from timeviper.model.config import TransferPlan
from timeviper.model.presets import preset

GIB = 2**30
GPU = 80 * GIB
NANO, TRANSV = preset("nano-9b-v2"), preset("nano-9b-v2-transv")


def _load(config=TRANSV, **changes) -> Load:
    load = Load(config=config, frames=10240, chunk=4096, precision=Precision.BFLOAT16)
    return replace(load, **changes)


def test_parts_are_the_peak() -> None:
    told = _load().forecast
    assert sum(told.prefill.values()) == told.prefill_peak
    assert sum(told.question.values()) == told.question_peak
    assert told.peak == max(told.prefill_peak, told.question_peak) == sum(told.parts.values())
    assert told.peak < told.reserved < told.device_bytes
    assert told.prefill["weights"] == weight_bytes(TRANSV, Precision.BFLOAT16)


def test_keys_and_states_of_the_9b_model_by_hand() -> None:
    told = _load(NANO).forecast
    # 4 attention layers, 8 heads of 128, keys and values, two bytes; a little room.
    keys = 4 * 2 * 8 * 128 * 2 * (10240 * 16 + 64 + 1024)
    assert told.held.keys_values == keys
    # 27 layers: a float32 state, three inputs of the convolution in bfloat16.
    assert told.held.mamba_state == 27 * (128 * 80 * 128 * 4 + 3 * 12288 * 2)
    assert told.held.waiting == told.held.parked == 0


def test_transv_of_the_9b_model_by_hand() -> None:
    held = _load().forecast.held
    half = 10240 * 8
    assert held.parked == half * 4480 * 2
    assert held.waiting == pytest.approx(2 * 8 * 128 * 2 * half, rel=0.02)
    # Three layers before the ranked one.
    assert held.keys_values == pytest.approx(3 * 2 * 8 * 128 * 2 * half, rel=0.05)


@pytest.mark.parametrize("config", [NANO, TRANSV], ids=lambda config: config.name)
def test_a_hundred_thousand_frames_fit_into_80_gb(config) -> None:
    assert _load(config, frames=100_000).forecast.device_bytes < 79 * GIB


def test_measured_on_one_h100() -> None:
    """10,240 frames without a tower in chunks of 8,192 tokens: 20.39 GiB were allocated."""
    alone = Setting(tower=False, prefix=0)
    told = _load(NANO, chunk=8192, setting=alone).forecast
    assert 1.0 <= told.prefill_peak / (20.3926 * GIB) <= 1.1


@pytest.mark.parametrize(
    ("config", "frames", "fp8", "prefill", "question"),
    [
        (TRANSV, 1024, False, 18.1727, 17.3938),
        (TRANSV, 10240, False, 19.9159, 20.2109),
        (NANO, 1024, True, 10.9561, 9.9598),
        (NANO, 10240, True, 13.2056, 12.2082),
    ],
)
def test_measured_with_dropped_tokens_and_in_fp8(config, frames, fp8, prefill, question) -> None:
    """GiB on the same device; since then a question with dropped tokens takes less."""
    alone = Setting(tower=False, prefix=0, question=32, fp8=fp8)
    told = _load(config, frames=frames, chunk=8192, setting=alone).forecast
    assert 1.0 <= told.prefill_peak / (prefill * GIB) <= 1.1
    assert told.question_peak / (question * GIB) <= 1.1


def test_measured_from_a_file_to_the_state() -> None:
    """2,560 frames through tower and decoder, 128 at a time, not captured: 20.31 GiB."""
    told = _load(NANO, frames=2560, chunk=8192, setting=Setting(batch_frames=128, prefix=2))
    assert 1.0 <= told.forecast.prefill_peak / (20.3097 * GIB) <= 1.1


@pytest.mark.parametrize("config", [NANO, TRANSV], ids=lambda config: config.name)
def test_tower_and_decoder_take_turns_on_a_gpu_until_the_tower_is_captured(config) -> None:
    tower, decoder = "tower's work", "decoder's work"
    once = _load(config, frames=100, setting=Setting(batch_frames=64)).forecast
    assert len({tower, decoder} & set(once.prefill)) == 1
    for frames in (128, 10_240):
        often = _load(config, frames=frames, setting=Setting(batch_frames=64)).forecast
        assert {tower, decoder} <= set(often.prefill)


def test_tower_and_decoder_work_beside_each_other_on_a_cpu() -> None:
    told = forecast(toy_config(), frames=30, chunk=60, setting=Setting(device_type="cpu"))
    assert {"decoder's work", "tower's work"} <= set(told.prefill)


@pytest.mark.parametrize(("config", "most"), [(NANO, 23.0), (TRANSV, 22.5)])
def test_ten_thousand_frames_with_a_tower_fit(config, most: float) -> None:
    # Checked types, as in tests, keep a tower's stream alive once more, and a little beside it.
    kept = 64 * 729 * 1152 * 2 + 2**24
    assert _load(config, chunk=8192).forecast.peak < most * GIB + kept


@pytest.mark.parametrize(
    ("frames", "batch", "measured"),
    [(2560, 64, 20.4717), (2560, 128, 20.8727), (10_240, 128, 22.1727)],
)
def test_measured_with_a_captured_tower(frames: int, batch: int, measured: float) -> None:
    told = _load(TRANSV, frames=frames, chunk=8192, setting=Setting(batch_frames=batch, prefix=2))
    assert 1.0 <= told.forecast.prefill_peak / (measured * GIB) <= 1.1


@pytest.mark.parametrize(
    ("config", "measured"), [(NANO, 21.4044), (TRANSV, 20.9086)], ids=["plain", "transv"]
)
def test_measured_from_a_file_of_an_hour(config, measured) -> None:
    """10,240 frames, 64 at a time through the tower, not captured then."""
    told = _load(config, chunk=8192, setting=Setting(batch_frames=64, prefix=2)).forecast
    assert 1.0 <= told.prefill_peak / (measured * GIB) <= 1.1


def test_measured_at_a_hundred_thousand_frames_with_dropped_tokens() -> None:
    alone = Setting(tower=False, prefix=0, question=32)
    told = _load(TRANSV, frames=100_000, chunk=8192, setting=alone).forecast
    assert 1.0 <= told.prefill_peak / (36.8534 * GIB) <= 1.1
    assert 1.0 <= told.question_peak / (41.0176 * GIB) <= 1.1


def test_measured_with_keys_in_host_memory() -> None:
    """5,120 frames; modules of the sites that were switched off lay beside, and are not counted."""
    away = Setting(tower=False, prefix=2, keys_in_host=True)
    told = _load(NANO, frames=5120, chunk=8192, setting=away).forecast
    assert 1.0 <= told.prefill_peak / (18.2267 * GIB) <= 1.1
    assert 1.0 <= told.question_peak / (17.1132 * GIB) <= 1.1
    assert told.host_bytes == 2 * GIB


def test_modules_of_sites_that_are_switched_off_are_there_all_the_same() -> None:
    bare = with_plan(_load(), TransferPlan())
    assert bare.forecast.prefill["weights"] == _load().forecast.prefill["weights"]
    back = with_plan(bare, TRANSV.decoder.transfer)
    assert back == _load()


@pytest.mark.parametrize("config", [NANO, TRANSV], ids=lambda config: config.name)
def test_a_hundred_thousand_frames_with_keys_in_host_memory_fit_into_32_gib(config) -> None:
    here = _load(config, frames=100_000).forecast
    there = _load(config, frames=100_000, setting=Setting(keys_in_host=True)).forecast
    assert there.device_bytes < 32 * GIB < here.device_bytes
    assert here.held.keys_values + here.held.waiting <= there.host_bytes
    assert there.held.parked == here.held.parked
    assert there.held.mamba_state == here.held.mamba_state


def test_fp8_takes_half_of_the_layers() -> None:
    parts = parameters_by_part(NANO)
    layers = sum(count for name, count in parts.items() if "layers" in name)
    whole, fp8 = (weight_bytes(NANO, Precision.BFLOAT16, fp8=fp8) for fp8 in (False, True))
    alone = [weight_bytes(NANO, Precision.BFLOAT16, tower=False, fp8=fp8) for fp8 in (False, True)]
    # Of a tower's layer all but the product after attention: 13.9 of 15.2 million numbers.
    assert whole - fp8 - alone[0] + alone[1] == pytest.approx(
        0.91 * parts["vision tower"], rel=0.01
    )
    assert alone[0] - alone[1] == pytest.approx(layers, rel=0.01)
    told = _load(NANO, setting=Setting(fp8=True)).forecast
    assert told.peak < _load(NANO).forecast.peak - 6 * GIB
    assert _load(NANO, precision=Precision.FP8).forecast == told


@pytest.mark.parametrize("name", ["qwen2.5-7b-transv", "nano-12b-v2"])
def test_every_preset_has_a_forecast(name: str) -> None:
    told = forecast(preset(name), frames=512, chunk=2048)
    assert told.peak > weight_bytes(preset(name), Precision.BFLOAT16)


def test_no_frames_are_the_weights_and_a_question() -> None:
    told = forecast(toy_config("transv"), frames=0, setting=Setting(device_type="cpu"))
    assert told.held.parked == told.held.waiting == 0
    assert told.peak > 0


@pytest.mark.parametrize("limit", [99, 100, 5_000, 123_456_789])
def test_the_largest_that_fits_of_a_bent_line(limit: int) -> None:
    asked: list[int] = []

    def bytes_of(frames: int) -> int:
        asked.append(frames)
        return 100 + 7 * frames + max(0, frames - 1000) * 3

    found = largest(bytes_of, limit)
    if limit < 107:
        assert found == 0
        return
    assert bytes_of(found) <= limit
    assert bytes_of(found + max(1, found // 400) + 1) > limit
    assert len(asked) < 20


def test_steps_of_a_line_do_not_mislead_the_search() -> None:
    found = largest(lambda frames: 1000 * (frames // 64), 77_000)
    assert found in range(77 * 64, 78 * 64)


def test_everything_fits_into_plenty() -> None:
    assert largest(lambda frames: frames, 2**60, most=5000) == 5000


def _toy(**changes) -> Load:
    setting = Setting(device_type="cpu", tower=False)
    load = Load(
        config=toy_config("transv"),
        frames=400,
        chunk=1024,
        precision=Precision.FLOAT32,
        setting=setting,
    )
    return replace(load, **changes)


def test_the_largest_video_fits_and_a_larger_one_does_not() -> None:
    limit = _toy(frames=300, chunk=96).forecast.device_bytes
    found = _toy(frames=1, chunk=96).largest(limit)
    assert _toy(frames=found, chunk=96).forecast.device_bytes <= limit
    assert _toy(frames=int(found * 1.05), chunk=96).forecast.device_bytes > limit


def test_advice_saves_what_it_says() -> None:
    limit = _toy(frames=200).forecast.device_bytes
    load = _toy(batch=2)
    found = advise(load, limit)
    assert [one.fits for one in found] == sorted((one.fits for one in found), reverse=True)
    assert found[0].saves > 0
    now = load.forecast.device_bytes
    for words, other in (
        ("smaller chunks: 512", replace(load, chunk=512).by(batch_frames=170)),
        ("one video at a time", replace(load, batch=1)),
        ("--precision bfloat16", replace(load, precision=Precision.BFLOAT16)),
    ):
        needs = other.forecast.device_bytes
        assert [(one.saves, one.fits) for one in found if words in one.change] == [
            (now - needs, needs <= limit)
        ]
    fewer = next(one for one in found if "max_frames=" in one.change)
    frames = int(fewer.change.rpartition("=")[2])
    assert replace(load, frames=frames).forecast.device_bytes <= limit


def test_what_fits_is_not_told_to_take_fewer_frames() -> None:
    words = " ".join(one.change for one in advise(_load(NANO, frames=64), GPU))
    assert "max_frames" not in words
    assert "--precision fp8" in words


def test_advice_names_transv_where_it_was_off() -> None:
    plan = TRANSV.decoder.transfer
    bare = with_plan(_load(), TransferPlan())
    assert "--no-transv" in " ".join(one.change for one in advise(bare, GPU, bare=plan))
    assert "--no-transv" not in " ".join(one.change for one in advise(bare, GPU))
