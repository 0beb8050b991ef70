"""Snapshots: they cost what changes, lie densely near the end, and give back what was."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from tests.toy_engine import noise, toy_engine
from timeviper.inference.prefill import EncodedVideo
from timeviper.inference.session import Session
from timeviper.inference.snapshots import Snapshot, thinned
from timeviper.model.state import AttentionMemory, MambaMemory
from timeviper.model.tokens import join

ENGINE = toy_engine("transv")


def _grown(*counts: int) -> list[EncodedVideo]:
    session, grown = Session(ENGINE), []
    for number, count in enumerate(counts):
        session.append(noise(count, seed=number))
        grown.append(session.encoded)
    return grown


def test_what_was_is_given_back_value_by_value():
    early, late = _grown(5, 6)
    back = Snapshot.of(early).restore(late)
    assert (back.frames, back.tokens, back.duration_seconds) == (5, early.tokens, 5.0)
    assert (back.pixels, back.notes, back.nbytes) == (early.pixels, early.notes, early.nbytes)
    for got, want in zip(back.state.memories, early.state.memories, strict=True):
        assert type(got) is type(want)
        if isinstance(got, MambaMemory):
            assert got is want
        if isinstance(got, AttentionMemory):
            assert got.lengths == want.lengths
            length = want.lengths[0]
            assert got.k[:, :length].equal(want.k[:, :length])
    for got, want in zip(back.state.pending, early.state.pending, strict=True):
        assert got.seen == want.seen
        assert got.nbytes == want.nbytes
        assert bool(got.parked) == bool(want.parked)
        if got.parked:
            assert join(got.parked).hidden.equal(join(want.parked).hidden)


def test_parked_tokens_are_cut_within_a_part():
    early, late = _grown(2, 4)
    sites = tuple(
        None if site is None else replace(site, parked=(join(site.parked),) if site.parked else ())
        for site in late.state.pending
    )
    merged = replace(late, state=replace(late.state, pending=sites))
    back = Snapshot.of(early).restore(merged)
    for got, want in zip(back.state.pending, early.state.pending, strict=True):
        assert got.nbytes == want.nbytes


def test_a_snapshot_keeps_the_states_of_mamba_layers_alone():
    (encoded,) = _grown(9)
    snapshot = Snapshot.of(encoded)
    want = sum(m.nbytes for m in encoded.state.memories if isinstance(m, MambaMemory))
    assert 0 < snapshot.nbytes == want < encoded.nbytes


def _at(seconds: float) -> Snapshot:
    return Snapshot(
        seconds=seconds, frames=0, tokens=0, notes=0, pixels="", memories=(), pending=()
    )


@pytest.mark.parametrize("most", [2, 3, 8, 16])
def test_at_most_so_many_stay_the_first_and_the_last_among_them(most: int):
    kept: tuple[Snapshot, ...] = ()
    for second in range(300):
        kept = thinned((*kept, _at(float(second))), most)
        assert len(kept) <= most
        times = [one.seconds for one in kept]
        assert times == sorted(times)
        assert (times[0], times[-1]) == (0.0, float(second))


def test_law_nobody_lands_much_further_back_than_he_wanted():
    kept: tuple[Snapshot, ...] = ()
    for second in range(5000):
        kept = thinned((*kept, _at(float(second))), 8)
        if second % 7:
            continue
        times = np.array([one.seconds for one in kept])
        for back in (1, 2, 5, 20, 100, 1000):
            if back > second:
                continue
            landed = times[times <= second - back].max()
            # Eight points over four decades: a factor, and the step between two appends.
            assert second - landed <= 8 * back + 2, (second, back, times)


def test_few_are_left_alone():
    few = (_at(0.0), _at(1.0), _at(1.0))
    assert thinned(few, 3) == few
