"""The first half of a vision tower's MLP: product, bias and GELU by tanh."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from timeviper.ops import backend as backends


def linear_gelu(
    x: Float[Tensor, "... in"],
    weight: Float[Tensor, "out in"],
    bias: Float[Tensor, "out"],
    *,
    backend: str | None = None,
) -> Float[Tensor, "... out"]:
    """Multiply, add a bias and take the GELU.

    Args:
        x: rows along the last axis.
        weight: one row an output channel.
        bias: one number an output channel.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        `gelu(x @ weight.T + bias)`, the GELU by its tanh formula.

    Raises:
        ConfigError: an unknown backend.

    Source: Hendrycks and Gimpel 2016; SigLIP's `gelu_pytorch_tanh`.
    """
    chosen = backends.choose("linear_gelu", backend, device_type=x.device.type)
    return chosen.run(x, weight, bias)
