"""Packed batches: what they hold, bad samples among good ones, several ranks, late faults."""

from __future__ import annotations

import logging
from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.toy_engine import KEPT
from tests.unit.training.data.toys import BUDGET, llava, mixture, reader, varied, write_lines
from timeviper.core.errors import CheckpointError, ConfigError
from timeviper.core.layout import SpanKind
from timeviper.processing.conversation import IGNORED
from timeviper.training.data.collate import Batch
from timeviper.training.data.dataset import FileDataset
from timeviper.training.data.mixture import Mixture
from timeviper.training.data.packed import PackedSource, PackingConfig
from timeviper.training.data.samples import DataError

INLINE = PackingConfig(workers=0, most_open=3)


def source(media: Path, *sizes: int, config: PackingConfig = INLINE, **reading) -> PackedSource:
    return PackedSource(mixture(media, *(sizes or (12,))), reader(**reading), config)


def of(path: Path, **config) -> PackedSource:
    packing = PackingConfig(workers=0, most_open=2, **config)
    return PackedSource(Mixture([FileDataset([path])]), reader(), packing)


def take(made: PackedSource, count: int, cursor=None, rank=0, ranks=1) -> list[tuple[Batch, dict]]:
    return list(islice(made.batches(cursor, rank=rank, ranks=ranks), count))


def same(got: Batch, want: Batch) -> None:
    assert (got.number, got.origins) == (want.number, want.origins)
    assert got.inputs.layout == want.inputs.layout
    assert torch.equal(got.inputs.token_ids, want.inputs.token_ids)
    assert torch.equal(got.inputs.labels, want.inputs.labels)
    assert (got.inputs.pixels is None) == (want.inputs.pixels is None)
    if got.inputs.pixels is not None:
        assert torch.equal(got.inputs.pixels, want.inputs.pixels)
        np.testing.assert_array_equal(got.inputs.times, want.inputs.times)


def test_a_pack_holds_its_samples_side_by_side(media: Path):
    for batch, _ in take(source(media), 6):
        inputs = batch.inputs
        assert inputs.layout.total <= BUDGET
        assert len(inputs.layout.sequences) == len(batch.origins)
        frames = 0 if inputs.pixels is None else len(inputs.pixels)
        assert sum(inputs.layout.count(SpanKind.VISION)) == frames * KEPT
        # Each label is the token after it, in the same sample.
        places = torch.nonzero(inputs.labels != IGNORED).flatten()
        assert torch.equal(inputs.labels[places], inputs.token_ids[places + 1])
        ends = np.cumsum(inputs.layout.lengths) - 1
        assert (inputs.labels[ends] == IGNORED).all()
        assert batch.taught == len(places) > 0


def test_every_sample_of_an_epoch_is_seen_once_and_every_kind_shares_packs(media: Path):
    seen: list[str] = []
    kinds: set[int] = set()
    made = source(media, 12)
    for batch, cursor in made.batches(None, rank=0, ranks=1):
        seen += batch.origins
        kinds.add(len({count > 0 for count in batch.inputs.layout.count(SpanKind.VISION)}))
        if cursor["mixture"]["at"]["set0_12.jsonl"][0] >= 3:
            break
    # What waits in open packs may be of any of the epochs.
    counts = sorted(seen.count(origin) for origin in set(seen))
    assert len(counts) == 12
    assert 1 <= counts[0] <= counts[-1] <= 4
    assert 2 in kinds


def test_threads_change_nothing(media: Path):
    want = take(source(media, 12, 7), 8)
    threaded = PackingConfig(workers=3, ahead=2, most_open=3)
    got = take(source(media, 12, 7, config=threaded), 8)
    for (a, after_a), (b, after_b) in zip(got, want, strict=True):
        same(a, b)
        assert after_a == after_b


def test_a_fault_in_a_thread_reaches_the_run(tmp_path: Path):
    path = write_lines(tmp_path / "a.jsonl", ["{"] * 9)
    config = PackingConfig(workers=2, grace=3)
    made = PackedSource(Mixture([FileDataset([path])]), reader(), config)
    with pytest.raises(DataError, match="bad samples"):
        next(iter(made.batches(None, rank=0, ranks=1)))


