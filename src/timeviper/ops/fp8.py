"""What a tensor in FP8 is: e4m3 values with one float32 scale a row, and who may make one."""

from __future__ import annotations

from typing import Literal, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import ConfigError
from timeviper.ops.triton_probe import Probe

E4M3 = torch.float8_e4m3fn
# The largest e4m3 number; a row's largest value is mapped onto it.
MOST = 448.0
# Smallest divisor of a row: a row of zeros stays zeros, and nothing is divided by zero.
LEAST = 1e-30
# Widths of FP8 products must be multiples of it.
MULTIPLE = 16
# FP8 products begin with Ada (8.9) and Hopper (9.0).
_OLDEST_CAPABILITY = (8, 9)

# What is computed in float32 before the values are rounded.
Activation = Literal["none", "relu2", "gelu_tanh"]


class Quantized(NamedTuple):
    """A matrix in FP8: `values * scales` is what it stands for.

    `values` are e4m3; `scales` are float32, one a row.
    """

    values: Float[Tensor, "... width"]
    scales: Float[Tensor, "... 1"]

    @property
    def device(self) -> torch.device:
        """Where it is."""
        return self.values.device

    def dequantized(self, dtype: torch.dtype = torch.float32) -> Float[Tensor, "... width"]:
        """The numbers it stands for, rounded to `dtype`."""
        return (self.values.float() * self.scales).to(dtype)

    def rows(self) -> Quantized:
        """The same with all leading axes as one."""
        return Quantized(self.values.flatten(0, -2), self.scales.flatten(0, -2))


# What a linear layer may read.
Operand = Tensor | Quantized


def probe_fp8(device_type: str) -> Probe:
    """Ask whether a kind of device multiplies FP8 matrices.

    Args:
        device_type: where the tensors are, "cpu" or "cuda".

    Returns:
        Available on CUDA devices of compute capability 8.9 and newer.
    """
    if device_type != "cuda":
        return Probe(available=False, why=f"no FP8 products on {device_type}")
    if not torch.cuda.is_available():
        return Probe(available=False, why="no CUDA device found")
    capability = torch.cuda.get_device_capability()
    found = ".".join(map(str, capability))
    if capability < _OLDEST_CAPABILITY:
        return Probe(available=False, why=f"compute capability {found} is older than 8.9")
    return Probe(available=True, why=f"FP8 products of compute capability {found}")


def refuse_gradients(*tensors: Tensor | None) -> None:
    """Stop where a gradient would be lost: rounding to FP8 has none.

    Raises:
        ConfigError: gradients are enabled and one of the tensors wants one.
    """
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in tensors):
        raise ConfigError(
            want="no gradients through FP8 products",
            got="a tensor that requires one",
            do="train in another precision, or compute under torch.no_grad()",
        )
