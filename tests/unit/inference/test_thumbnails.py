"""Small pictures: evenly spread, of the video's shape, JPEG."""

from __future__ import annotations

import io

import numpy as np
import pytest
from PIL import Image

from tests.toy_engine import write_video
from timeviper.inference.thumbnails import thumbnails
from timeviper.video.source import open_video


@pytest.fixture(scope="module")
def film(tmp_path_factory):
    """Brighter every second."""
    grey = np.arange(12, dtype=np.uint8)[:, None, None, None] * 20
    frames = np.broadcast_to(grey, (12, 48, 96, 3)).copy()
    return open_video(write_video(tmp_path_factory.mktemp("film") / "a.mp4", frames))


def test_they_are_spread_over_the_part_that_was_read(film):
    pictures = thumbnails(film, start=2.0, end=10.0, count=4)
    assert [picture.seconds for picture in pictures] == [3.0, 5.0, 7.0, 9.0]
    greys = [_read(picture.jpeg).mean() for picture in pictures]
    assert greys == pytest.approx([60, 100, 140, 180], abs=8)


def test_they_keep_the_shape_of_the_video(film):
    (picture,) = thumbnails(film, start=0.0, end=12.0, count=1)
    assert _read(picture.jpeg).shape == (72, 144, 3)
    assert len(picture.jpeg) < 2**16


@pytest.mark.parametrize(("height", "width", "want"), [(4, 400, 512), (400, 4, 1)])
def test_strange_shapes_stay_small(height, width, want):
    frames = np.zeros((2, height, width, 3), np.uint8)
    (picture,) = thumbnails(open_video(frames), start=0.0, end=2.0, count=1)
    assert _read(picture.jpeg).shape == (72, want, 3)


def _read(jpeg: bytes) -> np.ndarray:
    with Image.open(io.BytesIO(jpeg)) as picture:
        assert picture.format == "JPEG"
        return np.asarray(picture)
