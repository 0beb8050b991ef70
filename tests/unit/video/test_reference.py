"""The oracle itself, checked on frames that say who they are."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np

from tests.unit.video.files import RECIPES, Recipe, encode, picture
from timeviper.video.reference import decode_all


def test_every_frame_once_and_in_order(tmp_path: Path) -> None:
    recipe = Recipe(codec="ffv1", pixels="bgr0", options={}, count=20)
    frames, times = decode_all(encode(tmp_path / "exact.mkv", recipe), recipe.size)
    want = np.stack([picture(number, recipe.size) for number in range(20)])
    np.testing.assert_array_equal(frames, want)
    np.testing.assert_allclose(times, np.arange(20) / 24, atol=6e-4)


def test_order_of_presentation_where_storage_differs(video: Callable[[str], Path]) -> None:
    for name in ("h264.mp4", "h264.avi"):
        frames, times = decode_all(video(name), RECIPES[name].size)
        assert (np.diff(times) > 0).all()
        want = np.stack([picture(number, RECIPES[name].size) for number in range(48)])
        distance = np.abs(frames[:, None].astype(np.int16) - want[None]).mean((2, 3, 4))
        assert distance.argmin(1).tolist() == list(range(48))
