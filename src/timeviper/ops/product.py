"""What FP8 products are made of: weights and rows with one scale, sums before theirs."""

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


class Fp8Rows(NamedTuple):
    """Rows in FP8 with one scale that was known before them: `values * scale` is meant."""

    values: Float[Tensor, "... width"]
    scale: Float[Tensor, ""]

    def dequantized(self) -> Float[Tensor, "... width"]:
        """The numbers they stand for, in float32."""
        return self.values.float() * self.scale


class Fp8Norm(NamedTuple):
    """A layer norm whose results are e4m3 numbers, times one scale.

    What is brought to zero mean and unit variance over n channels is nowhere larger than the root
    of n. So the scale is known before any row: the largest result that can be becomes the largest
    number, no row has to be searched, and e4m3's own exponents take what is small.

    Args:
        weight: the norm's factors in units of the scale.
        bias: the norm's bias in units of the scale.
        scale: of the results.
        eps: added to the variance.
    """

    weight: Float[Tensor, " width"]
    bias: Float[Tensor, " width"]
    scale: Float[Tensor, ""]
    eps: float

    @classmethod
    @torch.no_grad()
    def of(
        cls, weight: Float[Tensor, " width"], bias: Float[Tensor, " width"], eps: float
    ) -> Fp8Norm:
        """The norm with these factors and this bias."""
        wide, offset = weight.float(), bias.float()
        largest = (wide.abs() * len(wide) ** 0.5 + offset.abs()).amax()
        scale = largest.clamp(min=LEAST) / MOST
        return cls(wide / scale, offset / scale, scale, eps)


class Product(NamedTuple):
    """Rows of a product before their scales and the bias: `sums * scales + bias`."""

    sums: Float[Tensor, "... out"]
    scales: Float[Tensor, "... 1"]
    bias: Float[Tensor, "out"]

    def finished(self) -> Float[Tensor, "... out"]:
        """What it stands for, in float32."""
        return self.sums.float() * self.scales + self.bias.float()
