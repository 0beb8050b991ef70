"""The things of the worlds: names that can be told apart, drawings that can be seen."""

from __future__ import annotations

import json
import re
import runpy
from importlib import resources
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from timeviper.synth.catalogue import ThingKind, ids_of, things
from timeviper.synth.objects import article, load_atlas, load_names, load_signs

# Seen at this size by a tower that looks at 96x96 pixels.
SEEN = 24
RECIPE = Path(__file__).resolve().parents[3] / "recipes" / "build_signs.py"


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


def closest(cells: NDArray[np.uint8]) -> tuple[float, int, int]:
    """Distance of the two drawings that look most alike on grey, and which they are."""
    look = cells.astype(np.float64)
    on_grey = look[..., :3] + 128 * (1 - look[..., 3:] / 255)
    flat = on_grey.reshape(len(look), -1)
    square = (flat**2).sum(1)
    gap = np.sqrt(np.maximum(square[:, None] + square[None] - 2 * flat @ flat.T, 0))
    np.fill_diagonal(gap, np.inf)
    first, second = np.unravel_index(gap.argmin(), gap.shape)
    return float(gap.min() / np.sqrt(flat.shape[1])), int(first), int(second)


def test_no_two_drawings_look_alike() -> None:
    gap, first, second = closest(load_atlas(SEEN))
    assert gap > 18, (load_names()[first], load_names()[second])


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("cat", "a"),
        ("apple", "an"),
        ("octopus", "an"),
        ("umbrella", "an"),
        ("hourglass", "an"),
        ("unicorn", "a"),
        ("house", "a"),
        ("grapes", "some"),
        ("scissors", "some"),
        ("french fries", "some"),
        ("ballet shoes", "some"),
        ("compass", "a"),
        ("abacus", "an"),
    ],
)
def test_article_follows_sound_and_number(name: str, want: str) -> None:
    assert article(name) == want


def test_every_name_has_an_article() -> None:
    given = {name: article(name) for name in load_names()}
    assert set(given.values()) == {"a", "an", "some"}
    # What ends as plurals do and is none.
    alone = {"abacus", "bus", "circus", "compass", "hibiscus", "hourglass", "octopus"}
    alone |= {"moon grass"}
    assert {n for n in given if n.endswith("s") and given[n] != "some"} == alone


def test_signs_have_one_cell_for_every_other_thing_and_one_for_the_arrow() -> None:
    signs = [thing for thing in things() if thing.kind is not ThingKind.OBJECT]
    assert load_signs(96).shape == (len(signs) + 1, 96, 96, 4)
    data = resources.files("timeviper.synth") / "data"
    listing = json.loads((data / "signs.json").read_text(encoding="utf-8"))
    assert listing["signs"] == [*(sign.label for sign in signs), "arrow"], (
        "the catalogue has changed: run recipes/build_signs.py"
    )
    assert "CC0" in listing["licence"]
    assert len((data / "signs.webp").read_bytes()) < 400 * 1024


def test_signs_are_premultiplied_and_fill_their_cells() -> None:
    signs = load_signs(96)
    assert (signs[..., :3].astype(int) <= signs[..., 3:].astype(int) + 1).all()
    solid = signs[..., 3] > 128
    assert solid.any(2).sum(1).min() > 60
    words = solid[96 : 96 + len(ids_of(ThingKind.WORD))]
    assert words.any(1).sum(1).min() >= 88, "a word fills the width of its cell"
    assert words.any(2).sum(1).min() >= 90


def test_no_two_signs_look_alike() -> None:
    gap, first, second = closest(load_signs(SEEN))
    names = [thing.name for thing in things() if thing.kind is not ThingKind.OBJECT]
    assert gap > 12, (names[first], names[second])


def test_the_arrow_points_right() -> None:
    cover = load_signs(96)[-1][..., 3].astype(float).sum(0)
    assert cover[52:64].mean() > 1.8 * cover[10:40].mean()
    assert cover[86:].mean() < cover[56:64].mean() / 2


def test_building_again_gives_what_ships() -> None:
    """A few cells only: the whole sheet takes ten seconds."""
    recipe = runpy.run_path(str(RECIPE))
    for number in (0, 60, 120, 400):
        label = [t for t in things() if t.kind is not ThingKind.OBJECT][number]
        made = np.asarray(recipe["tidy"](recipe["draw_cell"](label)), dtype=np.float32)
        made[..., :3] *= made[..., 3:] / 255
        np.testing.assert_allclose(np.rint(made), load_signs(96)[number], atol=1)
