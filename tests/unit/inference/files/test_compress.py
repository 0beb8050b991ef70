"""Eight bits with a scale a block and head: how near, and what it does to strange numbers."""

from __future__ import annotations

import pytest
import torch

from tests.tolerances import close
from timeviper.inference.files.compress import BLOCK_TOKENS, from_fp8, num_blocks, to_fp8


@pytest.mark.parametrize("tokens", [1, 63, 64, 65, 200])
def test_shapes_and_distance(tokens):
    x = torch.randn(tokens, 3, 8)
    small, scales = to_fp8(x)
    assert small.shape == x.shape
    assert scales.shape == (num_blocks(tokens), 3)
    assert (small.dtype, scales.dtype) == (torch.float8_e4m3fn, torch.float32)
    got = from_fp8(small, scales, torch.float32)
    close("numbers", got=got, want=x, tol=4e-2)
    # e4m3 has three bits behind the point: a number is moved by a sixteenth of itself at most.
    normal = x.abs() > scales.repeat_interleave(BLOCK_TOKENS, 0)[:tokens, :, None] * 2**-6
    assert ((got - x).abs()[normal] <= x.abs()[normal] / 16 * 1.0001).all()


def test_nothing_at_all():
    small, scales = to_fp8(torch.zeros(0, 3, 8))
    assert small.shape == (0, 3, 8)
    assert scales.shape == (0, 3)
    assert from_fp8(small, scales, torch.float64).shape == (0, 3, 8)


def test_a_block_that_is_large_does_not_blur_its_neighbours():
    x = torch.randn(2 * BLOCK_TOKENS, 2, 8)
    x[:BLOCK_TOKENS, 0] *= 1e6
    got = from_fp8(*to_fp8(x), torch.float32)
    close("other block", got=got[BLOCK_TOKENS:], want=x[BLOCK_TOKENS:], tol=4e-2)
    close("other head", got=got[:, 1], want=x[:, 1], tol=4e-2)


@pytest.mark.parametrize("size", [1e-30, 1e-3, 1e4, 1e30])
def test_no_size_overflows_and_zeros_stay_zeros(size):
    x = torch.randn(70, 1, 4) * size
    x[3] = 0
    got = from_fp8(*to_fp8(x), torch.float32)
    assert got.isfinite().all()
    assert (got[3] == 0).all()
    close("numbers", got=got, want=x, tol=4e-2)
    assert (from_fp8(*to_fp8(torch.zeros(5, 1, 4)), torch.float32) == 0).all()


def test_bfloat16_goes_in_and_comes_out():
    x = torch.randn(10, 2, 4).bfloat16()
    got = from_fp8(*to_fp8(x), torch.bfloat16)
    assert got.dtype == torch.bfloat16
    close("numbers", got=got, want=x, tol=5e-2)
