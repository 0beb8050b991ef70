"""The nameable things that appear in drawn worlds: their names and their drawings."""

from __future__ import annotations

import json
from functools import cache
from importlib import resources
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

_DATA = resources.files("timeviper.synth") / "data"
# Last words of names of several things, which "a" does not fit.
_PLURAL = frozenset(
    (
        "grapes", "cherries", "noodles", "pancakes", "blueberries", "beans", "jeans", "socks",
        "goggles", "briefs", "shorts", "beads", "skis", "masks", "fireworks", "books", "scissors",
        "sunglasses", "lips", "swords", "fries", "shoes", "prints",
    )
)  # fmt: skip
_SOUNDS_OPEN = ("umbrella", "hourglass")


@cache
def load_names() -> tuple[str, ...]:
    """Names of all objects, lower case, in the order of their ids."""
    return tuple(entry["name"] for entry in _listing("objects")["objects"])


@cache
def load_atlas(size: int = 96) -> NDArray[np.uint8]:
    """Drawings of the objects with premultiplied alpha, shape (object, size, size, 4).

    Args:
        size: pixels of a side; smaller ones are area averages of the stored cells.
    """
    return _cells("objects", size)


@cache
def load_signs(size: int = 96) -> NDArray[np.uint8]:
    """Drawings of shapes, words, numbers and last the arrow, as `load_atlas` gives objects."""
    return _cells("signs", size)


def article(name: str) -> str:
    """What stands before a name that was not told before: "a", "an", or "some" for plurals."""
    if name.split()[-1] in _PLURAL:
        return "some"
    return "an" if name in _SOUNDS_OPEN or name[0] in "aeio" else "a"


def _cells(sheet: str, size: int) -> NDArray[np.uint8]:
    listing = _listing(sheet)
    cell, columns = listing["cell"], listing["columns"]
    with (_DATA / f"{sheet}.webp").open("rb") as handle:
        pixels = np.asarray(Image.open(handle).convert("RGBA"), dtype=np.float32)
    rows = pixels.shape[0] // cell
    grid = pixels.reshape(rows, cell, columns, cell, 4).transpose(0, 2, 1, 3, 4)
    cells = grid.reshape(-1, cell, cell, 4)[: len(listing[sheet])].copy()
    cells[..., :3] *= cells[..., 3:] / 255
    if size != cell:
        cells = np.stack([_shrink(one, size) for one in cells])
    return np.clip(np.rint(cells), 0, 255).astype(np.uint8)


def _shrink(cell: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    bands = [
        Image.fromarray(cell[..., band]).resize((size, size), Image.Resampling.BOX)
        for band in range(4)
    ]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


@cache
def _listing(sheet: str) -> dict[str, Any]:
    return json.loads((_DATA / f"{sheet}.json").read_text(encoding="utf-8"))
