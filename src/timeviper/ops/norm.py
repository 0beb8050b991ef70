"""Root-mean-square norms, plain and gated by group, in float32 whatever the input."""

from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import ConfigError
from timeviper.ops import backend as backends


def rms_norm(
    x: Float[Tensor, "... width"],
    weight: Float[Tensor, "width"],
    eps: float,
    *,
    backend: str | None = None,
) -> Float[Tensor, "... width"]:
    """Scale each vector to unit root mean square, then by a weight a channel.

    Args:
        x: vectors along the last axis, any dtype.
        weight: one factor a channel, applied in float32 before the cast back.
        eps: added to the mean square.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        The normed vectors in the dtype of `x`.

    Raises:
        ConfigError: an unknown backend.

    Source: spec of Nemotron-H blocks; Zhang and Sennrich 2019.
    """
    chosen = backends.choose("rms_norm", backend, device_type=x.device.type)
    return chosen.run(x, weight, eps)


def gated_rms_norm(
    x: Float[Tensor, "... width"],
    gate: Float[Tensor, "... width"],
    weight: Float[Tensor, "width"],
    *,
    eps: float,
    group_size: int,
    backend: str | None = None,
) -> Float[Tensor, "... width"]:
    """Gate, then norm each group of channels by itself, then scale.

    Args:
        x: output of the scan, any dtype.
        gate: same shape; enters as `silu(gate)` before the norm. May be a slice.
        weight: one factor a channel.
        eps: added to each group's mean square.
        group_size: channels a group; must divide the width.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        The gated and normed vectors in the dtype of `x`.

    Raises:
        ConfigError: the group size does not divide the width, or an unknown backend.

    Source: Mamba-2, gated RMSNorm with `norm_before_gate=False`.
    """
    width = x.shape[-1]
    if group_size < 1 or width % group_size:
        raise ConfigError(
            want=f"a group size that divides the width {width}",
            got=group_size,
            do="set group_size to intermediate size / n_groups",
        )
    chosen = backends.choose("gated_rms_norm", backend, device_type=x.device.type)
    return chosen.run(x, gate, weight, eps=eps, group_size=group_size)
