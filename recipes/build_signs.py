"""Draw the shapes, words, numbers and the arrow of the drawn worlds into one atlas file.

command:  python recipes/build_signs.py
needs:    Pillow with FreeType and WebP; run it again whenever `synth/catalogue.py` changes
result:   src/timeviper/synth/data/signs.webp and signs.json, the same bytes each run; 20 s
"""

from __future__ import annotations

import argparse
import io
import json
import math
import os
from pathlib import Path

from PIL import Image, ImageChops, ImageDraw, ImageFont

from timeviper.synth.catalogue import Thing, ThingKind, things

DATA = Path(__file__).resolve().parents[1] / "src" / "timeviper" / "synth" / "data"
CELL = 96
COLUMNS = 20
# Drawn that many times larger, then averaged: smooth edges from plain polygons.
FINE = 4
LICENCE = (
    "Shapes and arrow: ours, Apache-2.0. Words and numbers: set in Aileron by Sora Sagano, CC0 1.0 "
    "(public domain), the font inside Pillow."
)

WHITE, INK = (255, 255, 255), (16, 16, 20)
FILLS = {
    "red": (225, 30, 35),
    "orange": (250, 130, 10),
    "yellow": (250, 225, 20),
    "green": (25, 155, 55),
    "blue": (30, 85, 225),
    "purple": (140, 45, 180),
    "black": (12, 12, 14),
    "white": (250, 250, 250),
}
# Stripes are narrower than the colour between them, which gives the name.
STRIPES = {"yellow": (120, 90, 0), "black": (150, 150, 150), "white": (120, 120, 120)}
DARK_EDGED = ("orange", "yellow", "white")

Pixels = Image.Image


def _polygon(corners: int, turn: float, radius: float = 0.5) -> list[tuple[float, float]]:
    angles = [turn + 2 * math.pi * k / corners for k in range(corners)]
    return [(0.5 + radius * math.cos(a), 0.5 + radius * math.sin(a)) for a in angles]


def draw_mask(form: str, margin: int, grown: int = 0) -> Pixels:
    """Coverage of a form inside a cell, fine pixels; `grown` widens it on all sides."""
    side = CELL * FINE
    mask = Image.new("L", (side, side))
    pen = ImageDraw.Draw(mask)
    span = side - 2 * margin

    def at(points: list[tuple[float, float]]) -> list[tuple[float, float]]:
        return [(margin + x * span, margin + y * span) for x, y in points]

    low, high = margin - grown, side - margin + grown
    third, edge = span * 0.34, grown
    if form in ("circle", "ring"):
        pen.ellipse((low, low, high, high), fill=255)
    if form == "ring":
        hole = margin + span * 0.27 + edge
        pen.ellipse((hole, hole, side - hole, side - hole), fill=0)
    elif form == "square":
        inset = span * 0.06
        pen.rectangle((low + inset, low + inset, high - inset, high - inset), fill=255)
    elif form == "cross":
        pen.rectangle((margin + third - edge, low, side - margin - third + edge, high), fill=255)
        pen.rectangle((low, margin + third - edge, high, side - margin - third + edge), fill=255)
    elif form in ("triangle", "hexagon"):
        points = [(0.5, 0.02), (1.0, 0.95), (0.0, 0.95)]
        corners = at(points if form == "triangle" else _polygon(6, 0.0, 0.52))
        pen.polygon(corners, fill=255)
        pen.line([*corners, *corners[:2]], fill=255, width=2 * grown, joint="curve")
    return mask


def draw_shape(label: str) -> Pixels:
    """One filled form with a thin edge that can be seen before its own colour."""
    *texture, colour, form = label.split()
    side, edge = CELL * FINE, 3 * FINE
    outline = INK if colour in DARK_EDGED else WHITE
    inner, outer = draw_mask(form, 5 * FINE), draw_mask(form, 5 * FINE, edge)
    body = Image.new("RGB", (side, side), FILLS[colour])
    if texture:
        pen = ImageDraw.Draw(body)
        step = side / 4.5
        for k in range(-7, 14):
            pen.line(
                (k * step, -step, k * step + side + 2 * step, side + step),
                fill=STRIPES.get(colour, WHITE),
                width=int(step * 0.28),
            )
    picture = Image.new("RGB", (side, side), outline)
    picture.paste(body, mask=inner)
    picture.putalpha(outer)
    return _reduced(picture)


