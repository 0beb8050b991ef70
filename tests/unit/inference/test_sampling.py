"""Choosing tokens: greedy, temperature, top-p, and draws that repeat with their seed."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from tests.tolerances import TOL, close
from timeviper.core.errors import RequestError
from timeviper.inference.sampling import (
    Chooser,
    TokenPolicy,
    choose,
    draw,
    greedy,
    probabilities,
)

SCORES = torch.tensor([1.0, 3.0, 2.0, 3.0, -4.0])


def test_greedy_takes_the_best_and_of_equals_the_first():
    assert greedy(torch.stack([SCORES, -SCORES])).tolist() == [1, 4]


def test_probabilities_are_a_softmax_sharpened_by_temperature():
    want = [math.exp(s / 0.5) for s in SCORES.tolist()]
    got = probabilities(SCORES, temperature=0.5)
    close("softmax", got=got, want=[w / sum(want) for w in want], tol=TOL.model.f64)


@given(
    scores=st.lists(st.floats(-8, 8), min_size=1, max_size=20),
    top_p=st.floats(0.01, 1.0),
    temperature=st.floats(0.1, 3.0),
)
def test_law_top_p_keeps_the_fewest_likeliest_tokens(scores, top_p, temperature):
    whole = probabilities(torch.tensor(scores), temperature=temperature)
    kept = probabilities(torch.tensor(scores), temperature=temperature, top_p=top_p)
    assert float(kept.sum()) == pytest.approx(1.0)
    inside = kept > 0
    assert float(whole[inside].sum()) >= top_p - 1e-9
    # Without its least likely member the set would hold too little.
    assert float(whole[inside].sum() - whole[inside].min()) < top_p + 1e-9
    if not inside.all():
        assert float(whole[inside].min()) >= float(whole[~inside].max())


def test_a_tiny_top_p_is_greedy():
    chances = probabilities(SCORES, temperature=1.0, top_p=1e-6)
    assert chances.nonzero().flatten().tolist() == [1]


def test_draws_follow_the_chances_and_never_meet_chance_zero():
    chances = torch.tensor([0.0, 0.7, 0.0, 0.3, 0.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(0)
    found = [draw(chances, generator) for _ in range(2000)]
    assert set(found) == {1, 3}
    assert found.count(1) / len(found) == pytest.approx(0.7, abs=0.04)


def test_rounding_of_the_sum_does_not_reach_beyond_the_last_token():
    chances = torch.tensor([0.5, 0.5 - 1e-17, 0.0], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    assert {draw(chances, generator) for _ in range(200)} == {0, 1}


def test_rows_draw_with_their_own_numbers():
    policy = TokenPolicy(temperature=1.0, seed=3)
    alone = Chooser(policy)
    want = [alone.draw(SCORES) for _ in range(12)]
    row, other = Chooser(policy), Chooser(TokenPolicy(temperature=1.0, seed=4))
    rows = torch.stack([SCORES, SCORES.flip(0), SCORES])
    got = [choose(rows, [row, Chooser(TokenPolicy()), other]) for _ in range(12)]
    assert [tokens[0] for tokens in got] == want
    assert {tokens[1] for tokens in got} == {1}
    assert [tokens[2] for tokens in got] != want


def test_the_seed_decides():
    def drawn(seed: int) -> list[int]:
        chooser = Chooser(TokenPolicy(temperature=2.0, seed=seed))
        return [chooser.draw(SCORES) for _ in range(20)]

    assert drawn(1) == drawn(1)
    assert drawn(1) != drawn(2)


@pytest.mark.parametrize("temperature", [-0.1, math.nan, math.inf])
def test_a_temperature_without_sense_is_refused(temperature):
    with pytest.raises(RequestError, match="temperature of 0 or more"):
        TokenPolicy(temperature=temperature)


@pytest.mark.parametrize("top_p", [0.0, -1.0, 1.01, math.nan])
def test_a_top_p_without_sense_is_refused(top_p):
    with pytest.raises(RequestError, match="top_p above 0"):
        TokenPolicy(top_p=top_p)
