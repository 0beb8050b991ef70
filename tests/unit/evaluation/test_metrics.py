"""Shares and intervals against published values and their laws."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeviper.evaluation.metrics import Share, wilson


def test_wilson_against_known_values() -> None:
    # 81 of 263: the worked example of Newcombe 1998, table I.
    low, high = wilson(81, 263)
    assert low == pytest.approx(0.2553, abs=1e-4)
    assert high == pytest.approx(0.3662, abs=1e-4)
    assert wilson(0, 20)[0] == 0.0
    assert wilson(0, 20)[1] == pytest.approx(0.1611, abs=1e-4)


@given(st.integers(1, 500), st.data())
def test_interval_holds_the_share_and_mirrors(total: int, data: st.DataObject) -> None:
    right = data.draw(st.integers(0, total))
    low, high = wilson(right, total)
    assert 0 <= low <= right / total + 1e-12
    assert right / total - 1e-12 <= high <= 1
    other = wilson(total - right, total)
    assert other == (pytest.approx(1 - high), pytest.approx(1 - low))


def test_shares_add_and_print() -> None:
    both = Share(right=3, total=4) + Share(right=1, total=6)
    assert both == Share(right=4, total=10)
    assert both.to_dict()["value"] == 0.4
    assert math.isnan(Share(right=0, total=0).value)
