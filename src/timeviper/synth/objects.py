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


@cache
def load_names() -> tuple[str, ...]:
    """Names of all objects, lower case, in the order of their ids."""
    return tuple(entry["name"] for entry in _listing()["objects"])


@cache
def load_atlas(size: int = 96) -> NDArray[np.uint8]:
    """Drawings of the objects with premultiplied alpha, shape (object, size, size, 4).

    Args:
        size: pixels of a side; smaller ones are area averages of the stored cells.
    """
    listing = _listing()
    return _cells("objects.webp", listing, len(listing["objects"]), size)


@cache
def load_signs(size: int = 96) -> NDArray[np.uint8]:
    """Drawings of all other things in the order of the catalogue, last the arrow; as above."""
    listing = json.loads((_DATA / "signs.json").read_text(encoding="utf-8"))
    return _cells("signs.webp", listing, len(listing["signs"]), size)


def _cells(file: str, listing: dict[str, Any], count: int, size: int) -> NDArray[np.uint8]:
    cell, columns = listing["cell"], listing["columns"]
    with (_DATA / file).open("rb") as handle:
        sheet = np.asarray(Image.open(handle).convert("RGBA"), dtype=np.float32)
    rows = sheet.shape[0] // cell
    grid = sheet.reshape(rows, cell, columns, cell, 4).transpose(0, 2, 1, 3, 4)
    cells = grid.reshape(-1, cell, cell, 4)[:count].copy()
    cells[..., :3] *= cells[..., 3:] / 255
    if size != cell:
        cells = np.stack([_shrink(one, size) for one in cells])
    return np.clip(np.rint(cells), 0, 255).astype(np.uint8)


# Names of several things, which "a" does not fit.
_PLURAL = frozenset(
    (
        "grapes", "cherries", "noodles", "pancakes", "blueberries", "beans", "jeans", "socks",
        "goggles", "briefs", "shorts", "beads", "skis", "masks", "fireworks", "books", "scissors",
        "sunglasses", "lips", "swords", "fries", "shoes", "prints",
    )
)  # fmt: skip
_AN = frozenset(("umbrella", "hourglass"))


def article(name: str) -> str:
    """What stands before a name that was not told before: "a", "an", or "some" for plurals."""
    if name.split()[-1] in _PLURAL:
        return "some"
    return "an" if name[0] in "aeio" or name in _AN else "a"


def _shrink(cell: NDArray[np.float32], size: int) -> NDArray[np.float32]:
    bands = [
        Image.fromarray(cell[..., band]).resize((size, size), Image.Resampling.BOX)
        for band in range(4)
    ]
    return np.stack([np.asarray(band) for band in bands], axis=-1)


@cache
def _listing() -> dict[str, Any]:
    return json.loads((_DATA / "objects.json").read_text(encoding="utf-8"))
