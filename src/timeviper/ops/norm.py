"""Root-mean-square norms: plain, after an addition, gated by group; in float32 whatever comes."""

from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import ConfigError
from timeviper.ops import backend as backends
from timeviper.ops.fp8 import Quantized, refuse_gradients


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
    _check_groups(x, group_size)
    chosen = backends.choose("gated_rms_norm", backend, device_type=x.device.type)
    return chosen.run(x, gate, weight, eps=eps, group_size=group_size)


def gated_rms_norm_fp8(
    x: Float[Tensor, "... width"],
    gate: Float[Tensor, "... width"],
    weight: Float[Tensor, "width"],
    *,
    eps: float,
    group_size: int,
    backend: str | None = None,
) -> Quantized:
    """As `gated_rms_norm`, rounded once, from float32 to e4m3.

    The scale is that of the largest value that a norm can have, the same for all rows: e4m3 is
    as exact for values a few powers of two below its largest, and no row need be seen whole.

    Args:
        x: output of the scan, any dtype.
        gate: same shape.
        weight: one factor a channel.
        eps: added to each group's mean square.
        group_size: channels a group; must divide the width.
        backend: name of an implementation; None leaves the choice to the registry.

    Raises:
        ConfigError: as `gated_rms_norm`, or an operand wants a gradient.
    """
    _check_groups(x, group_size)
    refuse_gradients(x, gate, weight)
    chosen = backends.choose("gated_rms_norm_fp8", backend, device_type=x.device.type)
    return chosen.run(x, gate, weight, eps=eps, group_size=group_size)


def add_rms_norm(
    x: Float[Tensor, "... width"],
    addition: Float[Tensor, "... width"] | None,
    weight: Float[Tensor, "width"],
    eps: float,
    *,
    backend: str | None = None,
) -> tuple[Float[Tensor, "... width"], Float[Tensor, "... width"]]:
    """Add, and norm the sum in the same pass.

    Args:
        x: the residual stream, any dtype.
        addition: what the layer before adds to it, or None.
        weight: one factor a channel.
        eps: added to the mean square.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        The sum, rounded to the wider dtype of the two, and the norm of that rounded sum.

    Raises:
        ConfigError: an unknown backend.

    Law: equals `x + addition`, then `rms_norm`.
    """
    if addition is None:
        return x, rms_norm(x, weight, eps, backend=backend)
    chosen = backends.choose("add_rms_norm", backend, device_type=x.device.type)
    return chosen.run(x, addition, weight, eps)


def add_rms_norm_fp8(
    x: Float[Tensor, "... width"],
    addition: Float[Tensor, "... width"] | None,
    weight: Float[Tensor, "width"],
    eps: float,
    *,
    backend: str | None = None,
) -> tuple[Float[Tensor, "... width"], Quantized]:
    """As `add_rms_norm`, the norm rounded once to e4m3, scaled as in `gated_rms_norm_fp8`.

    Args:
        x: the residual stream, any dtype.
        addition: what the layer before adds to it, or None.
        weight: one factor a channel.
        eps: added to the mean square.
        backend: name of an implementation; None leaves the choice to the registry.

    Raises:
        ConfigError: an unknown backend, or an operand wants a gradient.
    """
    refuse_gradients(x, addition, weight)
    chosen = backends.choose("add_rms_norm_fp8", backend, device_type=x.device.type)
    return chosen.run(x, addition, weight, eps)


def _check_groups(x: Tensor, group_size: int) -> None:
    width = x.shape[-1]
    if group_size < 1 or width % group_size:
        raise ConfigError(
            want=f"a group size that divides the width {width}",
            got=group_size,
            do="set group_size to intermediate size / n_groups",
        )
