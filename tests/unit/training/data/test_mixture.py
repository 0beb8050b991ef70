"""Mixtures: shares by weight, every sample once an epoch, and cursors that say it all."""

from __future__ import annotations

import json
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.unit.training.data.toys import Numbers
from timeviper.core.errors import ConfigError
from timeviper.training.data.mixture import Draw, Mixture
from timeviper.training.data.samples import DataError

_sets = st.lists(st.lists(st.integers(0, 5), min_size=1, max_size=3), min_size=1, max_size=3)


def make(*lengths: list[int], seed: int = 0, weights=None) -> Mixture:
    sets = [Numbers(f"set{n}", one) for n, one in enumerate(lengths)]
    return Mixture(sets, weights=weights, seed=seed)


def take(mixture: Mixture, count: int, cursor=None) -> tuple[list[Draw], dict]:
    walker = mixture.walk(cursor)
    draws = [walker.draw() for _ in range(count)]
    return draws, json.loads(json.dumps(walker.cursor))


@given(_sets, st.integers(0, 40), st.integers(0, 40), st.integers(0, 3))
def test_a_prefix_and_its_continuation_are_the_uninterrupted_walk(sets, first, second, seed):
    if any(sum(lengths) == 0 for lengths in sets):
        return
    head, cursor = take(make(*sets, seed=seed), first)
    # Another process: nothing but the cursor is known.
    tail, after = take(make(*sets, seed=seed), second, cursor)
    whole, end = take(make(*sets, seed=seed), first + second)
    assert head + tail == whole
    assert after == end


@given(st.lists(st.integers(0, 6), min_size=1, max_size=4), st.integers(1, 3))
def test_each_epoch_holds_every_sample_once(lengths, epochs):
    total = sum(lengths)
    if total == 0:
        return
    draws, cursor = take(make(lengths), total * epochs)
    every = {Draw(0, part, item) for part, n in enumerate(lengths) for item in range(n)}
    for epoch in range(epochs):
        assert set(draws[epoch * total : (epoch + 1) * total]) == every
    walker = make(lengths).walk(cursor)
    walker.draw()
    if total > 1:
        epoch, *_ = walker.cursor["at"]["set0"]
        assert epoch == epochs


def test_epochs_and_seeds_are_shuffled_differently():
    mixture = make([40])
    draws, _ = take(mixture, 80)
    assert draws[:40] != draws[40:]
    assert draws[:40] != [Draw(0, 0, n) for n in range(40)]
    assert take(make([40], seed=1), 40)[0] != draws[:40]


def test_parts_follow_one_another_in_a_drawn_order():
    draws, _ = take(make([3] * 8), 24)
    parts = [draw.part for draw in draws]
    assert parts == [part for part in parts[::3] for _ in range(3)]
    assert parts != sorted(parts)


def test_weights_are_shares():
    draws, _ = take(make([7], [7], [7], weights=[1, 2, 5]), 4000)
    counts = Counter(draw.dataset for draw in draws)
    for dataset, weight in enumerate((1, 2, 5)):
        assert counts[dataset] / 4000 == pytest.approx(weight / 8, abs=0.03)


def test_a_longer_data_set_does_not_change_the_others_order():
    first = [d for d in take(make([9], [5]), 60)[0] if d.dataset == 0]
    second = [d for d in take(make([9], [50]), 60)[0] if d.dataset == 0]
    assert first == second


@pytest.mark.parametrize(
    ("names", "weights", "message"),
    [
        ([], None, "different names"),
        (["a", "a"], None, "different names"),
        (["a"], [1, 2], "1 weights"),
        (["a", "b"], [1, 0], "above zero"),
        (["a"], [float("nan")], "above zero"),
    ],
)
def test_names_and_weights_are_checked(names, weights, message):
    with pytest.raises(ConfigError, match=message):
        Mixture([Numbers(name, [1]) for name in names], weights=weights)


def test_a_data_set_without_samples_is_told_and_not_walked_for_ever():
    with pytest.raises(DataError, match="samples in set0"):
        make([0, 0]).walk().draw()


def test_the_identity_tells_seed_weights_and_files():
    whole = {make([3]).identity, make([4]).identity, make([3], seed=1).identity}
    assert len(whole | {make([3], weights=[2]).identity}) == 4
