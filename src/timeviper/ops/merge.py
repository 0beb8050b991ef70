"""Token merging (ToMe): shrink each frame's patches by joining the most alike, no weights."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from timeviper.core.errors import ConfigError


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
    frames, patches, channels = x.shape
    if metric_heads < 1 or channels % metric_heads:
        raise ConfigError(
            want=f"metric heads that divide {channels} channels",
            got=metric_heads,
            do="set metric_heads to a divisor of the tower's width",
        )
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    tokens = x.to(work)
    sizes = tokens.new_ones(frames, patches)
    for remove in merge_schedule(patches, keep):
        tokens, sizes = _round(tokens, sizes, remove, metric_heads)
    return tokens.to(x.dtype), sizes.float()


def _round(tokens: Tensor, sizes: Tensor, remove: int, heads: int) -> tuple[Tensor, Tensor]:
    """One round: even places offer themselves, the `remove` most alike join an odd place."""
    order, partner = _match(tokens.detach(), heads)
    joining, staying = order[:, :remove], order[:, remove:]
    target = partner.gather(1, joining)
    wide = tokens.shape[-1]

    def pick(values: Tensor, places: Tensor) -> Tensor:
        return values.gather(1, places[..., None].expand(-1, -1, values.shape[-1]))

    mass = tokens * sizes[..., None]
    even, odd = mass[:, ::2], mass[:, 1::2]
    merged = odd.scatter_add(1, target[..., None].expand(-1, -1, wide), pick(even, joining))
    merged_sizes = sizes[:, 1::2].scatter_add(1, target, sizes[:, ::2].gather(1, joining))
    kept = pick(tokens[:, ::2], staying)
    kept_sizes = sizes[:, ::2].gather(1, staying)
    tokens = torch.cat([kept, merged / merged_sizes[..., None]], dim=1)
    return tokens, torch.cat([kept_sizes, merged_sizes], dim=1)


@torch.no_grad()
def _match(tokens: Tensor, heads: int) -> tuple[Tensor, Tensor]:
    """Sources by falling best likeness, and each source's best destination."""
    # Out of autocast: in bfloat16 near ties would be settled by rounding.
    with torch.autocast(tokens.device.type, enabled=False):
        metric = F.normalize(tokens.unflatten(-1, (heads, -1)).mean(dim=2), dim=-1)
        alike = metric[:, ::2] @ metric[:, 1::2].transpose(1, 2)
    best, partner = alike.max(dim=-1)
    return best.argsort(dim=-1, descending=True, stable=True), partner
