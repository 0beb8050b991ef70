"""Rotary positions in the half-split convention of Llama and Qwen; knows nothing of caches."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

from timeviper.core.errors import ConfigError


def rotary(
    x: Float[Tensor, "token head head_dim"],
    positions: Int[Tensor, "token"],
    *,
    base: float,
) -> Float[Tensor, "token head head_dim"]:
    """Turn channel pairs (i, i + head_dim / 2) by an angle that grows with the position.

    Args:
        x: queries or keys, packed.
        positions: position of each token in its own sequence.
        base: `rope_theta`; pair i turns by position / base ** (2 i / head_dim).

    Returns:
        The turned vectors in the dtype of `x`.

    Raises:
        ConfigError: `head_dim` is odd.

    Source: RoFormer (Su et al. 2021), equation 34; pairing of transformers' Llama.
    Law: dot products depend on differences of positions only.
    """
    head_dim = x.shape[-1]
    if head_dim % 2:
        raise ConfigError(
            want="an even head_dim for rotary positions", got=head_dim, do="change head_dim"
        )
    # float32 angles, not float64: checkpoints were trained with them.
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    exponents = torch.arange(0, head_dim, 2, device=x.device, dtype=work) / head_dim
    angles = positions.to(work)[:, None] * (1.0 / base**exponents)
    cos, sin = angles.cos()[:, None], angles.sin()[:, None]
    first, second = x.to(work).chunk(2, dim=-1)
    turned = torch.cat([first * cos - second * sin, second * cos + first * sin], dim=-1)
    return turned.to(x.dtype)
