"""What may be changed so that a video fits, in which order, and what is said about it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from timeviper.core.precision import Precision
from timeviper.inference.ladder import Degrade, Rung, in_host, rungs, sentences
from timeviper.inference.planning.advice import Load, with_plan
from timeviper.model.config import TransferPlan
from timeviper.model.presets import preset

GIB = 2**30
TRANSV = preset("nano-9b-v2-transv")
SITES = TRANSV.decoder.transfer
LOAD = with_plan(
    Load(config=TRANSV, frames=30_000, chunk=4096, precision=Precision.BFLOAT16), TransferPlan()
)


def _ways(**wishes) -> list[Rung]:
    known = {"degrade": Degrade.ANY, "dropping": SITES, "host": True}
    return list(rungs(LOAD, **(known | wishes)))


def _kinds(found: list[Rung]) -> list[tuple[bool, bool, bool]]:
    """Each change once, in the order of their coming."""
    return list(dict.fromkeys((r.chunked, r.dropping, r.keys_in_host) for r in found))


def test_without_leave_a_video_is_read_as_it_is_or_not_at_all() -> None:
    assert _ways(degrade=Degrade.NO) == [Rung(load=LOAD)]


def test_same_answers_never_drop_tokens() -> None:
    found = _ways(degrade=Degrade.SAME_ANSWERS)
    assert _kinds(found) == [
        (False, False, False),
        (True, False, False),
        (False, False, True),
        (True, False, True),
    ]
    assert all(not rung.load.config.decoder.transfer.sites for rung in found)


def test_any_answers_drop_before_keys_leave_the_device() -> None:
    kinds = _kinds(_ways())
    assert kinds[0] == (False, False, False)
    assert kinds.index((False, True, False)) < kinds.index((False, False, True))
    assert kinds[-1] == (True, True, True)
    for rung in _ways():
        assert bool(rung.load.config.decoder.transfer.sites) == rung.dropping
        assert rung.load.setting.keys_in_host == rung.keys_in_host


@pytest.mark.parametrize("wish", [{"dropping": None}, {"dropping": TransferPlan()}])
def test_a_model_without_sites_has_nothing_to_drop(wish) -> None:
    assert not any(rung.dropping for rung in _ways(**wish))


def test_without_another_memory_keys_stay() -> None:
    assert not any(rung.keys_in_host for rung in _ways(host=False))


def test_chunks_halve_and_batches_are_no_larger_than_they() -> None:
    found = [rung.load for rung in _ways(degrade=Degrade.SAME_ANSWERS, host=False)]
    assert [load.chunk for load in found] == [4096, 2048, 1024, 512]
    assert [load.setting.batch_frames for load in found] == [None, 128, 64, 32]
    few = replace(LOAD, setting=replace(LOAD.setting, batch_frames=40))
    batches = [r.load.setting.batch_frames for r in rungs(
        few, degrade=Degrade.SAME_ANSWERS, dropping=None, host=False
    )]  # fmt: skip
    assert batches == [40, 40, 40, 32]


def test_keys_in_host_memory_leave_the_device_and_are_counted_there() -> None:
    here, there = LOAD.forecast, in_host(LOAD).forecast
    keys = here.held.keys_values
    assert there.held.keys_values == 0
    assert here.host_bytes == 0
    # Powers of two, which page-locked memory comes in.
    assert keys <= there.host_bytes < 2 * keys
    # What attention copies takes a little room.
    saved = here.peak - there.peak
    assert 0.9 * keys < saved <= keys


def test_each_change_is_a_sentence_with_its_gib() -> None:
    there = 5 * GIB
    assert sentences(Rung(load=LOAD), LOAD, there) == ()
    small = replace(LOAD, chunk=512)
    told = sentences(Rung(load=small, chunked=True), LOAD, there)
    assert told == (
        "read in chunks of 512 tokens instead of 4,096, to fit into the 5.00 GiB that are free: "
        "slower, and the same answers",
    )
    away = in_host(with_plan(small, SITES))
    told = sentences(Rung(load=away, chunked=True, dropping=True, keys_in_host=True), LOAD, there)
    assert len(told) == 3
    assert "TransV" in told[1]
    assert "other answers" in told[1]
    gib = away.forecast.host_bytes / GIB
    assert told[2].startswith(f"{gib:.2f} GiB of keys and values lie in host memory")
    assert all("\n" not in one for one in told)
