"""Work on the next items in threads while the caller uses the present one; results keep order."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from types import TracebackType
from typing import Generic, Self, TypeVar, final

import torch
from torch import Tensor

from timeviper.model.parts import Spread, in_turn

Item = TypeVar("Item")
Result = TypeVar("Result")


@final
class Lookahead(Generic[Item, Result]):
    """A bounded queue of items whose results are being made.

    Args:
        items: taken one by one, only in the caller's thread.
        work: makes the result of an item, in one of the threads.
        threads: how many items are worked on at a time; one more waits.
    """

    def __init__(
        self, items: Iterator[Item], work: Callable[[Item], Result], *, threads: int
    ) -> None:
        self._items, self._work = items, work
        self._depth = threads + 1
        self._queue: deque[tuple[Item, Future[Result]]] = deque()
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="timeviper-look")

    def __enter__(self) -> Self:
        """Ready to `fill`."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Forget what waits; what is being worked on is waited for."""
        self._pool.shutdown(wait=True, cancel_futures=True)

    @property
    def is_empty(self) -> bool:
        """Nothing waits: after `fill` there are no more items."""
        return not self._queue

    def fill(self) -> None:
        """Take items until the queue is full or there are no more."""
        while len(self._queue) < self._depth:
            try:
                item = next(self._items)
            except StopIteration:
                return
            self._queue.append((item, self._pool.submit(self._work, item)))

    def take(self) -> tuple[Item, Result]:
        """The next item with its result; raises what `work` raised, IndexError at the end."""
        item, result = self._queue.popleft()
        return item, result.result()


@contextmanager
def side_by_side(threads: int) -> Generator[Spread, None, None]:
    """Something that runs pieces of work in threads of its own, as `one_thread_an_op` wants it.

    Args:
        threads: how many pieces are worked on at a time; 1 stays in the caller's thread.
    """
    if threads < 2:
        yield in_turn
        return
    with ThreadPoolExecutor(threads, thread_name_prefix="timeviper-part") as pool:

        def spread(work: Callable[[int], Tensor], count: int) -> list[Tensor]:
            quiet = torch.is_inference_mode_enabled()

            def run(number: int) -> Tensor:
                # A thread begins with gradients, whatever its maker does.
                with torch.inference_mode(quiet):
                    return work(number)

            # What attends over the longest past begins first: the end comes evenly.
            return list(pool.map(run, reversed(range(count))))[::-1]

        yield spread


@contextmanager
def one_thread_an_op(wanted: bool) -> Generator[None, None, None]:
    """Let every operation of torch run in the thread that calls it.

    Threads of ours that each compute alone share the cores well; torch's own threads wait for each
    other in a spin and would take the cores from them.

    Args:
        wanted: False leaves torch as it is.
    """
    before = torch.get_num_threads()
    if wanted:
        torch.set_num_threads(1)
    try:
        yield
    finally:
        if wanted:
            torch.set_num_threads(before)
