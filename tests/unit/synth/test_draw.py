"""Drawn frames show what the world's arrays say, at any size, without a loop over frames."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.unit.synth.toys import (
    IDS,
    MIDDLE,
    alter,
    appear,
    busy_worlds,
    times,
    toy_footage,
    toy_worlds,
)
from timeviper.core.errors import RequestError
from timeviper.synth.catalogue import arrow_id, things
from timeviper.synth.draw import Painter, atlas_tensor
from timeviper.synth.objects import load_atlas, load_names, load_signs
from timeviper.synth.world import Change, Worlds

ATLAS = atlas_tensor(96)
CARD = ((0.5, 0.32, 0.16, 0.28), (0.5, 0.84, 0.3, 0.14))
LINK = ((0.24, 0.5, 0.18, 0.32), (0.76, 0.5, 0.18, 0.32), (0.5, 0.5, 0.07, 0.12))


def frame_of(worlds: Worlds, second: float, height: int = 90, width: int = 160) -> Tensor:
    """One frame of the first world, shape (3, height, width)."""
    return Painter.of(worlds, ATLAS).draw(*times(second), height=height, width=width)[0]


def drawn_box(frame: Tensor) -> tuple[float, float, float, float]:
    """Left, right, top, bottom of what is not the grey ground, as shares of the frame."""
    seen = ((frame - 0.5).abs() > 0.02).any(0)
    down, across = seen.any(1).nonzero()[:, 0], seen.any(0).nonzero()[:, 0]
    height, width = seen.shape
    left, right = float(across[0]) / width, float(across[-1] + 1) / width
    return left, right, float(down[0]) / height, float(down[-1] + 1) / height


def test_atlas_holds_all_things_and_the_arrow_in_order() -> None:
    atlas = atlas_tensor(24)
    assert atlas.shape == (len(things()) + 1, 4, 24, 24)
    assert arrow_id() == len(atlas) - 1
    want = torch.from_numpy(load_atlas(24)[7].transpose(2, 0, 1) / 255).float()
    torch.testing.assert_close(atlas[7], want)
    first_sign = torch.from_numpy(load_signs(24)[0].transpose(2, 0, 1) / 255).float()
    torch.testing.assert_close(atlas[len(load_names())], first_sign)


def test_drawings_of_shapes_have_their_colours_and_forms() -> None:
    middle = {
        name: ATLAS[IDS[f"{name} square"]][:3, 40:56, 40:56].mean((1, 2))
        for name in ("red", "green", "blue", "black", "white")
    }
    assert middle["red"].argmax() == 0
    assert middle["green"].argmax() == 1
    assert middle["blue"].argmax() == 2
    assert middle["black"].max() < 0.2
    assert middle["white"].min() > 0.9
    hole = ATLAS[IDS["red ring"], 3, 44:52, 44:52]
    assert hole.max() == 0
    share = {f: ATLAS[IDS[f"red {f}"], 3].mean() for f in ("square", "circle", "triangle")}
    assert share["square"] > share["circle"] > share["triangle"]


def test_striped_is_not_plain() -> None:
    for colour in ("red", "black", "white", "yellow"):
        plain, striped = (ATLAS[IDS[f"{t}{colour} circle"]][:3] for t in ("", "striped "))
        inside = (slice(None), slice(24, 72), slice(24, 72))
        assert plain[inside].std((1, 2)).max() < 0.05
        assert striped[inside].std((1, 2)).max() > 0.1, colour


def test_black_on_black_and_white_on_white_can_be_seen() -> None:
    for colour, ground in (("black", 0.0), ("white", 1.0)):
        worlds = appear(toy_worlds(), [IDS[f"{colour} circle"]])
        worlds.colours[:] = ground
        assert (frame_of(worlds, 6) - ground).abs().max() > 0.5


@pytest.mark.parametrize(("height", "width"), [(96, 96), (180, 320), (48, 60)])
def test_frames_have_the_asked_size_and_range(height: int, width: int) -> None:
    painter = Painter.of(busy_worlds(), ATLAS)
    number = torch.arange(6).repeat(3)
    seconds = torch.tensor([6.0, 17.0, 25.0]).repeat_interleave(6)
    frames = painter.draw(number, seconds, height=height, width=width)
    assert frames.shape == (18, 3, height, width)
    assert frames.dtype == torch.float32
    assert frames.min() >= 0
    assert frames.max() <= 1


@pytest.mark.parametrize(
    ("second", "seen"), [(3.99, False), (4.0, True), (11.99, True), (12.0, False)]
)
def test_an_appearance_is_visible_from_start_until_before_end(second: float, seen: bool) -> None:
    worlds = appear(toy_worlds(), [5], span=(4, 12))
    assert bool((frame_of(worlds, second) - 0.5).abs().max() > 0.1) == seen
    event, shown = Painter.of(worlds, ATLAS).showing(*times(second))
    assert bool(shown[0]) == seen
    assert not seen or event[0] == 0


def test_a_drawing_fills_its_quad() -> None:
    place = (0.4, 0.55, 0.2, 0.3)
    left, right, top, bottom = drawn_box(
        frame_of(appear(toy_worlds(), [IDS["white square"]], places=[place]), 6, 180, 320)
    )
    # The square's cell has a margin of five in ninety-six and its corners an inset.
    np.testing.assert_allclose([left, right], [0.2, 0.6], atol=0.04)
    np.testing.assert_allclose([top, bottom], [0.25, 0.85], atol=0.06)


def test_a_word_is_stretched_to_its_quad() -> None:
    worlds = appear(toy_worlds(), [IDS["word ember"]], places=[(0.5, 0.5, 0.4, 0.15)])
    np.testing.assert_allclose(
        drawn_box(frame_of(worlds, 6, 180, 320)), [0.1, 0.9, 0.35, 0.65], atol=0.02
    )


def test_cards_show_thing_partner_and_arrow() -> None:
    pair = [IDS["red square"], IDS["blue square"], arrow_id()]
    frame = frame_of(appear(toy_worlds(), pair, places=LINK), 6)
    left, right, middle = frame[:, 45, 38], frame[:, 45, 121], frame[:, 45, 82]
    assert left.argmax() == 0
    assert right.argmax() == 2
    assert middle.min() > 0.9, "the arrow is white"
    # It points right: its head, the widest part, is in its right half.
    shaft, head = frame[:, 30:60, 74].std(), frame[:, 30:60, 83].std()
    assert head > shaft


def test_a_mirrored_drawing_is_the_other_way_round() -> None:
    worlds = appear(toy_worlds(), [IDS["cat"]])
    straight = frame_of(worlds, 6)
    worlds.look[0, 0, 1] = -1
    torch.testing.assert_close(frame_of(worlds, 6), straight.flip(-1), atol=1e-3, rtol=0)
    assert (straight - straight.flip(-1)).abs().max() > 0.2


def test_a_quarter_turn_is_clockwise_and_bends_nothing() -> None:
    worlds = appear(toy_worlds(), [IDS["cat"]])
    straight = frame_of(worlds, 6, 90, 160)[:, :, 35:125]
    worlds.look[0, 0, 0] = math.pi / 2
    turned = frame_of(worlds, 6, 90, 160)[:, :, 35:125]
    assert (turned - straight.rot90(-1, (1, 2))).abs().mean() < 0.01
    assert (turned - straight.rot90(1, (1, 2))).abs().mean() > 0.03


@pytest.mark.parametrize(
    ("move", "want"),
    [
        ((-0.2, 0, 1, 0), (0.4, 0.5, 0.3)),
        ((0, 0.2, 1, 0), (0.5, 0.6, 0.3)),
        ((0, 0, 2.25, 0), (0.5, 0.5, 0.45)),
        ((0, 0, 0.25, 0), (0.5, 0.5, 0.15)),
    ],
)
def test_half_way_through_half_of_the_motion_is_done(
    move: tuple[float, ...], want: tuple[float, float, float]
) -> None:
    worlds = appear(toy_worlds(), [IDS["white circle"]], move=move)
    left, right, top, bottom = drawn_box(frame_of(worlds, 8, 180, 320))
    found = ((left + right) / 2, (top + bottom) / 2, (bottom - top) / 2 * 1.06)
    np.testing.assert_allclose(found, want, atol=0.025)


def test_the_covering_bar_crosses_the_picture() -> None:
    worlds = appear(toy_worlds(), [5])
    worlds.cover[0, 0] = 0.1, 0.9, 0.05, 1, 0, 0
    for second, centre in ((4, 0.1), (8, 0.5), (12 - 1e-3, 0.9)):
        frame = frame_of(worlds, second, 60, 200)
        red = ((frame - torch.tensor([1.0, 0, 0])[:, None, None]).abs() < 0.01).all(0)
        columns = red.all(0).nonzero()[:, 0]
        assert len(columns) == pytest.approx(20, abs=1)
        assert float(columns.float().mean() + 0.5) / 200 == pytest.approx(centre, abs=0.005)
    assert (frame_of(worlds, 13) - 0.5).abs().max() < 1e-6, "it goes with its appearance"


def test_no_bar_where_its_width_is_none() -> None:
    worlds = appear(toy_worlds(), [5])
    bare = frame_of(worlds, 6)
    worlds.cover[0, 0] = 0.1, 0.9, 0, 1, 0, 0
    torch.testing.assert_close(frame_of(worlds, 6), bare, rtol=0, atol=0)


def test_changes_hold_from_their_second_on() -> None:
    for change in Change:
        worlds = alter(appear(toy_worlds(), [IDS["red circle"]]), change, 8)
        before, after = frame_of(worlds, 7.99), frame_of(worlds, 8)
        assert bool((before - after).abs().max() > 0.1) == (change is not Change.NONE), change


def test_each_change_is_what_it_is_called() -> None:
    def changed(change: Change) -> Tensor:
        return frame_of(alter(appear(toy_worlds(), [IDS["red circle"]]), change, 0), 6)

    plain = changed(Change.NONE)
    assert plain[0, 45, 80] - plain[1, 45, 80] > 0.5
    grey = changed(Change.GREY)
    assert (grey.amax(0) - grey.amin(0)).max() < 1e-6
    torch.testing.assert_close(changed(Change.DARK), plain * 0.35)
    framed = changed(Change.FRAME)
    assert (framed[:, 0] == torch.tensor([1.0, 0.1, 0.8])[:, None]).all()
    assert (framed[:, :, -1] == framed[:, :, 0]).all()
    torch.testing.assert_close(framed[:, 8:-8, 8:-8], plain[:, 8:-8, 8:-8])
    barred = changed(Change.BARS)
    assert barred[:, :6].max() == 0
    assert barred[:, -6:].max() == 0
    torch.testing.assert_close(barred[:, 10:-10], plain[:, 10:-10])


def test_grain_is_a_function_of_world_and_second() -> None:
    worlds = toy_worlds(3)
    worlds.grain[:] = 0.06, 0.06, 0
    worlds.colours[1] = 0.6
    painter = Painter.of(worlds, ATLAS)
    number, seconds = torch.tensor([0, 0, 0, 1, 2]), torch.tensor([3.0, 3.75, 4.0, 3.0, 3.0])
    one, same, later, other, clean = painter.draw(number, seconds, height=64, width=96)
    assert torch.equal(one, same)
    assert not torch.equal(one, later)
    assert clean.std() < 1e-6
    assert one.std().item() == pytest.approx(0.06 / math.sqrt(3), rel=0.1)
    assert abs(one.mean().item() - 0.5) < 0.004
    both = torch.stack([(one - 0.5).flatten(), (other - 0.6).flatten()])
    assert torch.corrcoef(both)[0, 1] < 0.9, "worlds do not share their grain"


def test_footage_is_the_background_of_its_worlds_only() -> None:
    worlds = appear(toy_worlds(2), [5], world=1)
    worlds.footage[1] = 1, 2, 1, 1, 1
    painter = Painter.of(worlds, ATLAS, toy_footage())
    frames = painter.draw(torch.tensor([0, 1, 1]), torch.tensor([0.0, 0, 6]), height=24, width=40)
    assert (frames[0] - 0.5).abs().max() < 1e-6
    # Clip 1 of three frames, begun at its third: brightness 60 of 255, its left half 30.
    assert frames[1, :, :, 25:].mean().item() == pytest.approx(60 / 255, abs=0.01)
    assert frames[1, :, :, :15].mean().item() == pytest.approx(30 / 255, abs=0.01)
    assert (frames[2] - frames[1]).abs().max() > 0.1, "the drawing lies over it"


def test_worlds_before_missing_clips_are_refused() -> None:
    worlds = toy_worlds()
    worlds.footage[0, 0] = 2
    with pytest.raises(RequestError, match=r"clip 2; got 0 clips"):
        Painter.of(worlds, ATLAS)
    with pytest.raises(RequestError, match=r"clip 2; got 2 clips"):
        Painter.of(worlds, ATLAS, toy_footage())


def test_truth_tells_what_is_drawn() -> None:
    worlds = toy_worlds(3)
    appear(worlds, [IDS["cat"]], world=0, move=(0.2, -0.1, 4, 1.0))
    worlds.look[0, 0] = 0.5, -1
    appear(worlds, [IDS["red ring"], IDS["dog"], arrow_id()], world=1, places=LINK)
    appear(worlds, [IDS["dog"], IDS["number 42"]], world=2, places=CARD)
    alter(worlds, Change.BARS, 8, world=0)
    number, seconds = torch.tensor([0, 1, 2, 0]), torch.tensor([8.0, 6, 6, 1])
    truth = Painter.of(worlds, ATLAS).truth(number, seconds)
    nothing = len(things())
    assert truth.thing.tolist() == [IDS["cat"], IDS["red ring"], IDS["dog"], nothing]
    assert truth.partner.tolist() == [nothing, IDS["dog"], IDS["number 42"], nothing]
    assert truth.has_arrow.tolist() == [False, True, False, False]
    assert truth.change.tolist() == [list(Change).index(Change.BARS), 0, 0, 0]
    assert truth.change.dtype == torch.long
    want = [0.6, 0.45, 0.6, math.sin(1.0), math.cos(1.0)]
    torch.testing.assert_close(truth.geometry[0], torch.tensor(want))
    torch.testing.assert_close(truth.geometry[2, :3], torch.tensor([0.5, 0.32, 0.28]))
    assert truth.geometry[3].abs().max() == 0


def test_small_drawing_is_the_large_one_resized() -> None:
    """Training draws small what evaluation films large and squeezes."""
    worlds = busy_worlds()
    worlds.grain[:] = 0
    painter = Painter.of(worlds, ATLAS)
    number = torch.arange(6).repeat(3)
    seconds = torch.tensor([6.0, 17.0, 25.0]).repeat_interleave(6)
    large = painter.draw(number, seconds, height=180, width=320)
    squeezed = F.interpolate(large, size=(96, 96), mode="area")
    small = F.avg_pool2d(painter.draw(number, seconds, height=96, width=192), (1, 2))
    gap = (small - squeezed).abs()
    assert gap.mean() < 0.01
    assert gap.mean((1, 2, 3)).max() < 0.02


def test_words_can_be_read_where_frames_are_small() -> None:
    """Squeezed to 96 pixels, a caption is nearest to its own large drawing among twenty words."""
    names = [thing.name for thing in things() if thing.name.startswith("word ")][::13][:20]
    place = [(0.5, 0.8, 0.3, 0.13)]
    worlds = toy_worlds(len(names))
    for n, name in enumerate(names):
        appear(worlds, [IDS[name]], world=n, places=place)
    painter, number = Painter.of(worlds, ATLAS), torch.arange(len(names))
    seconds = torch.full((len(names),), 6.0)
    small = F.avg_pool2d(painter.draw(number, seconds, height=96, width=192), (1, 2))
    large = F.interpolate(
        painter.draw(number, seconds, height=360, width=640), size=(96, 96), mode="area"
    )
    gap = (small[:, None] - large[None]).square().mean((2, 3, 4))
    assert gap.argmin(1).tolist() == number.tolist()
    own, others = gap.diagonal(), gap + torch.eye(len(names)) * 9
    assert (others.amin(1) / own).min() > 5


def test_a_quad_outside_the_frame_draws_nothing() -> None:
    worlds = appear(toy_worlds(), [5], places=[(3.0, -2.0, *MIDDLE[2:])])
    assert (frame_of(worlds, 6) - 0.5).abs().max() < 1e-6


# Brightness in per cent of a fixed world, 6 x 8 areas of three frames: what a seed has drawn, it
# draws for ever. A change here is a new version of the generator.
FROZEN = """
51.2 58.8 59.8 54.6 53.3 60.5 55.9 43.6
60.8 66.5 58.3 61.9 60.4 60.8 51.6 43.0
66.8 64.6 61.6 58.9 63.5 57.2 48.0 47.7
61.1 50.5 61.9 61.9 64.1 53.3 49.3 56.1
52.9 40.7 52.3 59.1 60.1 46.7 51.7 60.9
48.1 42.5 51.6 56.8 45.9 39.1 48.8 55.1

