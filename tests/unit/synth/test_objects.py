"""The things of the worlds: names that can be told apart, drawings that can be seen."""

from __future__ import annotations

import json
import re
from importlib import resources

import numpy as np
import pytest

from timeviper.synth.objects import article, load_atlas, load_names

# Seen at this size by a tower that looks at 96x96 pixels.
SEEN = 24


def test_names_are_unique_lower_case_words() -> None:
    names = load_names()
    assert len(names) >= 400
    assert len(set(names)) == len(names)
    for name in names:
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*( [a-z]+)?", name), name


def test_common_things_are_among_them() -> None:
    wanted = {"cat", "dog", "pizza", "fire engine", "umbrella", "guitar", "rocket", "octopus"}
    # What looked like something else at a glance was left out; the rest must not go by accident.
    assert len(wanted & set(load_names())) >= len(wanted) - 1


def test_listing_states_licence_and_geometry() -> None:
    data = resources.files("timeviper.synth") / "data"
    listing = json.loads((data / "objects.json").read_text(encoding="utf-8"))
    assert "Apache-2.0" in listing["licence"]
    assert "Open Font License" in listing["licence"]
    assert listing["cell"] == 96
    assert len(listing["objects"]) == len(load_names())
    characters = [entry["character"] for entry in listing["objects"]]
    assert len(set(characters)) == len(characters)


def test_atlas_stays_small_enough_to_ship() -> None:
    packed = (resources.files("timeviper.synth") / "data" / "objects.webp").read_bytes()
    assert len(packed) <= 2 * 2**20


@pytest.mark.parametrize("size", [96, 48, SEEN])
def test_atlas_has_one_premultiplied_cell_a_name(size: int) -> None:
    atlas = load_atlas(size)
    assert atlas.dtype == np.uint8
    assert atlas.shape == (len(load_names()), size, size, 4)
    # Premultiplied: no colour is brighter than its alpha, up to one step of rounding.
    assert (atlas[..., :3].astype(int) <= atlas[..., 3:].astype(int) + 1).all()


def test_every_drawing_is_visible_and_fills_its_cell() -> None:
    alpha = load_atlas(96)[..., 3] > 128
    share = alpha.mean((1, 2))
    assert share.min() > 0.05, load_names()[int(share.argmin())]
    wide, tall = alpha.any(1).sum(1), alpha.any(2).sum(1)
    assert np.maximum(wide, tall).min() > 64


def test_smaller_atlas_is_the_average_of_the_large_one() -> None:
    large = load_atlas(96).astype(float)
    mean = large.reshape(len(large), 48, 2, 48, 2, 4).mean((2, 4))
    assert np.abs(mean - load_atlas(48)).max() <= 1.0


def test_no_two_drawings_look_alike() -> None:
    look = load_atlas(SEEN).astype(np.float64)
    on_grey = look[..., :3] + 128 * (1 - look[..., 3:] / 255)
    flat = on_grey.reshape(len(look), -1)
    square = (flat**2).sum(1)
    gap = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * flat @ flat.T, 0))
    gap /= np.sqrt(flat.shape[1])
    np.fill_diagonal(gap, np.inf)
    first, second = np.unravel_index(gap.argmin(), gap.shape)
    assert gap.min() > 18, (load_names()[first], load_names()[second])


@pytest.mark.parametrize(
    ("name", "want"),
    [("cat", "a"), ("apple", "an"), ("umbrella", "an"), ("unicorn", "a"), ("octopus", "an")],
)
def test_article_follows_the_sound(name: str, want: str) -> None:
    assert article(name) == want


def test_every_name_has_an_article() -> None:
    assert {article(name) for name in load_names()} == {"a", "an"}
