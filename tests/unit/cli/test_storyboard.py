"""The picture shows each moment in its place, and is written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from timeviper.cli.storyboard import Card, compose, write_storyboard
from timeviper.cli.timeline import Moment
from timeviper.core.errors import MediaError

GREEN = np.zeros((90, 160, 3), np.uint8) + np.array([0, 200, 0], np.uint8)
STRIP = np.full((12, 90, 160, 3), 90, np.uint8)


def _card(start: float, end: float, **words: str) -> Card:
    moment = Moment(label="x", start_seconds=start, end_seconds=end)
    return Card(words.get("question", "When?"), words.get("answer", "now."), moment, GREEN)


def _colored_columns(image: Image.Image, color: tuple[int, int, int]) -> np.ndarray:
    pixels = np.asarray(image)[160:200]
    return np.flatnonzero((pixels == np.array(color)).all(-1).any(0))


def test_a_moment_stands_at_its_share_of_the_line() -> None:
    image = compose("title", 100.0, STRIP, [_card(50, 60)])
    columns = _colored_columns(image, (0x4C, 0xC9, 0xF0))
    assert abs(columns.min() - 640) <= 2
    assert abs(columns.max() - 760) <= 2


def test_frames_are_shown_uncut_in_color() -> None:
    image = compose("title", 10.0, STRIP, [_card(1, 2), _card(3, 4)])
    share = (np.asarray(image) == [0, 200, 0]).all(-1).mean()
    assert share > 0.25


@pytest.mark.parametrize("cards", [0, 1, 5])
def test_any_number_of_cards_and_long_words_fit(cards: int) -> None:
    many = [_card(0, 1, question="why " * 80, answer="because " * 80) for _ in range(cards)]
    assert compose("t" * 300, 1.0, STRIP, many).width == 1280


def test_the_file_is_a_png_and_nothing_is_left_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "story.png"
    write_storyboard(path, title="t", duration_seconds=9, strip=STRIP, cards=[_card(1, 2)])
    with Image.open(path) as image:
        assert image.format == "PNG"
    assert list(tmp_path.iterdir()) == [path]


def test_an_unwritable_place_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    path = tmp_path / "missing" / "story.png"
    with pytest.raises(MediaError, match="out"):
        write_storyboard(path, title="t", duration_seconds=9, strip=STRIP, cards=[])
    assert list(tmp_path.iterdir()) == []
