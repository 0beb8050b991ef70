"""Step sizes of the scan: what turns the projected dt into the dt of the recurrence."""

from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F


def step_sizes(
    dt: Float[Tensor, "token head"],
    bias: Float[Tensor, "head"] | None,
    *,
    softplus: bool,
    limit: tuple[float, float],
) -> Float[Tensor, "token head"]:
    """Bias, softplus, limits, in this order.

    Args:
        dt: projected step sizes in the dtype to work in.
        bias: one value a head, or None.
        softplus: whether softplus follows the bias.
        limit: lowest and highest step size; (0, inf) leaves softplus outputs as they are.

    Returns:
        Step sizes in the dtype of `dt`.

    Source: Mamba-2 reference semantics of `time_step_limit`.
    """
    steps = dt if bias is None else dt + bias.to(dt.dtype)
    if softplus:
        steps = F.softplus(steps)
    lowest, highest = limit
    # Softplus is never negative: the usual limit costs no pass and no gradient mask.
    if softplus and lowest <= 0.0 and highest == float("inf"):
        return steps
    return steps.clamp(lowest, highest)
