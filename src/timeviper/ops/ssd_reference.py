"""The selective state-space scan, one token at a time in float64: the oracle of `ops.ssd`."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from timeviper.ops.ssd_steps import step_sizes


def ssd(  # noqa: PLR0913
    x: Float[Tensor, "token head head_dim"],
    dt: Float[Tensor, "token head"],
    A: Float[Tensor, "head"],
    B: Float[Tensor, "token group state_size"],
    C: Float[Tensor, "token group state_size"],
    D: Float[Tensor, "head"] | None = None,
    state: Float[Tensor, "sequence head head_dim state_size"] | None = None,
    *,
    lengths: Sequence[int],
    dt_bias: Float[Tensor, "head"] | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    chunk_size: int = 64,
) -> tuple[
    Float[Tensor, "token head head_dim"],
    Float[Tensor, "sequence head head_dim state_size"],
]:
    """Run the recurrence as it is written, every product in float64.

    Args:
        x: inputs, packed.
        dt: step sizes before bias, softplus and limits.
        A: negative decay rate a head.
        B: input projections; head h reads group h // (heads / groups).
        C: output projections, grouped like B.
        D: weight of the direct path a head, or None.
        state: what each sequence starts from; None means zeros.
        lengths: tokens of each sequence.
        dt_bias: added to `dt` first.
        dt_softplus: whether softplus follows the bias.
        dt_limit: lowest and highest step size allowed.
        chunk_size: ignored; here so that the signatures agree.

    Returns:
        Outputs in the dtype of `x`; final states in float32 (float64 for float64 inputs).

    Source: Mamba-2 (Dao and Gu 2024), equation 1 with the discretisation of section 2.
    """
    del chunk_size
    ratio = x.shape[1] // B.shape[1]
    steps = step_sizes(dt.double(), dt_bias, softplus=dt_softplus, limit=dt_limit)
    decay = (steps * A.double()).exp()
    entering = (x.double() * steps[..., None])[..., None]
    inputs = B.double().repeat_interleave(ratio, dim=1)[:, :, None]
    readers = C.double().repeat_interleave(ratio, dim=1)
    if state is None:
        state = x.new_zeros(len(lengths), *x.shape[1:], B.shape[2])
    finals: list[Tensor] = []
    outputs: list[Tensor] = []
    token = 0
    for length, start in zip(lengths, state.double().unbind(0), strict=True):
        h = start
        for t in range(token, token + length):
            h = decay[t, :, None, None] * h + entering[t] * inputs[t]
            outputs.append(torch.einsum("hpn,hn->hp", h, readers[t]))
        token += length
        finals.append(h)
    y = torch.stack(outputs) if outputs else x.double()
    if D is not None:
        y = y + D.double()[:, None] * x.double()
    kept = torch.float64 if x.dtype == torch.float64 else torch.float32
    final = torch.stack(finals) if finals else state
    return y.to(x.dtype), final.to(kept)
