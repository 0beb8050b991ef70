"""Processes that train one model together: who is who, sums over all, and what a death means."""

from __future__ import annotations

import os
from collections.abc import Generator, Iterable, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import final

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from timeviper.core.device import pick_device
from timeviper.core.errors import ConfigError, TimeviperError
from timeviper.training import foreach

# Longest silence of a peer. Saving a large model is the longest that one keeps the others waiting.
PATIENCE_SECONDS = 900.0
# What gloo says of a lost peer, in errors of no kind of their own.
_FAILURES = ("closed by peer", "reset by peer", "timed out", "broken pipe", "connection refused")


class PeerError(TimeviperError):
    """Another process of the run died or went silent."""


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class Group:
    """The processes of a run, seen from one of them.

    Numbers of the host (flags, counts) go over gloo, so that agreeing never waits for a GPU, and
    a peer that dies is noticed at the next agreement: its connection closes.

    Args:
        rank: of this process, from 0; rank 0 speaks and writes.
        ranks: how many processes there are.
        device: where this process computes.
        host: the process group for values of the host, None when alone.
    """

    rank: int = 0
    ranks: int = 1
    host: dist.ProcessGroup | None = None
    device: torch.device = field(default_factory=lambda: torch.device("cpu"))

    @property
    def main(self) -> bool:
        """Whether this process speaks for all."""
        return self.rank == 0

    def total(self, values: Sequence[float]) -> list[float]:
        """Sum of each number over all ranks; exact for counts and flags."""
        if self.ranks == 1:
            return [float(value) for value in values]
        numbers = torch.tensor(values, dtype=torch.float64)
        with self.watching():
            dist.all_reduce(numbers, group=self.host)
        return numbers.tolist()

    def mean(self, value: Tensor) -> Tensor:
        """Mean of a device value over all ranks."""
        if self.ranks == 1:
            return value
        value = value.detach().clone()
        with self.watching():
            dist.all_reduce(value)
        return value / self.ranks

    def barrier(self) -> None:
        """Wait until every rank is here."""
        self.total([0.0])

    def share(self, module: nn.Module) -> None:
        """Give every rank the parameters and buffers of rank 0; sharded ones stay."""
        if self.ranks == 1:
            return
        tensors = [t.detach() for t in [*module.parameters(), *module.buffers()]]
        for bucket in _by_format(t for t in tensors if not isinstance(t, DTensor)):
            flat = _flat(bucket)
            with self.watching():
                dist.broadcast(flat, 0)
            _scatter(flat, bucket)

    def sum_gradients(self, parameters: Sequence[Tensor], *, weight: float) -> float:
        """Add up the gradients of all ranks and divide them by the sum of all weights.

        A parameter that no rank used keeps no gradient, as it would in one process. Gradients of
        sharded parameters were averaged over the ranks in the backward pass already.

        Args:
            parameters: that learn, in the same order on each rank.
            weight: of this rank's loss sums.

        Returns:
            The sum of all ranks' weights.
        """
        total, *used = self.total([weight, *(float(p.grad is not None) for p in parameters)])
        if total <= 0:
            # Nothing was taught anywhere: nothing is to be learned, not even decay.
            for parameter in parameters:
                parameter.grad = None
            return total
        touched = [p for p, count in zip(parameters, used, strict=True) if count]
        grads = [_gradient(p) for p in touched]
        if self.ranks > 1:
            for bucket in _by_format(g for g in grads if not isinstance(g, DTensor)):
                flat = _flat(bucket)
                with self.watching():
                    dist.all_reduce(flat)
                _scatter(flat, bucket)
        foreach.scale([g for g in grads if not isinstance(g, DTensor)], 1 / total)
        sharded = [g.to_local() for g in grads if isinstance(g, DTensor)]
        foreach.scale(sharded, self.ranks / total)
        return total

    @contextmanager
    def watching(self) -> Generator[None]:
        """Turn the many ways in which a lost peer shows into one error.

        Raises:
            PeerError: a collective call failed because of another process.
        """
        try:
            yield
        except (dist.DistError, RuntimeError) as error:
            lost = isinstance(error, dist.DistError) or any(
                words in str(error).lower() for words in _FAILURES
            )
            if self.ranks == 1 or not lost:
                raise
            raise PeerError(
                want=f"all {self.ranks} processes of the run to answer rank {self.rank}",
                got=f"a lost connection ({str(error).splitlines()[0][:160]})",
                do="look for the process that died first, then start the same command again: "
                "the run goes on from its last checkpoint",
            ) from error

    def leave(self) -> None:
        """Say goodbye; after a `PeerError` just end instead, since nobody may answer."""
        if self.ranks > 1 and dist.is_initialized():
            dist.destroy_process_group()


def join(
    device: str | None = None,
    *,
    patience_seconds: float = PATIENCE_SECONDS,
    environment: Mapping[str, str] = os.environ,
) -> Group:
    """Take the place that torchrun gives this process; alone when it was started without.

    Args:
        device: where to compute, `cpu` or `cuda`; None chooses CUDA where present.
        patience_seconds: silence after which a peer counts as lost.
        environment: where RANK, WORLD_SIZE and LOCAL_RANK are read.

    Returns:
        The group; its device is this process's own GPU.

    Raises:
        ConfigError: half of torchrun's variables, or more processes than GPUs on this machine.
    """
    kind = pick_device(device)
    names = ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    found = [name for name in names if name in environment]
    if not found:
        return Group(device=kind)
    if len(found) < len(names):
        raise ConfigError(
            want="RANK, WORLD_SIZE and LOCAL_RANK together",
            got=", ".join(found),
            do="start with torchrun, or unset them",
        )
    rank, ranks, local = (int(environment[name]) for name in names)
    if kind.type == "cuda":
        kind = pick_device(f"cuda:{local}")
        torch.cuda.set_device(kind)
    if ranks == 1:
        return Group(device=kind)
    patience = timedelta(seconds=patience_seconds)
    on_gpu = kind.type == "cuda"
    dist.init_process_group(
        "nccl" if on_gpu else "gloo", timeout=patience, device_id=kind if on_gpu else None
    )
    host = dist.new_group(backend="gloo", timeout=patience)
    if not isinstance(host, dist.ProcessGroup):
        raise TypeError("every rank is in the group of all")
    return Group(rank=rank, ranks=ranks, device=kind, host=host)


def _gradient(parameter: Tensor) -> Tensor:
    if parameter.grad is None:
        parameter.grad = torch.zeros_like(parameter)
    return parameter.grad


def _by_format(tensors: Iterable[Tensor]) -> list[list[Tensor]]:
    buckets: dict[torch.dtype, list[Tensor]] = {}
    for tensor in tensors:
        buckets.setdefault(tensor.dtype, []).append(tensor)
    return list(buckets.values())


def _flat(tensors: Sequence[Tensor]) -> Tensor:
    return torch.cat([t.reshape(-1) for t in tensors])


def _scatter(flat: Tensor, tensors: Sequence[Tensor]) -> None:
    parts = flat.split([t.numel() for t in tensors])
    views = [part.view_as(t) for part, t in zip(parts, tensors, strict=True)]
    foreach.copy(tensors, views)
