"""Counts of bad samples: by reason, over breaks, told in bounded words, stopped at a share."""

from __future__ import annotations

import logging

import pytest

from timeviper.training.data.samples import DataError, Origin, Reason, SampleError
from timeviper.training.data.tally import Tally


def fault(number: int, reason: Reason = Reason.MISSING) -> SampleError:
    return SampleError(reason, Origin("a.jsonl", number), want="x", got="y", do="z")


def test_counts_go_on_after_a_break():
    tally = Tally(most_share=1.0)
    for number in range(5):
        tally.took()
        tally.bad(fault(number, Reason.MARKS if number else Reason.MISSING))
    want = {"taken": 5, "bad": {"missing media": 1, "marks and media differ": 4}}
    assert tally.counts == want
    again = Tally(most_share=1.0, counts=tally.counts)
    assert again.counts == want
    again.took()
    again.bad(fault(9))
    assert again.counts == {"taken": 6, "bad": {"missing media": 2, "marks and media differ": 4}}
    # What was handed out does not change.
    assert tally.counts == want


def test_a_share_is_forgiven_and_more_is_not():
    tally = Tally(most_share=0.1, grace=3)
    for number in range(3):
        tally.took()
        tally.bad(fault(number))
    for _ in range(36):
        tally.took()
    tally.took()
    tally.bad(fault(40))
    tally.took()
    with pytest.raises(DataError) as caught:
        tally.bad(fault(41))
    assert caught.value.got.startswith("5 of 41 (5 missing media; the last one: a.jsonl:41: ")


def test_the_log_does_not_drown_in_one_kind(caplog: pytest.LogCaptureFixture):
    tally = Tally(most_share=1.0)
    with caplog.at_level(logging.WARNING, "timeviper"):
        for number in range(1000):
            tally.took()
            tally.bad(fault(number))
        tally.took()
        tally.bad(fault(0, Reason.MARKS))
    # Eight whole, then at 16, 32, ... 512, and the first of another kind.
    assert len(caplog.records) == 8 + 6 + 1
    assert "a.jsonl:511" in caplog.records[-2].getMessage()
