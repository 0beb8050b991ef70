"""Attention of a chunk behind a long past on a CPU: two calls without a mask, merged."""

from __future__ import annotations

import torch
from jaxtyping import Float
from torch import Tensor


def takes(q: Tensor, k: Tensor, v: Tensor) -> bool:
    """Whether `after_past` may be called: it runs on a CPU and has no gradient."""
    if q.device.type != "cpu":
        return False
    return not (torch.is_grad_enabled() and any(x.requires_grad for x in (q, k, v)))


def after_past(
    q: Float[Tensor, "sequence place head head_dim"],
    k: Float[Tensor, "sequence key kv_head head_dim"],
    v: Float[Tensor, "sequence key kv_head head_dim"],
    scale: float | None,
) -> Float[Tensor, "sequence place head head_dim"]:
    """Causal attention of the last places of each sequence to all its keys.

    A mask would be written out as floats for every block of queries, which takes longer than
    the attention itself.

    Args:
        q: queries of the newest places, at least one.
        k: keys of all places, more than there are queries.
        v: values of the same places.
        scale: factor of the scores; None means 1 / sqrt(head_dim).

    Returns:
        Weighted values of the queries.

    Source: parts of a softmax, merged by their log-sum-exp (Milakov and Gimelshein 2018).
    """
    q, k, v = (x.transpose(1, 2) for x in (q, k, v))
    past = k.shape[2] - q.shape[2]
    flash = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
    old, old_mass = flash(q, k[:, :, :past], v[:, :, :past], 0.0, False, scale=scale)
    new, new_mass = flash(q, k[:, :, past:], v[:, :, past:], 0.0, True, scale=scale)
    share = torch.sigmoid(new_mass - old_mass).to(old.dtype).unsqueeze(-1)
    return torch.lerp(old, new, share).transpose(1, 2)
