"""Compose one picture of a video: evenly spread frames, a line of time, and the moments found."""

from __future__ import annotations

import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

from timeviper.cli.timeline import Moment
from timeviper.core.errors import MediaError
from timeviper.processing.timestamps import format_time

_WIDTH, _MARGIN, _GAP = 1280, 40, 16
_STRIP_HEIGHT, _LINE_HEIGHT, _CARD_IMAGE = 70, 74, 210
_BACK, _CARD, _INK, _FAINT = "#14171c", "#1e232b", "#e8ecf1", "#8a94a3"
_COLORS = ("#4cc9f0", "#f72585", "#ffd166", "#06d6a0", "#9b8cff", "#ff7b54")


@dataclass(frozen=True)
class Card:
    """One question of the storyboard.

    Args:
        question: as asked.
        answer: as answered.
        moment: where the answer lies, or None.
        frame: uint8 (row, column, channel) RGB picture of that moment.
    """

    question: str
    answer: str
    moment: Moment | None
    frame: NDArray[np.uint8]


def write_storyboard(
    path: Path,
    *,
    title: str,
    duration_seconds: float,
    strip: NDArray[np.uint8],
    cards: Sequence[Card],
) -> None:
    """Draw the picture and write it as PNG, whole or not at all.

    Args:
        path: where to write.
        title: first line.
        duration_seconds: length of the video.
        strip: uint8 (frame, row, column, channel) frames spread evenly over it.
        cards: questions, answers and their moments.

    Raises:
        MediaError: the file cannot be written.
    """
    image = compose(title, duration_seconds, strip, cards)
    part = path.with_name(path.name + ".part")
    try:
        image.save(part, format="PNG")
        part.replace(path)
    except OSError as error:
        part.unlink(missing_ok=True)
        raise MediaError(
            want=f"room for a picture at {path}", got=error, do="choose another --out"
        ) from None


def compose(
    title: str, duration_seconds: float, strip: NDArray[np.uint8], cards: Sequence[Card]
) -> Image.Image:
    """The picture itself; arguments as in `write_storyboard`.

    Args:
        title: first line.
        duration_seconds: length of the video.
        strip: frames spread evenly over it.
        cards: questions, answers and their moments.

    Returns:
        An RGB image, 1280 pixels wide.
    """
    card_height = _CARD_IMAGE + 136
    line_top = _MARGIN + 50 + _STRIP_HEIGHT
    image = Image.new("RGB", (_WIDTH, line_top + _LINE_HEIGHT + card_height + _MARGIN), _BACK)
    draw = ImageDraw.Draw(image)
    draw.text((_MARGIN, _MARGIN - 8), title, fill=_INK, font=_font(26))
    _paste_strip(image, strip, _MARGIN + 46)
    _draw_line(draw, duration_seconds, [card.moment for card in cards], line_top)
    width = (_WIDTH - 2 * _MARGIN - _GAP * (max(len(cards), 1) - 1)) // max(len(cards), 1)
    for number, card in enumerate(cards):
        left = _MARGIN + number * (width + _GAP)
        box = (left, line_top + _LINE_HEIGHT, left + width, line_top + _LINE_HEIGHT + card_height)
        _draw_card(image, card, box, _COLORS[number % len(_COLORS)])
    return image


def _paste_strip(image: Image.Image, strip: NDArray[np.uint8], top: int) -> None:
    edges = np.linspace(_MARGIN, _WIDTH - _MARGIN, len(strip) + 1).astype(int).tolist()
    for frame, left, right in zip(strip, edges[:-1], edges[1:], strict=True):
        image.paste(_fitted(frame, right - left, _STRIP_HEIGHT), (left, top))


def _draw_line(
    draw: ImageDraw.ImageDraw, duration: float, moments: Sequence[Moment | None], top: int
) -> None:
    left, right = _MARGIN, _WIDTH - _MARGIN
    draw.rectangle((left, top + 12, right, top + 18), fill="#39414d")
    # Each moment has a lane of its own, so that two at the same time are both seen.
    lane = 24 / max(len(moments), 1)
    for number, moment in enumerate(moments):
        if moment is not None:
            scale = (right - left) / max(duration, 1e-9)
            first = min(left + moment.start_seconds * scale, right - 4)
            last = min(max(left + moment.end_seconds * scale, first + 4), right)
            color = _COLORS[number % len(_COLORS)]
            upper = top + 3 + number * lane
            draw.rectangle((first, upper, last, upper + lane - 1), fill=color)
    for fraction in (0.0, 0.25, 0.5, 0.75, 1.0):
        label, at = format_time(duration * fraction), left + (right - left) * fraction
        anchor = "la" if fraction == 0 else "ra" if fraction == 1 else "ma"
        draw.text((at, top + 32), label, fill=_FAINT, font=_font(15), anchor=anchor)


def _draw_card(image: Image.Image, card: Card, box: tuple[int, int, int, int], color: str) -> None:
    left, top, right, bottom = box
    draw = ImageDraw.Draw(image)
    draw.rounded_rectangle(box, radius=8, fill=_CARD)
    image.paste(_fitted(card.frame, right - left, _CARD_IMAGE), (left, top))
    draw.rectangle((left, top + _CARD_IMAGE, right, top + _CARD_IMAGE + 4), fill=color)
    y = top + _CARD_IMAGE + 16
    columns = max((right - left - 24) // 9, 8)
    for words, ink, points in ((card.question, _FAINT, 16), (card.answer, _INK, 19)):
        for line in textwrap.wrap(words, width=columns)[:3]:
            draw.text((left + 12, y), line, fill=ink, font=_font(points))
            y += points + 6
        y += 4
    if card.moment is not None and y < bottom - 24:
        start, end = card.moment.start_seconds, card.moment.end_seconds
        span = f"{format_time(start)} to {format_time(end)}"
        draw.text((left + 12, y), span, fill=color, font=_font(16))


def _fitted(frame: NDArray[np.uint8], width: int, height: int) -> Image.Image:
    """The frame cut to the box from its middle, so that nothing is stretched."""
    picture = Image.fromarray(frame)
    scale = max(width / picture.width, height / picture.height)
    size = (max(round(picture.width * scale), width), max(round(picture.height * scale), height))
    picture = picture.resize(size, Image.Resampling.LANCZOS)
    left, top = (size[0] - width) // 2, (size[1] - height) // 2
    return picture.crop((left, top, left + width, top + height))


def _font(points: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    return ImageFont.load_default(size=points)