def draw_text(text: str) -> Pixels:
    """Bold capitals or digits, white with a dark edge, filling a cell; one digit fills half."""
    font = ImageFont.load_default(160)
    sheet = Image.new("L", (1600, 360))
    thick, edge = 6, 15
    pens = []
    for stroke in (thick + edge, thick):
        cover = sheet.copy()
        # Letters are set apart: their dark edges touch, their white bodies do not.
        across = 60.0
        for letter in text.upper():
            pen = ImageDraw.Draw(cover)
            pen.text((across, 60), letter, font=font, fill=255, stroke_width=stroke)
            across += font.getlength(letter) + 2 * thick + edge * 0.8
        pens.append(cover)
    outer, inner = pens
    picture = Image.composite(
        Image.new("RGB", sheet.size, WHITE), Image.new("RGB", sheet.size, INK), inner
    )
    picture.putalpha(outer)
    box = outer.getbbox()
    if box is None:
        raise SystemExit(f"the font draws nothing for {text!r}")
    fill = CELL - 2 if len(text) > 1 else CELL * 3 // 5
    drawn = picture.crop(box).resize((fill, CELL - 2), Image.Resampling.BOX)
    cell = Image.new("RGBA", (CELL, CELL))
    cell.paste(drawn, ((CELL - fill) // 2, 1))
    return cell


def draw_arrow() -> Pixels:
    """An arrow that points right, white with a dark edge."""
    side = CELL * FINE
    points = [(4, 36), (52, 36), (52, 12), (92, 48), (52, 84), (52, 60), (4, 60)]
    corners = [(x * FINE, y * FINE) for x, y in points]
    inner, outer = Image.new("L", (side, side)), Image.new("L", (side, side))
    for mask, width in ((inner, 0), (outer, 7 * FINE)):
        pen = ImageDraw.Draw(mask)
        pen.polygon(corners, fill=255)
        pen.line([*corners, *corners[:2]], fill=255, width=width, joint="curve")
    picture = Image.composite(
        Image.new("RGB", (side, side), WHITE), Image.new("RGB", (side, side), INK), inner
    )
    picture.putalpha(outer)
    return _reduced(picture)


def _reduced(picture: Pixels) -> Pixels:
    return picture.reduce(FINE)


def draw_cell(thing: Thing) -> Pixels:
    """The drawing of one thing that is no object."""
    return draw_shape(thing.label) if thing.kind is ThingKind.SHAPE else draw_text(thing.label)


def tidy(cell: Pixels) -> Pixels:
    """Four levels, no colour where nothing shows: a small file, and the drawn picture is smooth."""
    bands = [band.point(lambda v: (v + 42) // 85 * 85) for band in cell.split()]
    shown = bands[3].point(lambda v: 255 if v else 0)
    return Image.merge("RGBA", [ImageChops.darker(band, shown) for band in bands[:3]] + bands[3:])


def build(folder: Path) -> tuple[int, int]:
    """Write signs.webp (row-major cells) and signs.json; returns number of cells and bytes."""
    signs = [thing for thing in things() if thing.kind is not ThingKind.OBJECT]
    cells = [tidy(cell) for cell in (*map(draw_cell, signs), draw_arrow())]
    atlas = Image.new("RGBA", (COLUMNS * CELL, -(-len(cells) // COLUMNS) * CELL))
    for index, cell in enumerate(cells):
        row, column = divmod(index, COLUMNS)
        atlas.paste(cell, (column * CELL, row * CELL))
    packed = io.BytesIO()
    atlas.save(packed, format="WEBP", lossless=True, quality=100, method=6)
    labels = [*(thing.label for thing in signs), "arrow"]
    table = {"licence": LICENCE, "cell": CELL, "columns": COLUMNS, "signs": labels}
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in (
        ("signs.webp", packed.getvalue()),
        ("signs.json", (json.dumps(table, indent=0) + "\n").encode()),
    ):
        (folder / f"{name}.part").write_bytes(content)
        os.replace(folder / f"{name}.part", folder / name)
    return len(cells), packed.tell()


def main() -> None:
    """Read the arguments and build the atlas."""
    parser = argparse.ArgumentParser(description="Draw the signs of the synthetic worlds.")
    parser.add_argument("--out", type=Path, default=DATA)
    number, size = build(parser.parse_args().out)
    print(f"{number} signs, {size / 2**10:.0f} KiB")


if __name__ == "__main__":
    main()
