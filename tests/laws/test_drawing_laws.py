"""Laws of drawing: per frame, per moment, whatever the order, the company, the cut or the size."""

from __future__ import annotations

import math

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.unit.synth.toys import IDS, MIDDLE, appear, busy_worlds, times, toy_footage, toy_worlds
from timeviper.synth.canvas import mixed
from timeviper.synth.draw import Painter, atlas_tensor
from timeviper.synth.world import Motion, Worlds

ATLAS = atlas_tensor(24)
BUSY = busy_worlds()
BUSY.footage[1] = 0, 2, 1.5, -1, 1.3
PAINTER = Painter.of(BUSY, ATLAS, toy_footage())
SECONDS = st.floats(0, 31.75, width=32)
SPANS = st.tuples(st.integers(0, 20), st.integers(1, 10))


def drawn(number: Tensor, seconds: Tensor) -> Tensor:
    return PAINTER.draw(number, seconds, height=24, width=32)


def centroid(worlds: Worlds, second: float) -> tuple[float, float, float]:
    """Centre x and y and extent of what is not the grey ground, in pixels."""
    frame = Painter.of(worlds, ATLAS).draw(*times(second), height=45, width=80)[0]
    seen = (frame - 0.5).abs().sum(0)
    total = float(seen.sum())
    x = float((seen.sum(0) * torch.arange(80)).sum()) / total
    y = float((seen.sum(1) * torch.arange(45)).sum()) / total
    return x, y, total


@settings(max_examples=15, deadline=None)
@given(st.lists(st.tuples(st.integers(0, 5), SECONDS), min_size=1, max_size=8))
def test_a_batch_is_its_frames_alone(asked: list[tuple[int, float]]) -> None:
    number = torch.tensor([n for n, _ in asked])
    seconds = torch.tensor([s for _, s in asked])
    together = drawn(number, seconds)
    for k in range(len(asked)):
        alone = drawn(number[k : k + 1], seconds[k : k + 1])[0]
        torch.testing.assert_close(alone, together[k], rtol=1e-5, atol=2e-6)


@settings(max_examples=10, deadline=None)
@given(st.permutations(range(12)), st.integers(1, 11))
def test_order_and_cuts_change_nothing(order: list[int], cut: int) -> None:
    number, seconds = torch.arange(12) % 6, torch.arange(12) * 2.5 + 0.25
    straight = drawn(number, seconds)
    parts = [drawn(number[part], seconds[part]) for part in (order[:cut], order[cut:])]
    torch.testing.assert_close(torch.cat(parts), straight[order], rtol=1e-5, atol=2e-6)


@settings(max_examples=10, deadline=None)
@given(st.integers(0, 5), SECONDS)
def test_same_arguments_same_pixels(number: int, second: float) -> None:
    one, again = (drawn(torch.tensor([number]), torch.tensor([second])) for _ in range(2))
    assert torch.equal(one, again)
    other = Painter.of(BUSY.select([number]), ATLAS, toy_footage())
    moved = other.draw(*times(second), height=24, width=32)
    assert torch.equal(one, moved), "a world's number in its batch is no part of its looks"


@settings(max_examples=30, deadline=None)
@given(SPANS, st.integers(0, 127))
def test_an_appearance_is_visible_exactly_from_start_until_before_end(
    span: tuple[int, int], quarter: int
) -> None:
    start, second = span[0], quarter / 4
    worlds = appear(toy_worlds(), [IDS["red circle"]], span=(start, start + span[1]))
    frame = Painter.of(worlds, ATLAS).draw(*times(second), height=18, width=32)
    assert bool((frame - 0.5).abs().max() > 0.1) == (start <= second < start + span[1])


@settings(max_examples=20, deadline=None)
@given(st.floats(0.1, 0.3), st.floats(0, 0.9), st.floats(0.05, 0.6))
def test_what_moves_left_moves_left(way: float, early: float, later: float) -> None:
    first, second = 4 + 8 * early * 0.9, min(4 + 8 * (early * 0.9 + later * 0.5), 11.9)
    for motion, move in (
        (Motion.LEFT, (-way, 0)),
        (Motion.RIGHT, (way, 0)),
        (Motion.UP, (0, -way)),
        (Motion.DOWN, (0, way)),
    ):
        place = (0.5 - move[0] / 2, 0.5 - move[1] / 2, 0.09, 0.16)
        worlds = appear(
            toy_worlds(), [IDS["red circle"]], places=[place], move=(*move, 1, 0), motion=motion
        )
        (x1, y1, _), (x2, y2, _) = centroid(worlds, first), centroid(worlds, second)
        share = (second - first) / 8
        np.testing.assert_allclose((x2 - x1) / 80, move[0] * share, atol=0.01)
        np.testing.assert_allclose((y2 - y1) / 45, move[1] * share, atol=0.015)


@settings(max_examples=15, deadline=None)
@given(st.floats(1.3, 2.3), st.booleans())
def test_what_comes_closer_grows_where_it_is(growth: float, away: bool) -> None:
    factor = 1 / growth if away else growth
    place = (0.5, 0.5, 0.1, 0.1 * 16 / 9)
    worlds = appear(toy_worlds(), [IDS["red circle"]], places=[place], move=(0, 0, factor, 0))
    (x1, y1, size1), (x2, y2, size2) = centroid(worlds, 4), centroid(worlds, 8)
    assert abs(x1 - x2) < 0.5
    assert abs(y1 - y2) < 0.5
    # Half-way, the factor's root is reached, and areas go by its square.
    np.testing.assert_allclose(size2 / size1, factor, rtol=0.08)


@settings(max_examples=15, deadline=None)
@given(st.floats(-3, 3), st.floats(-2, 2))
def test_turning_is_tilting_by_so_much(turn: float, tilt: float) -> None:
    turning = appear(toy_worlds(), [IDS["cat"]], move=(0, 0, 1, turn))
    tilted = appear(toy_worlds(), [IDS["cat"]], places=[MIDDLE])
    turning.look[0, 0, 0], tilted.look[0, 0, 0] = tilt, tilt + turn / 2
    one, two = (
        Painter.of(worlds, ATLAS).draw(*times(8.0), height=24, width=40)
        for worlds in (turning, tilted)
    )
    torch.testing.assert_close(one, two, rtol=0, atol=1e-3)
    truth = Painter.of(turning, ATLAS).truth(*times(8.0)).geometry[0, 3:]
    want = torch.tensor([math.sin(tilt + turn / 2), math.cos(tilt + turn / 2)])
    torch.testing.assert_close(truth, want, rtol=0, atol=1e-5)


@given(st.lists(st.integers(0, 2**32 - 1), min_size=2, max_size=50, unique=True))
def test_hashes_of_different_numbers_differ(numbers: list[int]) -> None:
    hashed = mixed(torch.tensor(numbers))
    assert len(hashed.unique()) == len(numbers)
