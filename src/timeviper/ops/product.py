"""What an FP8 product is before its rows are scaled, and a weight for such products."""

from __future__ import annotations

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import ConfigError
from timeviper.ops.fp8 import E4M3, LEAST, MOST, MULTIPLE


class Fp8Weight(NamedTuple):
    """A weight in FP8 with one scale: `values * scale` is what it stands for."""

    values: Float[Tensor, "out in"]
    scale: Float[Tensor, ""]

    @classmethod
    @torch.no_grad()
    def of(cls, weight: Float[Tensor, "out in"]) -> Fp8Weight:
        """A weight rounded to e4m3, its largest value becoming the largest number.

        Raises:
            ConfigError: widths that are no multiples of 16.
        """
        if weight.shape[0] % MULTIPLE or weight.shape[1] % MULTIPLE:
            raise ConfigError(
                want=f"widths that are multiples of {MULTIPLE}",
                got=tuple(weight.shape),
                do="leave this layer in another precision",
            )
        scale = weight.abs().amax().float().clamp(min=LEAST) / MOST
        return cls((weight.float() / scale).to(E4M3), scale)


class Product(NamedTuple):
    """Rows of a product before their scales and the bias: `sums * scales + bias`."""

    sums: Float[Tensor, "... out"]
    scales: Float[Tensor, "... 1"]
    bias: Float[Tensor, "out"]

    def finished(self) -> Float[Tensor, "... out"]:
        """What it stands for, in float32."""
        return self.sums.float() * self.scales + self.bias.float()
