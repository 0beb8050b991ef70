"""Worlds are functions of their seed, obey their own limits and vary as they should."""

from __future__ import annotations

import time
from collections import Counter

import numpy as np
import pytest

from timeviper.core.errors import RequestError
from timeviper.synth.objects import load_names
from timeviper.synth.world import (
    BLOBS,
    MAX_EVENTS,
    MAX_OBJECTS,
    MAX_TIMES,
    Event,
    World,
    Worlds,
    sample_world,
    sample_worlds,
)

ARRAYS = (
    "object_id", "start", "end", "place", "shape", "scene_start", "colours", "blobs", "texture",
)  # fmt: skip
# Events of sample_world(7, 3, 256): a change of the distribution must be made knowingly,
# because published figures belong to these worlds.
FROZEN = [
    (175, 18, 40),
    (411, 44, 61),
    (175, 75, 81),
    (245, 115, 137),
    (411, 189, 210),
    (32, 239, 244),
]


def sampled(num_frames: int = 64, batch: int = 200, seed: int = 0) -> Worlds:
    return sample_worlds(np.random.default_rng(seed), batch, num_frames)


def test_a_seed_gives_these_events_for_ever() -> None:
    world = sample_world(7, 3, 256).world(0)
    assert [(event.object_id, event.start, event.end) for event in world.events] == FROZEN


def test_same_arguments_same_arrays() -> None:
    one, two = sample_world(7, 3, 256), sample_world(7, 3, 256)
    for name in ARRAYS:
        np.testing.assert_array_equal(getattr(one, name), getattr(two, name), err_msg=name)


@pytest.mark.parametrize("other", [(8, 3, 256), (7, 4, 256), (7, 3, 255)])
def test_each_argument_matters(other: tuple[int, int, int]) -> None:
    one, two = sample_world(7, 3, 256), sample_world(*other)
    assert not np.array_equal(one.colours[:, :2], two.colours[:, :2])


def test_arrays_have_the_axes_they_promise() -> None:
    worlds = sampled(num_frames=64, batch=5)
    scenes = 1 + 64 // 15
    shapes = {name: getattr(worlds, name).shape for name in ARRAYS}
    assert len(worlds) == 5
    assert shapes["object_id"] == shapes["start"] == shapes["end"] == (5, MAX_EVENTS)
    assert shapes["place"] == (5, MAX_EVENTS, 4)
    assert shapes["shape"] == (5, MAX_EVENTS, 3)
    assert shapes["scene_start"] == (5, scenes)
    assert shapes["colours"] == (5, scenes, 2, 3)
    assert shapes["blobs"] == (5, scenes, 3, *BLOBS)
    assert shapes["texture"] == (5, scenes, 6)


def test_select_takes_those_worlds_in_that_order() -> None:
    worlds = sampled(batch=6)
    chosen = worlds.select([4, 1])
    assert len(chosen) == 2
    assert chosen.world(0) == worlds.world(4)
    assert chosen.world(1) == worlds.world(1)
    np.testing.assert_array_equal(chosen.blobs[1], worlds.blobs[1])


def test_world_answers_about_its_moments() -> None:
    events = (
        Event(object_id=3, start=2, end=5),
        Event(object_id=1, start=8, end=12),
        Event(object_id=3, start=20, end=24),
    )
    world = World(num_frames=30, events=events)
    assert [world.at(s) for s in (0, 1.99, 2, 4.99, 5, 8)] == [
        None, None, events[0], events[0], None, events[1],
    ]  # fmt: skip
    assert world.times_of(3) == (events[0], events[2])
    assert world.times_of(9) == ()
    assert world.object_ids == (3, 1)
    assert events[1].name == load_names()[1]


def test_too_short_a_world_is_refused_with_the_number() -> None:
    with pytest.raises(RequestError, match=r"8 seconds.*got 7"):
        sampled(num_frames=7)


def test_worlds_are_varied() -> None:
    worlds = sampled(num_frames=128, batch=600)
    every = [worlds.world(number) for number in range(len(worlds))]
    kinds = Counter(len(world.object_ids) for world in every)
    times = Counter(len(world.times_of(i)) for world in every for i in world.object_ids)
    assert set(kinds) == set(range(MAX_OBJECTS + 1)), "also worlds with nothing in them"
    assert kinds[0] < 40
    assert set(times) == set(range(1, MAX_TIMES + 1))
    assert all(times[number] > 40 for number in times)
    lasting = {event.end - event.start for world in every for event in world.events}
    assert min(lasting) == 3
    assert max(lasting) >= 20
    assert len({i for world in every for i in world.object_ids}) > 0.9 * len(load_names())


def test_appearances_are_spread_over_the_whole_length() -> None:
    worlds = sampled(num_frames=256, batch=400)
    middle = [(e.start + e.end) / 512 for n in range(400) for e in worlds.world(n).events]
    quarters = np.histogram(middle, bins=4, range=(0, 1))[0] / len(middle)
    assert quarters.min() > 0.15


def test_an_object_may_return_at_once_after_another_look() -> None:
    worlds = sampled(num_frames=256, batch=400)
    pairs = [
        (a.object_id == b.object_id)
        for n in range(400)
        for a, b in zip(worlds.world(n).events, worlds.world(n).events[1:], strict=False)
    ]
    assert 0.05 < np.mean(pairs) < 0.8


def test_objects_stay_inside_the_frame() -> None:
    worlds = sampled(batch=300)
    size = worlds.shape[..., 0]
    assert size.min() >= 0.3
    assert size.max() <= 0.85
    for share in (0.0, 0.5, 1.0):
        centre = worlds.place[..., :2] + share * worlds.place[..., 2:]
        half = np.stack([size * 9 / 32, size / 2], axis=-1)
        assert (centre - half).min() > -1e-6
        assert (centre + half).max() < 1 + 1e-6


def test_backgrounds_change_and_differ() -> None:
    worlds = sampled(num_frames=256, batch=100)
    assert (worlds.scene_start[:, 0] == 0).all()
    scenes = np.isfinite(worlds.scene_start).sum(1)
    assert scenes.min() >= 3
    gaps = np.concatenate([np.diff(row[np.isfinite(row)]) for row in worlds.scene_start])
    assert gaps.min() >= 15
    assert gaps.max() <= 120
    assert worlds.colours[:, 0].mean((1, 2)).std() > 0.1
    stripes = (worlds.texture[..., 1] > 0).mean()
    assert 0.3 < stripes < 0.5


def test_sampling_is_fast_enough_to_train_on() -> None:
    rng = np.random.default_rng(0)
    sample_worlds(rng, 4, 256)
    begin = time.process_time()
    sample_worlds(rng, 256, 256)
    # About 0.2 ms a world; the limit leaves room for a busy machine.
    assert time.process_time() - begin < 1.0
