"""Sampled worlds: functions of their seed, varied as they should be, quick enough to train on."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from tests.unit.synth.toys import sample_world
from timeviper.core.errors import RequestError
from timeviper.synth.catalogue import ThingKind, ids_of, kind_of, things
from timeviper.synth.sample import (
    MAX_SECONDS,
    MIN_GAP,
    MIN_SECONDS,
    SHORTEST,
    Setting,
    change_seconds,
    lengths,
    room,
    sample_worlds,
    spread,
    spread_around,
)
from timeviper.synth.world import MAX_EVENTS, Change, Motion, World, Worlds


def sampled(num_frames: int = 256, batch: int = 400, setting: Setting | None = None) -> Worlds:
    return sample_worlds(np.random.default_rng(0), batch, num_frames, setting)


@pytest.fixture(scope="module")
def many() -> list[World]:
    worlds = sampled()
    return [worlds.world(number) for number in range(len(worlds))]


@pytest.mark.parametrize("other", [(8, 3, 256), (7, 4, 256), (7, 3, 255)])
def test_each_argument_matters(other: tuple[int, int, int]) -> None:
    assert sample_world(7, 3, 256).world(0) != sample_world(*other).world(0)


@pytest.mark.parametrize("num_frames", [7, 0, -3])
def test_too_short_a_world_is_refused_with_the_number(num_frames: int) -> None:
    with pytest.raises(RequestError, match=rf"at least {SHORTEST} seconds.*got {num_frames}"):
        sampled(num_frames=num_frames, batch=1)


@pytest.mark.parametrize(
    ("num_frames", "want"), [(8, 1), (15, 1), (16, 2), (64, 8), (128, MAX_EVENTS), (9000, 16)]
)
def test_room_grows_with_the_length(num_frames: int, want: int) -> None:
    assert room(num_frames) == want


def test_worlds_hold_any_number_of_appearances(many: list[World]) -> None:
    counts = Counter(len(world.events) for world in many)
    assert set(counts) == set(range(MAX_EVENTS + 1)), "also worlds with nothing in them"
    assert counts[0] < 24
    times = Counter(len(world.times_of(i)) for world in many for i in world.things)
    assert set(times) == set(range(1, 9))


def test_appearances_last_from_a_moment_to_a_while(many: list[World]) -> None:
    lasting = Counter(event.end - event.start for world in many for event in world.events)
    assert min(lasting) == MIN_SECONDS
    assert max(lasting) == MAX_SECONDS


def test_every_kind_of_thing_card_motion_and_change_is_met(many: list[World]) -> None:
    events = [event for world in many for event in world.events]
    assert {kind_of(event.thing) for event in events} == set(ThingKind)
    partners = {kind_of(event.partner) for event in events if event.partner is not None}
    assert partners == set(ThingKind)
    assert {event.motion for event in events} == set(Motion)
    assert {world.change for world in many} == set(Change)
    seen = {i for world in many for i in world.things}
    assert len(seen) > 0.9 * len(things())


def test_appearances_are_spread_over_the_whole_length(many: list[World]) -> None:
    middle = [(e.start + e.end) / 512 for world in many for e in world.events]
    quarters = np.histogram(middle, bins=4, range=(0, 1))[0] / len(middle)
    assert quarters.min() > 0.18


def test_some_pictures_change_at_some_second(many: list[World]) -> None:
    seconds = [w.change_second for w in many if w.change_second is not None]
    assert 0.3 < len(seconds) / len(many) < 0.5
    assert set(seconds) <= set(change_seconds(256))
    assert min(seconds) < 60
    assert max(seconds) > 200


def test_colours_and_light_stay_where_a_shape_is_named_by_them(many: list[World]) -> None:
    spoiled = [w for w in many if w.change in (Change.GREY, Change.DARK)]
    assert len(spoiled) > 10
    for world in spoiled:
        assert set(world.things).isdisjoint(ids_of(ThingKind.SHAPE))


def test_short_worlds_never_change_their_picture() -> None:
    worlds = sampled(num_frames=2 * SHORTEST - 1)
    assert np.isinf(worlds.change[:, 1]).all()


@pytest.mark.parametrize(
    ("setting", "clips"),
    [
        (None, {-1}),
        (Setting(clip=4), {4}),
        (Setting(clip=-1, clips=3), {-1}),
        (Setting(clips=3), {-1, 0, 1, 2}),
    ],
)
def test_haystacks_are_chosen_or_drawn(setting: Setting | None, clips: set[int]) -> None:
    footage = sampled(num_frames=32, setting=setting).footage
    assert set(footage[:, 0].astype(int)) == clips
    if len(clips) > 1:
        assert 0.5 < (footage[:, 0] < 0).mean() < 0.7, "drawn backgrounds stay the most"
    _, _, rate, side, zoom = footage.T
    assert rate.min() >= 0.5
    assert rate.max() <= 4
    assert set(side) == {-1, 1}
    assert zoom.min() >= 1
    assert zoom.max() <= 2


def test_grain_is_on_half_of_the_worlds() -> None:
    grain = sampled(num_frames=32).grain
    assert 0.4 < (grain > 0).mean() < 0.6
    assert grain.max() <= 0.06


def test_no_appearances_need_no_times() -> None:
    assert spread(np.random.default_rng(0), 0, 64).shape == (0, 2)


@pytest.mark.parametrize("num_frames", [8, 16, 24, 64, 128, 1000])
def test_the_fullest_world_still_fits(num_frames: int) -> None:
    count = room(num_frames)
    for seed in range(50):
        lasting = lengths(np.random.default_rng(seed), count, num_frames)
        assert lasting.shape == (count,)
        assert lasting.min() >= MIN_SECONDS
        assert lasting.sum() + MIN_GAP * (count - 1) <= num_frames


@pytest.mark.parametrize(("depth", "place"), [(0.0, 0), (1.0, 7)])
def test_at_an_end_all_others_are_on_the_other_side(depth: float, place: int) -> None:
    for seed in range(30):
        times, at = spread_around(np.random.default_rng(seed), 8, 512, depth)
        assert at == place
        assert times[0, 0] == 0 or depth == 1
        assert times[-1, 1] == 512 or depth == 0


def test_others_stand_on_both_sides_of_the_middle_in_many_ways() -> None:
    places = Counter(
        spread_around(np.random.default_rng(seed), 8, 512, 0.5)[1] for seed in range(300)
    )
    assert len(places) >= 6
    mean = sum(place * count for place, count in places.items()) / 300
    assert 3 < mean < 4


def test_sampling_is_fast_enough_to_train_on() -> None:
    rng = np.random.default_rng(0)
    sample_worlds(rng, 4, 64)
    begin = time.process_time()
    sample_worlds(rng, 256, 64)
    # About 35 ms; the limit leaves room for a busy machine.
    assert time.process_time() - begin < 0.35
