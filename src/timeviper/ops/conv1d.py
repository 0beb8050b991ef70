"""Causal depthwise convolution over packed sequences, with the tail each one carries on."""

from collections.abc import Sequence
from typing import Literal

from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import ConfigError, LayoutError
from timeviper.ops import backend as backends
from timeviper.ops.packing import check_lengths


def causal_conv1d(  # noqa: PLR0913
    x: Float[Tensor, "token channel"],
    weight: Float[Tensor, "channel width"],
    bias: Float[Tensor, "channel"] | None = None,
    tail: Float[Tensor, "sequence past channel"] | None = None,
    *,
    lengths: Sequence[int],
    activation: Literal["silu"] | None = "silu",
    backend: str | None = None,
) -> tuple[Float[Tensor, "token channel"], Float[Tensor, "sequence past channel"]]:
    """Convolve each channel with its own short filter over the past of its sequence.

    Args:
        x: packed tokens; may be a slice of a wider projection.
        weight: one filter a channel, the last tap for the present token.
        bias: added before the activation.
        tail: the `width - 1` inputs before each sequence's first token; None means zeros.
        lengths: tokens of each sequence; one without tokens keeps its tail.
        activation: "silu" or None.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        Outputs and the new tails, both in the dtype of `x`.

    Raises:
        LayoutError: lengths, channels or tail do not fit.
        ConfigError: an unknown activation or backend.

    Source: Mamba (Gu and Dao 2023), section 3.4.
    Law: cut anywhere and carry the tail, and the outputs are those of one call.
    """
    _check(x, weight, tail, lengths, activation)
    chosen = backends.choose("causal_conv1d", backend, device_type=x.device.type)
    return chosen.run(x, weight, bias, tail, lengths=lengths, activation=activation)


def _check(
    x: Tensor,
    weight: Tensor,
    tail: Tensor | None,
    lengths: Sequence[int],
    activation: str | None,
) -> None:
    """Refuse inputs that do not fit together."""
    check_lengths(lengths, x.shape[0])
    if activation not in ("silu", None):
        raise ConfigError(want="activation 'silu' or None", got=activation, do="pick one")
    if weight.shape[0] != x.shape[1]:
        raise LayoutError(
            want=f"a filter for each of {x.shape[1]} channels",
            got=tuple(weight.shape),
            do="pass weight as (channel, width)",
        )
    wanted = (len(lengths), weight.shape[1] - 1, x.shape[1])
    if tail is not None and tuple(tail.shape) != wanted:
        raise LayoutError(
            want=f"a tail of shape {wanted} (sequence, width - 1, channel)",
            got=tuple(tail.shape),
            do="carry the tail that the previous call returned",
        )
