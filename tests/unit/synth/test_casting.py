"""Casts: each group carries what its task needs, and nothing is handed out twice."""

from __future__ import annotations

from collections import Counter

import numpy as np
import pytest

from tests.unit.synth.stories import thing
from timeviper.synth.casting import (
    MAX_HOPS,
    MAX_TIMES,
    MOVES,
    SLIDES,
    Group,
    Pool,
    Role,
    any_cast,
    captioned,
    cast_for,
    chain,
    one_tagged,
    repeats,
    shared_tag,
    shuffled,
    singles,
    tagged,
)
from timeviper.synth.catalogue import ThingKind, arrow_id, ids_of, kind_of
from timeviper.synth.world import Motion

GROUPS = (singles, repeats, tagged, one_tagged, shared_tag, captioned, chain)
FIGURES = (ThingKind.OBJECT, ThingKind.SHAPE)
ROOMY = 16


def groups_of(group: Group, room: int = ROOMY, seeds: int = 200) -> list[list[Role]]:
    return [group(Pool(np.random.default_rng(seed)), room) for seed in range(seeds)]


def sizes(found: list[list[Role]]) -> set[int]:
    return {len(roles) for roles in found}


@pytest.mark.parametrize("group", GROUPS)
@pytest.mark.parametrize("room", [2, 3, 5, ROOMY])
def test_no_group_takes_more_room_than_there_is(group: Group, room: int) -> None:
    assert min(sizes(groups_of(group, room))) >= 1
    assert max(sizes(groups_of(group, room))) <= room


def test_singles_are_different_things_alone() -> None:
    found = groups_of(singles)
    assert sizes(found) == {1, 2, 3, 4, 5}
    for roles in found:
        assert len({role.thing for role in roles}) == len(roles)
        assert all(role.partner is None for role in roles)


def test_repeats_show_one_thing_every_number_of_times_alike() -> None:
    found = groups_of(repeats, seeds=800)
    counts = Counter(len(roles) for roles in found)
    assert set(counts) == set(range(1, MAX_TIMES + 1))
    assert min(counts.values()) > 800 / MAX_TIMES / 2
    assert all(len({role.thing for role in roles}) == 1 for roles in found)


def test_tagged_things_have_different_numbers() -> None:
    found = groups_of(tagged)
    assert sizes(found) == set(range(1, 7))
    for roles in found:
        assert len({role.partner for role in roles}) == len({role.thing for role in roles})
        assert len({role.partner for role in roles}) == len(roles)
        for role in roles:
            assert kind_of(role.thing) in FIGURES
            assert kind_of(role.partner) is ThingKind.NUMBER
    assert sizes(groups_of(one_tagged)) == {1}


def test_a_shared_number_stands_with_two_things_or_more() -> None:
    extra = 0
    for roles in groups_of(shared_tag):
        counts = Counter(role.partner for role in roles)
        (number, times), *others = counts.most_common()
        assert kind_of(number) is ThingKind.NUMBER
        assert 2 <= times <= 4
        assert all(count == 1 for _, count in others)
        assert roles[0].partner == number, "the first role is what is asked about"
        extra += len(others)
    assert extra > 0


def test_captions_are_words() -> None:
    for roles in groups_of(captioned):
        assert all(kind_of(role.partner) is ThingKind.WORD for role in roles)
        assert all(kind_of(role.thing) in FIGURES for role in roles)


def test_a_chain_leads_on_from_its_first_thing() -> None:
    hops = set()
    for roles in groups_of(chain):
        arrows = {role.thing: role.partner for role in roles}
        assert len(arrows) == len(roles), "nothing points twice"
        at, length = roles[0].thing, 0
        while at in arrows:
            at, length = arrows[at], length + 1
        assert 2 <= length <= MAX_HOPS
        # What points elsewhere touches nothing of the path.
        rest = roles[length:]
        path = {roles[0].thing, *(role.partner for role in roles[:length])}
        assert all({role.thing, role.partner}.isdisjoint(path) for role in rest)
        hops.add(length)
    assert hops == {2, 3, 4}


@pytest.mark.parametrize(
    ("partner", "drawings"),
    [(None, (-1, -1)), ("number 7", (thing("number 7"), -1)), ("dog", (thing("dog"), arrow_id()))],
)
def test_what_is_drawn_of_a_role(partner: str | None, drawings: tuple[int, int]) -> None:
    role = Role(thing=thing("cat"), partner=None if partner is None else thing(partner))
    assert role.drawings == (thing("cat"), *drawings)


def test_a_pool_never_hands_out_a_thing_twice() -> None:
    pool = Pool(np.random.default_rng(0))
    taken = [pool.take(ThingKind.NUMBER) for _ in range(100)]
    assert sorted(taken) == list(ids_of(ThingKind.NUMBER))


def test_what_a_pool_takes_is_mostly_objects() -> None:
    kinds = Counter(kind_of(Pool(np.random.default_rng(s)).take()) for s in range(800))
    assert set(kinds) == set(ThingKind)
    assert 0.5 < kinds[ThingKind.OBJECT] / 800 < 0.7
    figures = Counter(kind_of(Pool(np.random.default_rng(s)).figure()) for s in range(400))
    assert set(figures) == set(FIGURES)


def test_text_slides_and_pictures_move_in_every_way() -> None:
    def motions(name: str) -> set[Motion]:
        pools = (Pool(np.random.default_rng(seed)) for seed in range(300))
        return {pool.alone(thing(name)).motion for pool in pools}

    assert motions("cat") == set(Motion) == {Motion.STILL, *MOVES}
    assert motions("word ember") == motions("number 3") == {Motion.STILL, *SLIDES}


def test_cards_are_still() -> None:
    for seed in range(200):
        for role in any_cast(np.random.default_rng(seed), ROOMY):
            assert role.partner is None or role.motion is Motion.STILL


@pytest.mark.parametrize("room", [1, 2, 8, ROOMY])
def test_casts_of_the_training_distribution_fit_and_vary(room: int) -> None:
    casts = [any_cast(np.random.default_rng(seed), room) for seed in range(400)]
    assert max(len(cast) for cast in casts) <= room
    empty = sum(not cast for cast in casts)
    assert 0 < empty < 24, "two in a hundred"
    if room == ROOMY:
        kinds = {kind_of(r.partner) for cast in casts for r in cast if r.partner is not None}
        assert kinds == set(ThingKind)


@pytest.mark.parametrize("group", GROUPS)
def test_a_cast_for_a_task_holds_its_group_among_others(group: Group) -> None:
    larger = 0
    for seed in range(60):
        own = group(Pool(np.random.default_rng(seed)), 8)
        cast, about = cast_for(np.random.default_rng(seed), group, 8)
        assert len(cast) <= 8
        assert not set(own) - set(cast)
        assert about == own[0].thing
        strangers = [role for role in cast if role not in own]
        assert all(role.partner is None for role in strangers)
        shown = {i for role in own for i in (role.thing, role.partner)}
        assert all(role.thing not in shown for role in strangers)
        larger += len(cast) > len(own)
    assert larger > 20


def test_shuffling_keeps_every_role() -> None:
    roles = [Role(thing=i) for i in range(9)]
    found = {shuffled(np.random.default_rng(seed), roles) for seed in range(20)}
    assert len(found) > 10
    assert all(sorted(cast, key=lambda r: r.thing) == roles for cast in found)