def test_bad_samples_are_counted_and_logged_and_the_good_ones_come(
    media: Path, caplog: pytest.LogCaptureFixture
):
    bad = ['{"x"', llava("<video>a?", "b", video="none.mp4"), llava("a?", "b" * 500)]
    path = write_lines(media / "some_bad.jsonl", [*varied(6), *bad])
    made = of(path)
    with caplog.at_level(logging.WARNING, "timeviper"):
        batches = take(made, 4)
    good = {str(n) for n in range(1, 7)}
    assert {o.rpartition(":")[2] for b, _ in batches for o in b.origins} <= good
    counts = batches[-1][1]["samples"]
    assert set(counts["bad"]) <= {
        "malformed record",
        "missing media",
        "longer than the budget",
    }
    assert sum(counts["bad"].values()) > 0
    assert counts["taken"] > sum(counts["bad"].values())
    assert len(caplog.records) == sum(counts["bad"].values())
    assert "some_bad.jsonl:" in caplog.text


def test_too_many_bad_samples_stop_the_run_with_one_error(media: Path):
    path = write_lines(media / "mostly_bad.jsonl", [*varied(2), *["{"] * 20])
    with pytest.raises(DataError) as caught:
        take(of(path, grace=5, most_bad_share=0.2), 50)
    words = str(caught.value)
    assert "at most 20.0% bad samples" in words
    assert "malformed record" in words
    assert "timeviper data check" in words
    # The count goes on over a break: nobody starts anew to forget what was bad.
    made = of(path, grace=5, most_bad_share=1.0)
    cursor = take(made, 1)[0][1]
    seen = sum(cursor["samples"]["bad"].values())
    assert (
        sum(take(of(path, grace=5, most_bad_share=1.0), 1, cursor)[0][1]["samples"]["bad"].values())
        > seen
    )


def test_a_medium_that_breaks_later_leaves_the_rest_of_its_pack(media: Path, tmp_path: Path):
    for name in ("a.mp4", "b.mp4", "c.png", "d.jpg"):
        (tmp_path / name).write_bytes((media / name).read_bytes())
    made = of(write_lines(tmp_path / "a.jsonl", varied(10)), most_bad_share=1.0)
    _, cursor = take(made, 2)[-1]
    (tmp_path / "c.png").write_bytes(b"\x89PNG\r\n\x1a\n and no more")
    after = take(made, 8, cursor)
    assert made.unbuilt.counts["bad"] == {
        "unreadable media": made.unbuilt.counts["bad"]["unreadable media"]
    }
    whole = take(of(tmp_path / "a.jsonl", most_bad_share=1.0), 8, cursor)
    assert [b.number for b, _ in after] == list(range(2, 10))
    assert [c for _, c in after] == [c for _, c in whole]


def test_a_cursor_of_other_data_is_refused(media: Path):
    _, cursor = take(source(media, 12), 1)[0]
    others = [
        source(media, 13),
        source(media, 12, budget=150),
        source(media, 12, config=PackingConfig(workers=0, most_open=4)),
    ]
    for made in others:
        with pytest.raises(CheckpointError, match="of the interrupted run"):
            take(made, 1, cursor)
    # How it is built is no part of the order.
    take(source(media, 12, config=PackingConfig(workers=1, most_open=3)), 1, cursor)


def test_the_plan_is_the_order_without_the_frames(media: Path):
    made = source(media, 12)
    planned = list(islice(made.plan(), 4))
    batches = take(made, 4)
    assert [p.tokens for p, _ in planned] == [b.inputs.layout.total for b, _ in batches]
    assert [c for _, c in planned] == [c for _, c in batches]


def test_progress_is_told_in_numbers(media: Path):
    made = source(media, 12)
    taken = take(made, 5)
    told = made.progress(taken[-1][1])
    used = sum(batch.inputs.layout.total for batch, _ in taken)
    assert told == {
        "packs": 5,
        "fill": pytest.approx(used / (5 * BUDGET)),
        "samples": taken[-1][1]["samples"]["taken"],
        "bad_samples": 0,
        "epoch/set0_12.jsonl": told["epoch/set0_12.jsonl"],
    }
    assert 0.3 < told["fill"] <= 1
    # A resumed run counts on.
    (later,) = take(made, 1, taken[2][1])
    assert made.progress(later[1]) == made.progress(taken[3][1])


def test_a_file_that_vanishes_stops_the_run_with_its_name(media: Path, tmp_path: Path):
    made = of(write_lines(tmp_path / "gone.jsonl", [llava("a?", "b")] * 9))
    batches = made.batches(None, rank=0, ranks=1)
    next(batches)
    (tmp_path / "gone.jsonl").unlink()
    with pytest.raises(DataError, match=r"gone\.jsonl \(No such file"):
        list(islice(batches, 50))


@pytest.mark.parametrize(
    "config",
    [{"most_open": 0}, {"workers": -1}, {"ahead": 0}, {"grace": -1}, {"most_bad_share": 2}],
)
def test_settings_that_mean_nothing_are_refused(config):
    with pytest.raises(ConfigError):
        PackingConfig(**config)
