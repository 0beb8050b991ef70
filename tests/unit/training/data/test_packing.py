"""Packs: within the budget, nothing lost, well filled, and resumed from places alone."""

from __future__ import annotations

import json
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from timeviper.core.errors import ConfigError
from timeviper.training.data.mixture import Draw
from timeviper.training.data.packing import Item, Pack, Packer, fill_rate

_lengths = st.lists(st.integers(1, 20), max_size=60)


def items(lengths: list[int]) -> list[Item]:
    return [Item(Draw(0, 0, n), tokens) for n, tokens in enumerate(lengths)]


def pack_all(packer: Packer, some: list[Item]) -> list[Pack]:
    return [pack for pack in map(packer.add, some) if pack is not None]


@given(_lengths, st.integers(1, 5))
def test_every_sample_comes_out_once_and_no_pack_is_over(lengths, most_open):
    packer = Packer(20, most_open=most_open)
    packs = pack_all(packer, items(lengths)) + packer.flush()
    assert Counter(i for p in packs for i in p.items) == Counter(items(lengths))
    assert all(0 < pack.tokens <= 20 for pack in packs)
    assert packer.pending == []


@given(_lengths, st.integers(1, 5), st.integers(0, 60))
def test_a_packer_goes_on_from_what_was_pending(lengths, most_open, cut):
    whole = Packer(20, most_open=most_open)
    want = pack_all(whole, items(lengths))
    first = Packer(20, most_open=most_open)
    got = pack_all(first, items(lengths)[:cut])
    pending = json.loads(json.dumps(first.pending))
    second = Packer(20, most_open=most_open, pending=pending)
    got += pack_all(second, items(lengths)[cut:])
    assert got == want
    assert second.pending == whole.pending


def test_samples_go_where_they_first_fit_and_the_fullest_leaves():
    packer = Packer(10, most_open=2)
    assert [packer.add(i) for i in items([6, 7, 4, 3])] == [None] * 4
    # 6 + 4 and 7 + 3 are full: the older of two equals leaves.
    assert packer.add(Item(Draw(0, 0, 9), 5)).items == (items([6])[0], items([0, 0, 4])[2])


def test_more_open_packs_fill_better():
    lengths = np.random.default_rng(0).integers(200, 3000, 2000).tolist()
    rates = []
    for most_open in (1, 4, 32):
        packs = pack_all(Packer(8192, most_open=most_open), items(lengths))
        rates.append(fill_rate(packs, 8192))
    assert rates == sorted(rates)
    assert rates[-1] > 0.97
    assert fill_rate([], 10) == 0.0


@pytest.mark.parametrize(("budget", "most_open"), [(0, 1), (5, 0)])
def test_a_packer_without_room_is_refused(budget, most_open):
    with pytest.raises(ConfigError, match="at least 1"):
        Packer(budget, most_open=most_open)
