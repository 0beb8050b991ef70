"""Grouped-query attention of ragged sequences in one launch of torch's FlashAttention."""

from collections.abc import Sequence

import torch
from torch import Tensor

from timeviper.ops import attention_torch
from timeviper.ops.attention_parts import Part, Shared
from timeviper.ops.packing import from_rows
from timeviper.ops.triton_probe import Probe

_HALF = (torch.float16, torch.bfloat16)
# The kernel's first generation, and the widest head it holds.
_OLDEST_CAPABILITY = (8, 0)
_WIDEST_HEAD = 256


def probe_flash(device_type: str) -> Probe:
    """Whether torch's FlashAttention can run for a kind of device, and why."""
    if device_type != "cuda":
        return Probe(available=False, why=f"FlashAttention is not built for {device_type}")
    if not torch.backends.cuda.is_flash_attention_available():
        return Probe(available=False, why="this torch was built without FlashAttention")
    if torch.cuda.get_device_capability() < _OLDEST_CAPABILITY:
        return Probe(available=False, why="compute capability older than 8.0")
    why = "torch's FlashAttention over packed sequences (SDPA for float32)"
    return Probe(available=True, why=why)


def attention(  # noqa: PLR0913
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_lengths: Sequence[int],
    k_lengths: Sequence[int],
    causal: bool = True,
    scale: float | None = None,
    shared: Shared | None = None,
) -> Tensor:
    """As `ops.attention.attention`, whose checks have passed.

    The kernel takes halves only: float32 and float64 go through SDPA, as the probe says.
    """
    halves = all(x.dtype in _HALF for x in (q, k, v))
    if not halves or q.shape[-1] > _WIDEST_HEAD or not q.shape[0] or not max(k_lengths) or shared:
        return attention_torch.attention(
            q,
            k,
            v,
            q_lengths=q_lengths,
            k_lengths=k_lengths,
            causal=causal,
            scale=scale,
            shared=shared,
        )
    return packed(q, k, v, q_lengths=q_lengths, k_lengths=k_lengths, causal=causal, scale=scale).out


def packed(  # noqa: PLR0913
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    q_lengths: Sequence[int],
    k_lengths: Sequence[int],
    causal: bool,
    scale: float | None,
) -> Part:
    """All sequences in one launch.

    Args:
        q: packed queries of a half.
        k: keys of each sequence, at least one in all.
        v: values, laid out like the keys.
        q_lengths: queries of each sequence.
        k_lengths: filled slots of each sequence.
        causal: whether a query sees no later position than its own.
        scale: factor of the scores; None means 1 / sqrt(head_dim).

    Returns:
        Outputs and log-sums, packed like the queries.
    """
    # A causal mask ends at the last key: query i sits at k_length - q_length + i.
    out, lse, *_ = torch.ops.aten._flash_attention_forward(
        q.contiguous(),
        _packed(k, k_lengths),
        _packed(v, k_lengths),
        _edges(q_lengths, q.device),
        _edges(k_lengths, q.device),
        max(q_lengths),
        max(k_lengths),
        0.0,
        causal,
        False,
        scale=scale,
    )
    # A query without keys gets +inf from the kernel.
    return Part(out, lse.masked_fill(lse == torch.inf, -torch.inf).t())


def _packed(rows: Tensor, lengths: Sequence[int]) -> Tensor:
    """Filled slots of all sequences one after another."""
    return from_rows(rows[:, : max(lengths)], lengths).contiguous()


def _edges(lengths: Sequence[int], device: torch.device) -> Tensor:
    """Where each sequence begins, and the last one's end."""
    sizes = torch.tensor([0, *lengths], dtype=torch.int32)
    return sizes.cumsum(0, dtype=torch.int32).to(device, non_blocking=True)
