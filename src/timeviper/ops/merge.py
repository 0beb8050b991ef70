"""Token merging (ToMe): shrink each frame's patches by joining the most alike, no weights.

Only the few channels that patches are compared by go through the rounds: a merged token's are the
mean of its patches', so the features themselves are averaged once, at the end.
"""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from timeviper.core.errors import ConfigError
from timeviper.ops.autocast import as_written


def merge_schedule(patches: int, keep: int) -> list[int]:
    """How many patches each round removes on the way from `patches` to `keep`.

    Args:
        patches: patches a frame has.
        keep: tokens to leave, from 1 to `patches`.

    Returns:
        Removals a round; halves first, the rest last; empty when nothing is to go.

    Raises:
        ConfigError: `keep` is not within 1 and `patches`.
    """
    if not 1 <= keep <= patches:
        raise ConfigError(
            want=f"between 1 and {patches} tokens to keep of {patches} patches",
            got=keep,
            do="lower the tokens per frame or use a tower with more patches",
        )
    rounds: list[int] = []
    left = patches
    while left > keep:
        rounds.append(min(left // 2, left - keep))
        left -= rounds[-1]
    return rounds


def tome(
    x: Float[Tensor, "frame patch channel"], keep: int, *, metric_heads: int = 16
) -> tuple[Float[Tensor, "frame keep channel"], Float[Tensor, "frame keep"]]:
    """Merge each frame's patches down to `keep` tokens, weighted by how many each holds.

    Args:
        x: patch features of the vision tower.
        keep: tokens to leave a frame.
        metric_heads: heads whose channels are averaged before patches are compared.

    Returns:
        The tokens in the dtype of `x`, unmerged sources by falling likeness first, then the
        destinations (not spatial order), and float32 sizes (patches each token stands for).

    Raises:
        ConfigError: `keep` is out of range or the channels do not split into the heads.

    Source: Bolya et al. 2023; metric of VideoChat-Flash.
    Law: sizes sum to the patch count; size-weighted channel sums are conserved.
    """
    patches, channels = x.shape[1:]
    if metric_heads < 1 or channels % metric_heads:
        raise ConfigError(
            want=f"metric heads that divide {channels} channels",
            got=metric_heads,
            do="set metric_heads to a divisor of the tower's width",
        )
    schedule = merge_schedule(patches, keep)
    if not schedule:
        return x, torch.ones(x.shape[:2], dtype=torch.float32, device=x.device)
    # Out of autocast: in bfloat16 near ties would be settled by rounding.
    with as_written(x):
        place = _places(x.detach(), schedule, metric_heads)
        # Sums of bfloat16 are float32 inside the product: no copy in four bytes is needed.
        means, sizes = _means(x if x.dtype == torch.bfloat16 else _wide(x), place, keep)
    return means.to(x.dtype), sizes.float()


@torch.no_grad()
def _places(x: Tensor, schedule: list[int], heads: int) -> Tensor:
    """Index of the token that each patch ends in, (frame, patch)."""
    metric = x.unflatten(-1, (heads, -1)).mean(dim=2, dtype=_work_dtype(x))
    place = torch.arange(x.shape[1], device=x.device).expand(len(x), -1)
    merged = metric
    for remove in schedule:
        place = _moves(merged, remove).gather(1, place)
        merged, _ = _means(metric, place, merged.shape[1] - remove)
    return place


def _means(values: Tensor, place: Tensor, tokens: int) -> tuple[Tensor, Tensor]:
    """Mean over the patches of each token, (frame, token, channel), and their numbers."""
    # A product with zeros and ones, not scattered sums: the same bits every time.
    members = values.new_zeros(len(values), tokens, place.shape[1])
    members = members.scatter_(1, place[:, None], 1.0)
    sizes = members.sum(dim=-1, dtype=_work_dtype(values))
    return members @ values / sizes[..., None], sizes


def _moves(metric: Tensor, remove: int) -> Tensor:
    """One round: even places offer themselves, the `remove` most alike join an odd place.

    Returns the new index of each token: unmerged sources by falling likeness, then destinations.
    """
    order, partner = _match(metric)
    staying = order.shape[1] - remove
    joined = staying + partner.gather(1, order[:, :remove])
    stayed = torch.arange(staying, device=order.device).expand(len(order), -1)
    moves = order.new_empty(metric.shape[:2])
    moves[:, ::2] = torch.empty_like(order).scatter_(1, order, torch.cat([joined, stayed], dim=1))
    moves[:, 1::2] = staying + torch.arange(metric.shape[1] // 2, device=order.device)
    return moves


def _match(metric: Tensor) -> tuple[Tensor, Tensor]:
    """Sources by falling best likeness, and each source's best destination."""
    metric = F.normalize(metric, dim=-1)
    alike = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
    best, partner = alike.max(dim=-1)
    return best.argsort(dim=-1, descending=True, stable=True), partner


def _work_dtype(x: Tensor) -> torch.dtype:
    """float64 stays, for gradient checks; all else is summed in float32."""
    return torch.float64 if x.dtype == torch.float64 else torch.float32


def _wide(x: Tensor) -> Tensor:
    return x.to(_work_dtype(x))
