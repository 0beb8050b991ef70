"""Products of a few rows in plain torch: run anywhere, oracle of the kernels."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from timeviper.ops import activation_torch, norm_torch


def few_rows(
    x: Float[Tensor, "row in"], weight: Float[Tensor, "out in"], *, relu2: bool = False
) -> Float[Tensor, "row out"]:
    """Multiply in plain torch; see `timeviper.ops.few_rows.few_rows`.

    Args:
        x: one row a sequence.
        weight: of a linear layer.
        relu2: square what is positive, zero what is not.
    """
    y = F.linear(x, weight)
    return activation_torch.squared_relu(y) if relu2 else y


def few_rows_parts(
    x: Float[Tensor, "row in"], weight: Float[Tensor, "out in"]
) -> Float[Tensor, "part row out"]:
    """One part; see `timeviper.ops.few_rows.few_rows_parts`.

    Args:
        x: one row a sequence.
        weight: of a linear layer.
    """
    return F.linear(x, weight)[None]


def settle(
    x: Float[Tensor, "row width"],
    parts: Float[Tensor, "part row width"],
    weight: Float[Tensor, "width"],
    eps: float,
) -> tuple[Float[Tensor, "row width"], Float[Tensor, "row width"]]:
    """Add and norm in plain torch; see `timeviper.ops.few_rows.settle`.

    Args:
        x: the residual stream.
        parts: to be added up.
        weight: one factor a channel.
        eps: added to the mean square.

    Returns:
        The sum and its norm.
    """
    total = x + parts.sum(0).to(x.dtype)
    return total, norm_torch.rms_norm(total, weight, eps)