52.5 51.1 43.0 45.4 48.3 43.2 38.5 42.4
54.4 51.3 43.0 47.4 53.9 43.9 39.8 42.5
52.7 49.0 46.1 56.1 54.8 43.3 45.5 43.2
47.5 40.5 45.1 52.4 49.8 42.6 52.4 44.7
41.7 37.2 38.2 42.8 58.0 38.9 59.3 50.0
42.5 47.6 48.6 46.0 33.0 45.0 58.0 50.1

21.8 18.9 12.8 15.4 21.0 18.8 18.6 20.9
42.4 39.8 54.5 33.1 40.9 50.6 54.4 40.7
41.7 50.2 39.8 40.9 44.5 64.0 68.4 39.8
35.7 49.6 35.1 42.1 36.7 43.5 45.1 29.3
26.0 31.1 42.6 34.3 23.1 38.4 37.5 23.2
13.2 18.4 22.7 16.6 13.9 20.2 20.2 13.7
"""


def test_drawing_is_frozen() -> None:
    painter = Painter.of(busy_worlds(), ATLAS)
    frames = painter.draw(
        torch.tensor([1, 2, 4]), torch.tensor([6.0, 17, 25]), height=96, width=192
    )
    areas = F.adaptive_avg_pool2d(frames.mean(1), (6, 8)) * 100
    want = torch.tensor([float(n) for n in FROZEN.split()]).view(3, 6, 8)
    assert (areas - want).abs().max() < 0.2, areas.tolist()
