"""Layer norm of a residual stream, with the update that the stream takes first."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from timeviper.ops import backend as backends


def add_layer_norm(
    stream: Float[Tensor, "... width"],
    update: Float[Tensor, "... width"] | None,
    weight: Float[Tensor, "width"],
    bias: Float[Tensor, "width"],
    *,
    eps: float,
    backend: str | None = None,
) -> tuple[Float[Tensor, "... width"], Float[Tensor, "... width"]]:
    """Add an update to the stream, and norm the sum.

    Args:
        stream: vectors along the last axis, any dtype.
        update: what the last layer adds to them; None where nothing was added yet.
        weight: one factor a channel.
        bias: one number a channel.
        eps: added to the variance.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        The sum and its norm, in the stream's dtype.

    Raises:
        ConfigError: an unknown backend.

    Source: Ba et al. 2016, Layer Normalization.
    """
    if update is None:
        return stream, F.layer_norm(stream, (stream.shape[-1],), weight, bias, eps)
    chosen = backends.choose("add_layer_norm", backend, device_type=stream.device.type)
    return chosen.run(stream, update, weight, bias, eps)
