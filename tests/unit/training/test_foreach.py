"""Arithmetic on many tensors does to each what its name says."""

from __future__ import annotations

import torch

from timeviper.training import foreach


def two() -> list[torch.Tensor]:
    return [torch.tensor([2.0, 4.0]), torch.tensor([[8.0]])]


def values(tensors: list[torch.Tensor]) -> list[list]:
    return [tensor.tolist() for tensor in tensors]


def test_each_tensor_is_changed_in_place() -> None:
    a = two()
    foreach.scale(a, 0.5)
    assert values(a) == [[1.0, 2.0], [[4.0]]]
    foreach.add(a, two(), times=2.0)
    assert values(a) == [[5.0, 10.0], [[20.0]]]
    foreach.move(a, two(), 1.0)
    assert values(a) == values(two())
    foreach.copy(a, [torch.zeros(2), torch.ones(1, 1)])
    assert values(a) == [[0.0, 0.0], [[1.0]]]


def test_between_leaves_both_as_they_were() -> None:
    a, b = two(), [torch.zeros(2), torch.zeros(1, 1)]
    assert values(foreach.between(a, b, 0.25)) == [[1.5, 3.0], [[6.0]]]
    assert values(a) == values(two())


def test_nothing_is_nothing() -> None:
    foreach.scale([], 2.0)
    foreach.copy([], [])
