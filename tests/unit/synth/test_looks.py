"""Looks: everything begins inside the frame, moves the way its motion says, and can be seen."""

from __future__ import annotations

import numpy as np
import pytest

from timeviper.synth.casting import Role
from timeviper.synth.catalogue import ThingKind, ids_of, kind_of
from timeviper.synth.sample import Setting, sample_worlds, stage
from timeviper.synth.world import BLOBS, Motion, Worlds

TRAVELS = {
    Motion.LEFT: (-1, 0),
    Motion.RIGHT: (1, 0),
    Motion.UP: (0, -1),
    Motion.DOWN: (0, 1),
}
EDGE = 1e-5


@pytest.fixture(scope="module")
def worlds() -> Worlds:
    return sample_worlds(np.random.default_rng(3), 300, 128)


def of_motion(worlds: Worlds, motion: Motion) -> np.ndarray:
    """Which appearances move so, shape (world, event)."""
    there = worlds.thing[..., 0] >= 0
    return there & (worlds.motion == list(Motion).index(motion))


def staged(thing: int, motion: Motion, seconds: int = 10, count: int = 40) -> Worlds:
    cast = (Role(thing=thing, motion=motion),)
    times = np.array([[2, 2 + seconds]])
    rng = np.random.default_rng(0)
    return stage(rng, [cast] * count, [times] * count, num_frames=64, setting=Setting())


def test_every_drawing_begins_inside_the_frame(worlds: Worlds) -> None:
    there = worlds.thing >= 0
    centre, half = worlds.place[..., :2][there], worlds.place[..., 2:][there]
    assert half.min() > 0.03
    assert (centre - half).min() >= -EDGE
    assert (centre + half).max() <= 1 + EDGE


def test_what_travels_ends_inside_the_frame(worlds: Worlds) -> None:
    for motion in TRAVELS:
        at = of_motion(worlds, motion)
        end = worlds.place[at][:, 0, :2] + worlds.move[at][:, :2]
        half = worlds.place[at][:, 0, 2:]
        assert len(end) > 20
        assert (end - half).min() >= -EDGE
        assert (end + half).max() <= 1 + EDGE


def test_what_comes_closer_stays_in_sight(worlds: Worlds) -> None:
    at = of_motion(worlds, Motion.CLOSER)
    growth = worlds.move[at][:, 2]
    centre, half = worlds.place[at][:, 0, :2], worlds.place[at][:, 0, 2:] * growth[:, None]
    low, high = np.clip(centre - half, 0, 1), np.clip(centre + half, 0, 1)
    share = ((high - low) / (2 * half)).prod(axis=1)
    # A large thing may leave the frame a little, as large things do.
    assert share.min() > 0.45
    assert half.max() < 0.5


@pytest.mark.parametrize(("motion", "way"), list(TRAVELS.items()))
def test_what_travels_goes_its_way_and_far_enough(
    worlds: Worlds, motion: Motion, way: tuple[int, int]
) -> None:
    drift = worlds.move[of_motion(worlds, motion)][:, :2]
    along = drift @ np.array(way)
    assert along.min() >= 0.2 - EDGE
    assert np.abs(drift - along[:, None] * np.array(way)).max() < EDGE


def test_what_does_not_travel_stays_in_its_place(worlds: Worlds) -> None:
    for motion in set(Motion) - set(TRAVELS):
        assert not worlds.move[of_motion(worlds, motion)][:, :2].any(), motion


def test_growth_is_of_what_comes_closer_or_goes_away(worlds: Worlds) -> None:
    closer = worlds.move[of_motion(worlds, Motion.CLOSER)][:, 2]
    away = worlds.move[of_motion(worlds, Motion.AWAY)][:, 2]
    assert closer.min() >= 1.7 - EDGE
    assert closer.max() <= 2.3 + EDGE
    assert away.min() >= 1 / 2.3 - EDGE
    assert away.max() <= 1 / 1.7 + EDGE
    for motion in set(Motion) - {Motion.CLOSER, Motion.AWAY}:
        assert (worlds.move[of_motion(worlds, motion)][:, 2] == 1).all(), motion


def test_only_what_turns_turns_to_either_side(worlds: Worlds) -> None:
    at = of_motion(worlds, Motion.TURNING)
    turn = np.degrees(worlds.move[at][:, 3])
    assert (np.abs(turn) >= 70 - 1e-3).all()
    assert (np.abs(turn) <= 130 + 1e-3).all()
    assert {-1, 1} == set(np.sign(turn))
    # It begins and ends as far from upright, give or take the tilt of all things.
    middle = np.degrees(worlds.look[at][:, 0]) + turn / 2
    assert np.abs(middle).max() < 35
    for motion in set(Motion) - {Motion.TURNING}:
        assert not worlds.move[of_motion(worlds, motion)][:, 3].any(), motion


