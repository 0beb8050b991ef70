"""The comparison that all other tests lean on must itself be able to fail."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tolerances import TOL, close


def test_equal_values_pass() -> None:
    close("same", got=torch.tensor([1.0, 2.0]), want=np.array([1.0, 2.0]), tol=0.0)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), 1.1])
def test_wrong_values_fail(bad: float) -> None:
    with pytest.raises(AssertionError, match="value"):
        close("value", got=[bad, 2.0], want=[1.0, 2.0], tol=TOL.model.f32)


def test_shapes_are_compared_not_broadcast() -> None:
    with pytest.raises(AssertionError, match="shape"):
        close("y", got=torch.ones(1, 3), want=torch.ones(3), tol=1.0)


def test_infinities_must_stand_at_the_same_places() -> None:
    close("mask", got=[float("-inf"), 1.0], want=[float("-inf"), 1.0], tol=0.0)
    with pytest.raises(AssertionError, match="infinities"):
        close("mask", got=[1.0, float("-inf")], want=[float("-inf"), 1.0], tol=1.0)


def test_an_oracle_with_nan_is_refused() -> None:
    with pytest.raises(AssertionError, match="oracle"):
        close("y", got=[float("nan")], want=[float("nan")], tol=1.0)


def test_a_zero_oracle_measures_absolutely() -> None:
    close("zero", got=[1e-7], want=[0.0], tol=1e-6)
    with pytest.raises(AssertionError, match="relative error"):
        close("zero", got=[1e-5], want=[0.0], tol=1e-6)
