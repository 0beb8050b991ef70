"""Two ways from clips to vision tokens give the same, and pieces are joined up to a size."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from tests.toy_engine import noise
from tests.unit.inference.test_conveyor import CPU, clips, conveyor
from timeviper.inference.seeing import Seen, gathered, seen_in_batches, seen_side_by_side
from timeviper.inference.timing import Pacer
from timeviper.video.fingerprint import PixelChain


def look(frames: torch.Tensor) -> torch.Tensor:
    return frames.float().mean((1, 2))[:, None]


def whole(seen) -> Seen:
    [one] = gathered(seen, 10**6)
    return one


def test_both_ways_see_the_same() -> None:
    frames = noise(13)
    one = whole(
        seen_side_by_side(
            clips(frames, 4),
            lambda clip: look(torch.from_numpy(clip.frames)),
            PixelChain(),
            threads=2,
            clock=Pacer(CPU),
        )
    )
    other = whole(seen_in_batches(conveyor(clips(frames, 5), 3), look, clock=Pacer(CPU)))
    assert torch.equal(one.vision, other.vision)
    assert torch.equal(one.vision, look(torch.from_numpy(frames)))
    assert one.asked.tolist() == other.asked.tolist() == list(range(13))
    assert one.pixels == other.pixels


def pieces(*lengths: int):
    start = 0
    for length in lengths:
        span = np.arange(start, start + length, dtype=np.float64)
        yield Seen(
            asked=span, notes=(f"{length}",), pixels=f"up to {start + length}",
            vision=torch.from_numpy(span)[:, None, None],
        )  # fmt: skip
        start += length


@pytest.mark.parametrize(
    ("lengths", "most", "want"),
    [
        ((4, 4, 4), 8, [8, 4]),
        ((4, 4, 4), 9, [8, 4]),
        ((4, 4, 4), 4, [4, 4, 4]),
        ((4, 4, 4), 1, [4, 4, 4]),
        ((2, 9, 1, 1), 5, [2, 9, 2]),
        ((), 5, []),
    ],
)
def test_neighbours_are_joined_up_to_a_size(lengths, most, want) -> None:
    found = list(gathered(pieces(*lengths), most))
    assert [len(piece.asked) for piece in found] == want
    everything = [second for piece in found for second in piece.asked.tolist()]
    assert everything == list(range(sum(lengths)))
    assert [piece.vision.flatten().tolist() for piece in found] == [
        piece.asked.tolist() for piece in found
    ]
    assert [note for piece in found for note in piece.notes] == [str(n) for n in lengths]
    assert [piece.pixels for piece in found] == [f"up to {n}" for n in np.cumsum(want)]


def test_a_full_piece_does_not_wait_for_the_next_one() -> None:
    taken = []

    def slow():
        for piece in pieces(4, 4, 4):
            taken.append(piece)
            yield piece

    next(gathered(slow(), 4))
    assert len(taken) == 1
