"""Batches from clips: all frames in order, a bounded number ahead, failures, stopping."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import numpy as np
import pytest
import torch

from tests.toy_engine import SIDE, noise
from timeviper.inference.conveyor import SLOTS, Conveyor
from timeviper.processing.image import ImageConfig, square_frames
from timeviper.video.clips import Clip
from timeviper.video.fingerprint import PixelChain

CPU = torch.device("cpu")


def clips(frames: np.ndarray, size: int, taken: list[int] | None = None) -> Iterator[Clip]:
    for start in range(0, len(frames), size):
        part = frames[start : start + size]
        if taken is not None:
            taken.append(start)
        times = np.arange(start, start + len(part), dtype=np.float64)
        yield Clip(part, times, times, (f"from {start}",))


def conveyor(made: Iterator[Clip], batch: int, chain: PixelChain | None = None) -> Conveyor:
    return Conveyor(
        made,
        lambda frames: square_frames(torch.from_numpy(frames), ImageConfig(size=SIDE)),
        side=SIDE,
        batch_frames=batch,
        device=CPU,
        chain=chain or PixelChain(),
    )


def working() -> int:
    return sum(thread.name == "timeviper-conveyor" for thread in threading.enumerate())


@pytest.mark.parametrize("size", [1, 3, 4, 9, 20])
@pytest.mark.parametrize("batch", [1, 4, 5, 30])
def test_batches_hold_the_frames_of_the_clips_whatever_the_sizes(size: int, batch: int) -> None:
    frames, before = noise(11), PixelChain("earlier")
    found, asked, notes = [], [], []
    with closing(conveyor(clips(frames, size), batch, PixelChain("earlier")).batches()) as batches:
        for one in batches:
            # The slot is used again: what is kept is copied.
            found.append(one.frames.clone())
            asked += one.asked.tolist()
            notes += one.notes
            before.add(frames[len(asked) - len(one.asked) : len(asked)])
            assert one.pixels == before.digest
    assert [len(part) for part in found[:-1]] == [batch] * (len(found) - 1)
    assert torch.equal(torch.cat(found), torch.from_numpy(frames))
    assert asked == list(range(11))
    assert notes == [f"from {start}" for start in range(0, 11, size)]
    assert working() == 0


def test_frames_of_another_shape_are_squared_on_the_way() -> None:
    frames = noise(3, side=40)
    with closing(conveyor(clips(frames, 2), 2).batches()) as batches:
        got = torch.cat([one.frames.clone() for one in batches])
    assert torch.equal(got, square_frames(torch.from_numpy(frames), ImageConfig(size=SIDE)))


def test_only_so_many_frames_are_taken_ahead() -> None:
    taken: list[int] = []
    with closing(conveyor(clips(noise(60), 2, taken), 2).batches()) as batches:
        next(batches)
        time.sleep(0.2)
        # The slots, and the clip that waits for one.
        assert len(taken) == SLOTS + 1
        next(batches)
        time.sleep(0.1)
        assert len(taken) == SLOTS + 2
    assert working() == 0


def test_what_came_before_a_failure_is_given_first() -> None:
    def broken() -> Iterator[Clip]:
        yield from clips(noise(4), 2)
        raise ValueError("a camera fell down")

    batches = conveyor(broken(), 2).batches()
    assert [next(batches).asked.tolist() for _ in range(2)] == [[0, 1], [2, 3]]
    with pytest.raises(ValueError, match="fell down"):
        next(batches)
    assert working() == 0


def test_whoever_stops_listening_ends_the_thread() -> None:
    batches = conveyor(clips(noise(60), 2), 2).batches()
    next(batches)
    assert working() == 1
    batches.close()
    assert working() == 0


def test_a_batch_is_not_overwritten_while_it_is_read() -> None:
    frames = noise(30)
    with closing(conveyor(clips(frames, 1), 1).batches()) as batches:
        for number, one in enumerate(batches):
            time.sleep(0.002)
            assert torch.equal(one.frames[0], torch.from_numpy(frames[number]))


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_on_a_gpu_frames_arrive_whole_while_it_works() -> None:
    frames, there = noise(200), torch.device("cuda")
    heavy = torch.randn(4096, 4096, device=there)
    made = Conveyor(
        clips(frames, 3),
        torch.from_numpy,
        side=SIDE,
        batch_frames=7,
        device=there,
        chain=PixelChain(),
    )
    found = []
    with torch.inference_mode(), closing(made.batches()) as batches:
        for one in batches:
            for _ in range(4):
                heavy = (heavy @ heavy).tanh()
            found.append(one.frames + 0)
    assert torch.equal(torch.cat(found).cpu(), torch.from_numpy(frames))
