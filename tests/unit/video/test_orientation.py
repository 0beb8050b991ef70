"""Frames are shown the way their file says, checked on matrices and on pixels."""

from __future__ import annotations

import struct

import numpy as np
import pytest

from timeviper.video.orientation import UPRIGHT, Orientation, parse_display_matrix

# (a, b, c, d) of the matrix -> what becomes of the picture [[1, 2], [3, 4]].
MATRICES = {
    (1, 0, 0, 1): [[1, 2], [3, 4]],
    (0, 1, -1, 0): [[3, 1], [4, 2]],
    (-1, 0, 0, -1): [[4, 3], [2, 1]],
    (0, -1, 1, 0): [[2, 4], [1, 3]],
    (-1, 0, 0, 1): [[2, 1], [4, 3]],
    (1, 0, 0, -1): [[3, 4], [1, 2]],
    (0, 1, 1, 0): [[1, 3], [2, 4]],
    (0, -1, -1, 0): [[4, 2], [3, 1]],
}


def packed(matrix: tuple[float, ...]) -> bytes:
    a, b, c, d = (round(value * 65536) for value in matrix)
    return struct.pack("=9i", a, b, 0, c, d, 0, 0, 0, 1 << 30)


def placed(matrix: tuple[int, ...], picture: np.ndarray) -> np.ndarray:
    """Move every pixel (x, y) of a square picture to (a x + c y, b x + d y), as the format says."""
    a, b, c, d = matrix
    size = len(picture)
    result = np.zeros_like(picture)
    for y in range(size):
        for x in range(size):
            column, row = a * x + c * y, b * x + d * y
            # Negative directions start at the far edge.
            result[row % size if b + d > 0 else row + size - 1][
                column % size if a + c > 0 else column + size - 1
            ] = picture[y][x]
    return result


@pytest.mark.parametrize("matrix", MATRICES)
def test_all_eight_ways(matrix: tuple[int, ...]) -> None:
    picture = np.array([[1, 2], [3, 4]], np.uint8)
    assert placed(matrix, picture).tolist() == MATRICES[matrix]
    stored = np.repeat(picture[:, :, None], 3, axis=2)
    shown = parse_display_matrix(packed(matrix)).apply(stored)
    assert shown[:, :, 0].tolist() == MATRICES[matrix]


def test_scaled_and_slightly_tilted_matrices_go_to_the_nearest() -> None:
    assert parse_display_matrix(packed((0, 2, -2, 0))) == Orientation(3)
    assert parse_display_matrix(packed((0.1, 0.9, -0.9, 0.1))) == Orientation(3)


@pytest.mark.parametrize("raw", [None, b"", b"short", bytes(36)])
def test_nothing_usable_is_upright(raw: bytes | None) -> None:
    assert parse_display_matrix(raw) == UPRIGHT


def test_sizes_and_degrees() -> None:
    assert Orientation(1).stored_size((10, 20)) == (20, 10)
    assert Orientation(2).stored_size((10, 20)) == (10, 20)
    assert [Orientation(turns).degrees for turns in range(4)] == [0, 90, 180, 270]


def test_turning_copies_nothing() -> None:
    stored = np.zeros((4, 6, 3), np.uint8)
    shown = Orientation(3, mirrored=True).apply(stored)
    assert shown.shape == (6, 4, 3)
    assert np.shares_memory(shown, stored)
