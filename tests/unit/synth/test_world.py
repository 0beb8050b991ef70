"""Worlds as values: moments, cards, names; arrays and worlds say the same."""

from __future__ import annotations

from dataclasses import fields

import numpy as np
import pytest

from tests.unit.synth.stories import event, thing, world
from timeviper.synth.casting import Role
from timeviper.synth.sample import Setting, sample_worlds, stage
from timeviper.synth.world import BLOBS, MAX_EVENTS, SLOTS, Change, Event, Motion, Worlds


def sampled(num_frames: int = 64, batch: int = 6, seed: int = 0) -> Worlds:
    return sample_worlds(np.random.default_rng(seed), batch, num_frames)


def test_a_world_answers_about_its_moments() -> None:
    events = (event("cat", 2, 5), event("dog", 8, 12), event("cat + number 7", 20, 24))
    w = world(*events, frames=30)
    assert [w.at(s) for s in (0, 1.99, 2, 4.99, 5, 8, 24)] == [
        None, None, events[0], events[0], None, events[1], None,
    ]  # fmt: skip
    assert w.times_of(thing("cat")) == (events[0], events[2])
    assert w.times_of(thing("number 7")) == (events[2],)
    assert w.times_of(thing("pizza")) == ()
    assert w.things == (thing("cat"), thing("dog"), thing("number 7"))


def test_a_world_of_nothing_answers_too() -> None:
    w = world()
    assert w.things == ()
    assert w.at(3) is None


@pytest.mark.parametrize(
    ("name", "said", "points"),
    [
        ("cat", "a cat", False),
        ("word ember", "the word ember", False),
        ("cat + number 7", "a cat with the number 7", False),
        ("red ring + word ember", "a red ring with the word ember", False),
        ("cat + owl", "a cat pointing to an owl", True),
        ("cat + red ring", "a cat pointing to a red ring", True),
    ],
)
def test_appearances_in_words(name: str, said: str, points: bool) -> None:
    found = event(name, 0, 4)
    assert found.said == said
    assert found.points is points
    assert found.name == name.split(" + ")[0]


def test_a_card_shows_both_of_its_things() -> None:
    card = event("cat + number 7", 0, 4)
    assert card.shows(thing("cat"))
    assert card.shows(thing("number 7"))
    assert not card.shows(thing("dog"))
    assert not event("cat", 0, 4).shows(thing("number 7"))


def test_arrays_have_the_axes_they_promise() -> None:
    worlds = sampled(batch=5)
    events, scenes = (5, MAX_EVENTS), worlds.scene_start.shape[1]
    wanted = {
        "thing": (*events, SLOTS),
        "start": events,
        "end": events,
        "motion": events,
        "place": (*events, SLOTS, 4),
        "move": (*events, 4),
        "look": (*events, 2),
        "cover": (*events, 6),
        "scene_start": (5, scenes),
        "colours": (5, scenes, 2, 3),
        "blobs": (5, scenes, 3, *BLOBS),
        "texture": (5, scenes, 6),
        "footage": (5, 5),
        "change": (5, 2),
        "grain": (5,),
    }
    assert wanted.keys() == {f.name for f in fields(Worlds)} - {"num_frames"}
    for name, shape in wanted.items():
        array = getattr(worlds, name)
        assert array.shape == shape, name
        whole = name in ("thing", "start", "end", "motion")
        assert array.dtype == (np.int64 if whole else np.float32), name
    assert len(worlds) == 5


def test_arrays_and_worlds_say_the_same() -> None:
    cat, dog, seven = thing("cat"), thing("dog"), thing("number 7")
    cast = (
        Role(thing=cat, motion=Motion.TURNING),
        Role(thing=dog, partner=seven),
        Role(thing=dog, partner=cat),
    )
    times = np.array([[1, 5], [9, 14], [20, 31]])
    worlds = stage(
        np.random.default_rng(0), [cast, ()], [times, times[:0]], num_frames=40, setting=Setting()
    )
    assert worlds.world(0).events == (
        Event(thing=cat, start=1, end=5, motion=Motion.TURNING),
        Event(thing=dog, start=9, end=14, partner=seven),
        Event(thing=dog, start=20, end=31, partner=cat),
    )
    assert worlds.world(1).events == ()
    # Past the end, where there is no event: no comparison with a second ever finds it.
    assert (worlds.start[1] > 40).all()
    assert (worlds.thing[1] == -1).all()


def test_the_change_of_the_picture_is_read_back() -> None:
    worlds = sampled(batch=200)
    for number in range(200):
        w = worlds.world(number)
        kind, second = worlds.change[number]
        assert (w.change is Change.NONE) == (w.change_second is None) == bool(np.isinf(second))
        assert list(Change).index(w.change) == kind
        assert w.change_second is None or w.change_second == second


def test_select_takes_those_worlds_in_that_order() -> None:
    worlds = sampled()
    chosen = worlds.select([4, 1])
    assert len(chosen) == 2
    assert chosen.num_frames == worlds.num_frames
    assert chosen.world(0) == worlds.world(4)
    assert chosen.world(1) == worlds.world(1)
    for field in fields(Worlds):
        if field.name != "num_frames":
            array = getattr(worlds, field.name)
            np.testing.assert_array_equal(getattr(chosen, field.name), array[[4, 1]])
