"""Count the bytes of every tensor that is alive while code runs, with data or without."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Generator, Iterable
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

# A tensor without data has no values to bring to the host: ascending numbers stand for a ranking.
_META = torch.device("meta")


@final
class LiveBytes(TorchDispatchMode):
    """Inside `with`, counts storages from the operation that makes them until they are freed.

    Works on real tensors and on tensors without data (device `meta`) alike, so that the same code
    can be measured and rehearsed. What was made before is not counted, and what a native kernel
    takes and gives back within one operation is not seen.

    Args:
        block: each storage counts as a whole number of so many bytes, as an allocator takes them.
        host: count tensors on the host too, and not only those of an accelerator or without data.
        refuse: asked with the bytes of each new storage before it counts; raises to refuse it.
        ignore: tensors that exist already and whose views count nothing; kept by the caller.
    """

    def __init__(
        self,
        *,
        block: int = 1,
        host: bool = True,
        refuse: Callable[[int], None] | None = None,
        ignore: Iterable[Tensor] = (),
    ) -> None:
        super().__init__()
        self.live = 0
        self.peak = 0
        self._block, self._host, self._refuse = block, host, refuse
        self._known = {_key(tensor.untyped_storage()) for tensor in ignore}
        self._aside: set[int] = set()
        self._setting_aside = False

    def restart(self) -> None:
        """Forget the highest count so far."""
        self.peak = self.live

    @contextmanager
    def elsewhere(self) -> Generator[None]:
        """Inside, what is made is thought to lie in other memory: it counts nothing."""
        self._setting_aside = True
        try:
            yield
        finally:
            self._setting_aside = False

    def is_elsewhere(self, tensor: Tensor) -> bool:
        """Whether a tensor was made inside of `elsewhere`."""
        return _key(tensor.untyped_storage()) in self._aside

    def __torch_dispatch__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        """Run one operation and count what it made."""
        kwargs = kwargs or {}
        ranking = _brought_to_host(func, args, kwargs)
        if ranking is not None:
            return ranking
        if func is torch.ops.aten.scaled_dot_product_attention.default and args[0].is_meta:
            return self._attended(*args[:3])
        with self:
            # In inference mode an operation made of others comes whole; its parts are what count.
            parts = func.decompose(*args, **kwargs)
        if parts is not NotImplemented:
            return parts
        return self._count(func(*args, **kwargs))

    def _attended(self, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        """As a fused attention kernel takes memory: no scores are ever whole."""
        mass = self._count(q.new_empty(q.shape[:-1], dtype=torch.float32))
        out: Tensor = self._count(q.new_empty(*q.shape[:-1], v.shape[-1]))
        del mass
        return out

    def _count(self, out: Any) -> Any:
        for leaf in tree_leaves(out):
            if isinstance(leaf, Tensor) and (self._host or leaf.device.type != "cpu"):
                self._meet(leaf.untyped_storage())
        return out

    def _meet(self, storage: torch.UntypedStorage) -> None:
        key = _key(storage)
        if key in self._known:
            return
        size = -(-storage.nbytes() // self._block) * self._block
        if self._setting_aside:
            self._aside.add(key)
            size = 0
        if self._refuse is not None:
            self._refuse(size)
        self._known.add(key)
        self.live += size
        self.peak = max(self.peak, self.live)
        weakref.finalize(storage, self._part, key, size).atexit = False

    def _part(self, key: int, size: int) -> None:
        self._known.discard(key)
        self._aside.discard(key)
        self.live -= size


def _brought_to_host(func: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Tensor | None:
    """Numbers in place of those that a tensor without data cannot give."""
    if func is not torch.ops.aten._to_copy.default or kwargs.get("device") is None:
        return None
    source: Tensor = args[0]
    if not source.is_meta or torch.device(kwargs["device"]) == _META:
        return None
    row = torch.arange(source.shape[-1]) if source.dim() else torch.zeros((), dtype=torch.int64)
    return row.expand(source.shape).to(kwargs.get("dtype") or source.dtype)


def _key(storage: torch.UntypedStorage) -> int:
    """Which storage it is; one without data has no address, so its object tells."""
    return storage._cdata  # pyright: ignore[reportPrivateUsage]
