"""Packed tokens to rows and back: views when even, padding that is zero, and clear refusals."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.tolerances import close
from timeviper.core.errors import LayoutError
from timeviper.ops.packing import check_lengths, from_rows, is_even, to_rows, token_places


def test_rows_hold_each_sequence_and_zeros_behind_it() -> None:
    x = torch.arange(1.0, 7.0)[:, None]
    rows = to_rows(x, [2, 0, 3, 1])
    want = torch.tensor([[1, 2, 0], [0, 0, 0], [3, 4, 5], [6, 0, 0]]).float()[..., None]
    close("rows", got=rows, want=want, tol=0.0)


def test_even_lengths_cost_no_copy_in_either_direction() -> None:
    x = torch.randn(6, 2, 3)
    rows = to_rows(x, [3, 3])
    assert rows.shape == (2, 3, 2, 3)
    assert rows.data_ptr() == x.data_ptr()
    assert from_rows(rows, [3, 3]).data_ptr() == x.data_ptr()


def test_shorter_even_lengths_are_cut_from_the_rows() -> None:
    rows = torch.arange(8.0).reshape(2, 4, 1)
    close("cut", got=from_rows(rows, [1, 1])[:, 0], want=[0.0, 4.0], tol=0.0)


def test_what_lies_beyond_a_length_is_ignored() -> None:
    rows = to_rows(torch.ones(4, 2), [3, 1])
    rows[1, 1:] = torch.nan
    close("tokens", got=from_rows(rows, [3, 1]), want=torch.ones(4, 2), tol=0.0)


@pytest.mark.parametrize("lengths", [[4, 4], [5, 0, 3], [8], [0, 8, 0]])
def test_gradients_return_to_their_tokens(lengths: list[int]) -> None:
    x = torch.randn(8, 2, requires_grad=True)
    weights = torch.randn(8, 2)
    (from_rows(to_rows(x, lengths) * 2, lengths) * weights).sum().backward()
    close("gradient", got=x.grad, want=2 * weights, tol=1e-7)


def test_no_sequence_and_no_token_are_fine() -> None:
    assert to_rows(torch.zeros(0, 3), []).shape == (0, 0, 3)
    assert to_rows(torch.zeros(0, 3), [0, 0]).shape == (2, 0, 3)
    assert from_rows(torch.zeros(2, 0, 3), [0, 0]).shape == (0, 3)


def test_integers_can_be_packed_too() -> None:
    rows = to_rows(torch.arange(3), [1, 2])
    assert rows.tolist() == [[0, 0], [1, 2]]
    assert from_rows(rows, [1, 2]).tolist() == [0, 1, 2]


def test_token_places_follow_the_order_asked_for() -> None:
    assert token_places([2, 3, 0, 1], [3, 0]).tolist() == [5, 0, 1]
    assert token_places([2, 3], []).dtype == np.int64


@pytest.mark.parametrize(
    ("lengths", "even"), [([], False), ([0, 0], True), ([2], True), ([2, 3], False)]
)
def test_is_even(lengths: list[int], even: bool) -> None:
    assert is_even(lengths) is even


def test_wrong_sums_and_negative_lengths_are_refused_with_the_numbers() -> None:
    with pytest.raises(LayoutError, match=r"sum to the 5 packed tokens; got 4 from \[1, 3\]"):
        to_rows(torch.zeros(5, 1), [1, 3])
    with pytest.raises(LayoutError, match="zero or more tokens"):
        check_lengths([3, -1], 2)
    with pytest.raises(LayoutError, match="q_lengths that sum"):
        check_lengths([3], 2, name="q_lengths")


def test_a_long_list_of_lengths_is_cut_in_the_message() -> None:
    with pytest.raises(LayoutError, match="…"):
        check_lengths([1] * 20, 2)


@pytest.mark.parametrize("lengths", [[2], [2, 4], [2, 2, 2]])
def test_lengths_that_do_not_fit_the_rows_are_refused(lengths: list[int]) -> None:
    with pytest.raises(LayoutError, match="2 lengths of at most 3"):
        from_rows(torch.zeros(2, 3, 1), lengths)
