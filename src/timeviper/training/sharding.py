"""One model over many GPUs: which parts are gathered when, and what is computed again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard
from torch.distributed.tensor import DTensor
from torch.utils.checkpoint import checkpoint

from timeviper.core.errors import ConfigError
from timeviper.model.block import Block, Stream
from timeviper.model.config import DropPolicy
from timeviper.model.decoder import Decoder
from timeviper.model.state import Memory

# Kept whole and in their own format on every process: sharding them saves nothing, and a coarse
# format loses their steps.
_WHOLE = ("A_log", "dt_bias", "D", "alpha")


@final
class Recomputed(Block):
    """A block that keeps only its input for the backward pass and runs again there.

    It is the block that it was made from: its parts, under their names.
    """

    def __init__(self, block: Block) -> None:
        nn.Module.__init__(self)
        self.norm_eps = block.norm_eps
        self.norm, self.mixer = block.norm, block.mixer

    def forward(
        self, stream: Stream, memory: Memory, *, lengths: Sequence[int]
    ) -> tuple[Stream, Memory]:
        """As the block; see there."""
        if not torch.is_grad_enabled():
            return super().forward(stream, memory, lengths=lengths)
        return checkpoint(
            super().forward,
            # The sum, so that one tensor is kept and not its two parts.
            Stream(stream.sum()),
            memory,
            lengths=lengths,
            use_reentrant=False,
            # Nothing in a block is left to chance.
            preserve_rng_state=False,
        )


def recompute(decoder: Decoder) -> None:
    """Let every block of a decoder keep its input alone; the same numbers for less memory.

    Args:
        decoder: changed in place; its parameters keep their names.
    """
    for index, block in enumerate(decoder.layers):
        if isinstance(block, Block) and not isinstance(block, Recomputed):
            decoder.layers[index] = Recomputed(block)


def shard(
    root: nn.Module,
    decoder: Decoder,
    *,
    device: torch.device,
    ranks: int,
    compute: torch.dtype = torch.bfloat16,
) -> None:
    """Split the parameters over all processes, to be gathered a block at a time.

    Blocks are gathered when they run. Everything else (tower, projector, transfer modules,
    embeddings, head, and a block that a site ranks by) is gathered by `root` for the whole step,
    since it is reached in other ways than by calling it, or not on every process. Gradients are
    averaged over the processes in float32.

    Args:
        root: whose call is a whole step.
        decoder: a part of it.
        device: of this process.
        ranks: of the run; a group has been joined.
        compute: number format in which parameters are gathered and used; they are kept, and
            updated, in their own.

    Raises:
        ConfigError: weights that are not of float32 or better.
    """
    coarse = {str(p.dtype) for p in root.parameters() if p.requires_grad and p.dtype.itemsize < 4}
    if coarse:
        raise ConfigError(
            want="trainable weights in float32, of which copies are computed with",
            got=", ".join(sorted(coarse)),
            do="load the model with precision float32",
        )
    mesh = init_device_mesh(device.type, (ranks,))
    policy = MixedPrecisionPolicy(param_dtype=compute, reduce_dtype=torch.float32)
    whole = {p for n, p in root.named_parameters() if n.rpartition(".")[2] in _WHOLE}
    ranked = {s.layer for s in decoder.config.transfer.sites if s.policy == DropPolicy.ATTENTION}
    parts = [block for index, block in enumerate(decoder.layers) if index not in ranked]
    for part in [*parts, root]:
        fully_shard(part, mesh=mesh, mp_policy=policy, ignored_params=whole)


def tie(loss: Float[Tensor, ""], root: nn.Module) -> Float[Tensor, ""]:
    """The same loss, which now depends on every gathered parameter.

    Processes see different samples, some without a picture, and a sharded gradient must be there
    on all of them or on none.

    Args:
        loss: of this process.
        root: inside its own call, when its parameters are gathered.
    """
    gathered = [
        p
        for n, p in root.named_parameters()
        if p.requires_grad and not isinstance(p, DTensor) and n.rpartition(".")[2] not in _WHOLE
    ]
    if not gathered:
        return loss
    return loss + 0.0 * torch.stack([p.sum().to(loss.dtype) for p in gathered]).sum()


def own_part(tensor: Tensor) -> Tensor:
    """What this process holds of a tensor: all of it, or its shard."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor
