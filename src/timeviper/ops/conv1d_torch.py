"""The short convolution as shifted sums in plain torch: runs anywhere, oracle of the kernels."""

from collections.abc import Sequence
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from timeviper.ops.packing import is_even


def causal_conv1d(
    x: Float[Tensor, "token channel"],
    weight: Float[Tensor, "channel width"],
    bias: Float[Tensor, "channel"] | None = None,
    tail: Float[Tensor, "sequence past channel"] | None = None,
    *,
    lengths: Sequence[int],
    activation: Literal["silu"] | None = "silu",
) -> tuple[Float[Tensor, "token channel"], Float[Tensor, "sequence past channel"]]:
    """Convolve in plain torch; see `timeviper.ops.conv1d.causal_conv1d`, which has checked it all.

    Args:
        x: packed tokens.
        weight: one filter a channel.
        bias: added before the activation.
        tail: inputs before each sequence's first token; None means zeros.
        lengths: tokens of each sequence.
        activation: "silu" or None.

    Returns:
        Outputs and the new tails, both in the dtype of `x`.
    """
    past = weight.shape[1] - 1
    if tail is None:
        tail = x.new_zeros(len(lengths), past, x.shape[1])
    if is_even(lengths):
        rows = x.reshape(len(lengths), lengths[0], x.shape[1])
        extended = torch.cat([tail.to(x.dtype), rows], dim=1)
        y = _filter(extended, weight, bias, activation).reshape(x.shape)
        # A copy: a view would keep the whole input alive inside the decoder state.
        return y, extended[:, lengths[0] :].clone()
    places, outputs, tails = _ragged(lengths, past, x.device)
    extended = torch.cat([x, tail.to(x.dtype).flatten(0, 1)]).index_select(0, places)
    y = _filter(extended[None], weight, bias, activation)[0]
    new_tail = extended.index_select(0, tails).reshape(len(lengths), past, x.shape[1])
    return y.index_select(0, outputs), new_tail


def _filter(
    extended: Tensor, weight: Tensor, bias: Tensor | None, activation: str | None
) -> Tensor:
    """Sum of shifted inputs: few fused passes in token-major layout, no transpose."""
    dtype = extended.dtype
    work = torch.float64 if dtype == torch.float64 else torch.float32
    taps = weight.to(work).t()
    count = extended.shape[1] - weight.shape[1] + 1
    # float32 sums: rounding after every tap would lose bits in bfloat16.
    y = extended[:, :count] * taps[0]
    for tap in range(1, weight.shape[1]):
        y = torch.addcmul(y, extended[:, tap : tap + count].to(work), taps[tap])
    if bias is not None:
        y = y + bias.to(work)
    return (F.silu(y) if activation == "silu" else y).to(dtype)


def _ragged(
    lengths: Sequence[int], past: int, device: torch.device
) -> tuple[Tensor, Tensor, Tensor]:
    """Where each row of (tail, tokens, tail, tokens, …) comes from, and where results lie.

    The filter runs once over all rows; the outputs that straddle two sequences are not picked.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    tokens, rows = int(sizes.sum()), sizes + past
    starts, row_starts = np.cumsum(sizes) - sizes, np.cumsum(rows) - rows
    outputs = np.arange(tokens) + np.repeat(row_starts - starts, sizes)
    places = np.empty(int(rows.sum()), dtype=np.int64)
    places[outputs + past] = np.arange(tokens)
    heads = (row_starts[:, None] + np.arange(past)).reshape(-1)
    places[heads] = tokens + np.arange(len(heads))
    tails = (row_starts + sizes)[:, None] + np.arange(past)
    moved = [torch.from_numpy(a.reshape(-1)).to(device) for a in (places, outputs, tails)]
    return moved[0], moved[1], moved[2]