def test_text_stands_upright_and_is_never_mirrored(worlds: Worlds) -> None:
    text = worlds.thing[..., 0] >= ids_of(ThingKind.WORD).start
    tilt, side = worlds.look[text].T
    assert not tilt.any()
    assert (side == 1).all()
    turns = of_motion(worlds, Motion.TURNING)
    pictures = worlds.look[(worlds.thing[..., 0] >= 0) & ~text & ~turns]
    assert {-1, 1} == set(pictures[:, 1])
    assert 0.05 < pictures[:, 0].std() < 0.15


@pytest.mark.parametrize("kind", list(ThingKind))
@pytest.mark.parametrize("motion", [Motion.STILL, Motion.LEFT, Motion.DOWN])
def test_things_alone_are_large_enough_to_be_known(kind: ThingKind, motion: Motion) -> None:
    worlds = staged(ids_of(kind)[5], motion)
    wide, high = worlds.place[:, 0, 0, 2], worlds.place[:, 0, 0, 3]
    if kind is ThingKind.WORD:
        assert wide.min() >= 0.26 - EDGE
    elif kind is ThingKind.NUMBER:
        assert high.min() >= 0.16 - EDGE
    else:
        assert high.min() >= 0.21 - EDGE
        np.testing.assert_allclose(wide / high, 9 / 16, rtol=1e-5, err_msg="square on the screen")


def test_a_caption_stands_below_its_picture(worlds: Worlds) -> None:
    text = worlds.thing[..., 1] >= ids_of(ThingKind.WORD).start
    figure, label = worlds.place[text][:, 0], worlds.place[text][:, 1]
    assert len(figure) > 100
    # Cells may touch by a hair: no drawing fills its cell to the corners.
    assert (figure[:, 1] + figure[:, 3] <= label[:, 1] - label[:, 3] + 0.031).all()
    np.testing.assert_allclose(figure[:, 0], label[:, 0], err_msg="one above the other")


def test_an_arrow_stands_between_its_things_and_points_right(worlds: Worlds) -> None:
    points = worlds.thing[..., 2] >= 0
    first, second, arrow = (worlds.place[points][:, slot] for slot in range(3))
    assert len(first) > 100
    assert (first[:, 0] < arrow[:, 0]).all()
    assert (arrow[:, 0] < second[:, 0]).all()
    for one, two in ((first, arrow), (arrow, second)):
        # Cells may touch by a hair: no drawing fills its cell to the corners.
        assert (one[:, 0] + one[:, 2] <= two[:, 0] - two[:, 2] + 0.025).all(), "they overlap"


def test_cards_do_not_move(worlds: Worlds) -> None:
    cards = worlds.thing[..., 1] >= 0
    assert all(kind_of(int(i)) is not None for i in worlds.thing[cards][:, 1])
    np.testing.assert_array_equal(worlds.move[cards], np.tile([0, 0, 1, 0], (cards.sum(), 1)))


def test_some_appearances_are_partly_covered(worlds: Worlds) -> None:
    cover = worlds.cover[worlds.thing[..., 0] >= 0]
    there = cover[:, 2] > 0
    assert 0.1 < there.mean() < 0.2
    assert cover[there, 2].max() <= 0.09 + EDGE
    assert cover.min() >= 0
    assert cover.max() <= 1


def test_backgrounds_follow_each_other_without_end_or_gap() -> None:
    worlds = sample_worlds(np.random.default_rng(0), 100, 600)
    assert (worlds.scene_start[:, 0] == 0).all()
    for row in worlds.scene_start:
        starts = row[np.isfinite(row)]
        assert (np.diff(starts) >= 15 - 1e-3).all()
        assert (np.diff(starts) <= 120 + 1e-3).all()
        assert starts[-1] < 600
        # The last background that fits is there: nobody looks at one for longer than two minutes.
        assert 600 - starts[-1] <= 120 + 1e-3
    shape = worlds.scene_start.shape
    assert worlds.blobs.shape == (*shape, 3, *BLOBS)
    assert worlds.colours.min() >= 0
    assert worlds.colours.max() <= 1
    assert worlds.colours[:, 0].mean((1, 2)).std() > 0.1
    assert 0.3 < (worlds.texture[..., 1] > 0).mean() < 0.5


def test_looks_do_not_depend_on_more_than_chance_and_cast() -> None:
    one, two = (staged(3, Motion.LEFT, count=2) for _ in range(2))
    np.testing.assert_array_equal(one.place, two.place)
    longer = staged(3, Motion.TURNING, seconds=20)
    short = staged(3, Motion.TURNING, seconds=10)
    # How far a thing turns is no matter of how long it is there.
    assert longer.move[:, 0, 3].all()
    np.testing.assert_array_equal(longer.move[:, 0], short.move[:, 0])
