"""Activations that are more than one pass of plain torch."""

from jaxtyping import Float
from torch import Tensor

from timeviper.ops import backend as backends


def squared_relu(x: Float[Tensor, "..."], *, backend: str | None = None) -> Float[Tensor, "..."]:
    """Square what is positive, and zero what is not.

    Args:
        x: values of any shape.
        backend: name of an implementation; None leaves the choice to the registry.

    Returns:
        `max(x, 0) ** 2` in the dtype of `x`, under autocast too.

    Raises:
        ConfigError: an unknown backend.

    Source: Primer (So et al. 2021), section 4; the MLPs of Nemotron-H.
    """
    chosen = backends.choose("squared_relu", backend, device_type=x.device.type)
    return chosen.run(x)
