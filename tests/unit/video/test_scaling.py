"""Decoded frames become RGB arrays of the size asked for."""

from __future__ import annotations

import av
import numpy as np
import pytest

from tests.unit.video.files import picture
from timeviper.video.orientation import Orientation
from timeviper.video.scaling import FrameScaler


def frame(pixels: np.ndarray) -> av.VideoFrame:
    return av.VideoFrame.from_ndarray(pixels, format="rgb24")


@pytest.mark.parametrize("size", [(1, 1), (7, 13), (48, 64), (100, 30)])
def test_any_size_even_where_rows_are_padded(size: tuple[int, int]) -> None:
    shown = FrameScaler(size).convert(frame(picture(3, (48, 64))))
    assert shown.shape == (*size, 3)
    assert shown.dtype == np.uint8


@pytest.mark.parametrize("size", [(48, 64), (17, 33), (5, 1)])
def test_the_same_size_and_format_is_the_same_picture(size: tuple[int, int]) -> None:
    pixels = picture(1, size)
    np.testing.assert_array_equal(FrameScaler(size).convert(frame(pixels)), pixels)


def test_scaling_down_averages() -> None:
    checks = np.indices((64, 64)).sum(0) % 2 * 200
    pixels = np.repeat(checks[:, :, None], 3, axis=2).astype(np.uint8)
    shown = FrameScaler((8, 8)).convert(frame(pixels))
    assert np.abs(shown.astype(int) - 100).max() <= 4


def test_colours_survive_yuv() -> None:
    pixels = np.zeros((32, 32, 3), np.uint8)
    pixels[:] = (200, 60, 30)
    stored = frame(pixels).reformat(format="yuv420p")
    shown = FrameScaler((16, 16)).convert(stored)
    assert np.abs(shown.astype(int) - (200, 60, 30)).max() <= 4


def test_turned_frames_have_the_size_asked_for() -> None:
    pixels = picture(2, (20, 40))
    shown = FrameScaler((40, 20), Orientation(1)).convert(frame(pixels))
    np.testing.assert_array_equal(shown, np.rot90(pixels))


def test_results_do_not_share_memory() -> None:
    scaler = FrameScaler((24, 32))
    first = scaler.convert(frame(picture(1, (48, 64))))
    kept = first.copy()
    scaler.convert(frame(picture(30, (48, 64))))
    np.testing.assert_array_equal(first, kept)
