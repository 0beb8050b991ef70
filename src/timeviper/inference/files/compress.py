"""Make keys and values smaller: bfloat16, or eight bits with a scale for each head and block."""

from __future__ import annotations

from enum import StrEnum

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

# Tokens that share a scale: finer follows outliers better, a scale is four bytes a head.
BLOCK_TOKENS = 64
_FP8 = torch.float8_e4m3fn
_LARGEST = torch.finfo(_FP8).max


class Compress(StrEnum):
    """How keys, values and parked tokens are stored; the Mamba state is always kept exactly."""

    # As they lie in memory.
    NONE = "none"
    # Half the bytes of float32; changes nothing of what was computed in bfloat16.
    BF16 = "bf16"
    # Keys and values in eight bits, parked tokens in bfloat16.
    FP8 = "fp8"


def to_fp8(
    x: Float[Tensor, "token head width"],
) -> tuple[Float[Tensor, "token head width"], Float[Tensor, "block head"]]:
    """Numbers in e4m3, each block of tokens and head scaled so that its largest is the format's.

    Args:
        x: keys or values of packed tokens.

    Returns:
        The small numbers, and float32 scales by which they are multiplied.
    """
    blocks = _blocks(x.float())
    largest = blocks.abs().amax((1, 3))
    scales = torch.where(largest > 0, largest / _LARGEST, torch.ones_like(largest))
    small = (blocks / scales[:, None, :, None]).to(_FP8)
    return small.flatten(0, 1)[: len(x)], scales


def from_fp8(
    small: Float[Tensor, "token head width"],
    scales: Float[Tensor, "block head"],
    dtype: torch.dtype,
) -> Float[Tensor, "token head width"]:
    """What `to_fp8` was given, up to rounding.

    Args:
        small: numbers in e4m3.
        scales: of each block and head.
        dtype: of the result.
    """
    spread = scales.repeat_interleave(BLOCK_TOKENS, 0)[: len(small)]
    return (small.float() * spread[:, :, None]).to(dtype)


def num_blocks(tokens: int) -> int:
    """Blocks that so many tokens take."""
    return -(-tokens // BLOCK_TOKENS)


def _blocks(x: Tensor) -> Tensor:
    padding = (0, 0, 0, 0, 0, -len(x) % BLOCK_TOKENS)
    return F.pad(x, padding).unflatten(0, (-1, BLOCK_TOKENS))
