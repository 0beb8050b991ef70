"""Activations in plain torch: run anywhere, oracle of the kernels."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def squared_relu(x: Float[Tensor, "..."]) -> Float[Tensor, "..."]:
    """Square in plain torch; see `timeviper.ops.activation.squared_relu`.

    Args:
        x: values of any shape.

    Returns:
        `max(x, 0) ** 2` in the dtype of `x`.
    """
    # A product, not a power: autocast would take a power in float32, three times the bytes.
    positive = F.relu(x)
    return positive * positive
