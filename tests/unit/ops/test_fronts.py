"""Tables of what lies in front: who is read together, and what can take whose place."""

from __future__ import annotations

import pytest
import torch

from timeviper.core.errors import LayoutError
from timeviper.ops.attention_parts import SharedKeys, together
from timeviper.ops.fronts import STEP_ROWS, Fronts, step_tile

HERE = torch.device("cpu")


def keys(length: int) -> SharedKeys:
    k, v = torch.zeros(2, length + 1, 2, 8)
    return SharedKeys(k=k, v=v, length=length)


def test_sequences_behind_the_same_keys_fill_tiles_together() -> None:
    one, other = keys(7), keys(5)
    again = SharedKeys(k=one.k, v=one.v, length=7)
    tables = Fronts([one, other, None, again, one], at_once=2, device=HERE)
    assert tables.members.tolist() == [[0, 3], [4, -1], [1, -1]]
    assert tables.places[:, 2].tolist() == [7, 7, 5]
    assert tables.places[2, :2].tolist() == [other.k.data_ptr(), other.v.data_ptr()]
    assert not tables.everywhere
    assert tables.queries == 5


def test_queries_of_a_sequence_follow_one_another() -> None:
    one, other = keys(7), keys(5)
    tables = Fronts([one, other, one], at_once=4, device=HERE, counts=[3, 0, 2])
    assert tables.members.tolist() == [[0, 1, 2, 3], [4, -1, -1, -1]]
    assert tables.queries == 5


def test_other_keys_take_the_place_of_the_first_in_the_same_table() -> None:
    films = [keys(n) for n in (3, 4, 5)]
    tables = Fronts.of_step([films[0], films[1]], ratio=5, device=HERE)
    places = tables.places
    tables.load([films[2], films[0]])
    assert tables.places is places
    assert places[:, 2].tolist() == [5, 3]
    assert tables.shared == (films[2], films[0])
    # One tile for both, a sequence more, or one with nothing in front: another launch.
    for other in ([films[0]] * 2, films, [films[0], None], [films[0], keys(0)]):
        assert not tables.takes(other)
        with pytest.raises(LayoutError, match="2 sequences in 2 tiles"):
            tables.load(other)


def test_nothing_in_front_of_anyone_is_an_empty_table() -> None:
    tables = Fronts.of_step([None, keys(0)], ratio=2, device=HERE)
    assert tables.places.shape == (0, 3)
    assert tables.members.shape == (0, step_tile(2))
    assert together([None, keys(0)]) == []


def test_keys_that_no_kernel_can_walk_are_refused() -> None:
    wide = torch.zeros(2, 9, 2, 16)
    apart = SharedKeys(k=wide[0, :, :, :8], v=wide[1, :, :, :8], length=9)
    with pytest.raises(LayoutError, match="one after another"):
        Fronts.of_step([apart], ratio=1, device=HERE)


def test_the_very_same_keys_are_not_only_equal_ones() -> None:
    one, twin = keys(4), keys(4)
    shorter, same = (SharedKeys(k=one.k, v=one.v, length=n) for n in (3, 4))
    found = together([one, twin, shorter, same])
    assert [numbers for _, numbers in found] == [[0, 3], [1], [2]]


@pytest.mark.parametrize(("ratio", "tile"), [(1, STEP_ROWS), (5, 12), (64, 1), (100, 1)])
def test_a_tile_holds_whole_sequences(ratio: int, tile: int) -> None:
    assert step_tile(ratio) == tile
