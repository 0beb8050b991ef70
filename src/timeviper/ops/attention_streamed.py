"""Attention to keys in host memory: copied block by block while the block before is computed."""

from collections.abc import Callable, Generator, Sequence
from contextlib import closing
from itertools import pairwise

import torch
from torch import Tensor

from timeviper.ops.attention_parts import Part, Shared, together

# Keys a copy: long enough for a link's full rate, short enough that four blocks are small.
BLOCK_KEYS = 32_768

# As `attention_parts.further`.
Further = Callable[..., Part]


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
    further: Further,
    block_keys: int = BLOCK_KEYS,
) -> Tensor:
    """As `ops.attention.attention`, with keys that may lie elsewhere than the queries.

    Args:
        q: packed queries.
        k: keys of each sequence; pinned memory copies at the link's full rate.
        v: values, laid out like the keys.
        q_lengths: queries of each sequence.
        k_lengths: filled slots of each sequence.
        causal: whether a query sees no later position than its own.
        scale: factor of the scores; None means 1 / sqrt(head_dim).
        shared: what lies in front of each sequence's own keys, wherever it lies.
        further: merges attention to more keys, `attention_parts.further` for instance.
        block_keys: keys a copy.

    Returns:
        Weighted values, packed like the queries and where they are.

    Law: the same for every size of block, and as if all keys lay with the queries.
    """
    rows = q.split(list(q_lengths))
    before: dict[int, Part] = {}
    for front, members in together(shared or ()):
        found, some = None, torch.cat([rows[s] for s in members])
        if len(some):
            keys, values = front.k[: front.length], front.v[: front.length]
            with closing(_blocks(keys, values, 0, block_keys, q.device)) as blocks:
                for block in blocks:
                    found = further(found, some, *block, causal=False, scale=scale, last=False)
        if found is not None:
            sizes = [q_lengths[s] for s in members]
            pieces = zip(found.out.split(sizes), found.lse.split(sizes), strict=True)
            before |= {s: Part(*piece) for s, piece in zip(members, pieces, strict=True)}
    outs: list[Tensor] = []
    for s, (queries, keys) in enumerate(zip(q_lengths, k_lengths, strict=True)):
        seen = before.get(s)
        if queries and keys:
            tail = queries if causal else 0
            with closing(_blocks(k[s, :keys], v[s, :keys], tail, block_keys, q.device)) as blocks:
                left = keys
                for block in blocks:
                    left -= len(block[0])
                    own = causal and not left
                    seen = further(seen, rows[s], *block, causal=own, scale=scale, last=not left)
        outs.append(torch.zeros_like(rows[s]) if seen is None else seen.out.to(q.dtype))
    return torch.cat(outs) if outs else torch.zeros_like(q)


def _blocks(
    k: Tensor, v: Tensor, tail: int, size: int, device: torch.device
) -> Generator[tuple[Tensor, Tensor]]:
    """Blocks of keys and values on a device, the last at least `tail` long."""
    edges = [*range(0, max(1, len(k) - tail), size), len(k)]
    spans = list(pairwise(edges))
    if device.type != "cuda" or k.device.type == "cuda":
        for a, b in spans:
            yield k[a:b].to(device), v[a:b].to(device)
        return
    yield from _copied(k, v, spans, device)


def _copied(
    k: Tensor, v: Tensor, spans: Sequence[tuple[int, int]], device: torch.device
) -> Generator[tuple[Tensor, Tensor]]:
    """Blocks in two pairs of buffers: one is filled while the other is read."""
    longest = max(b - a for a, b in spans)
    shape = (2, 2, longest, *k.shape[1:])
    buffers = [pair.unbind(0) for pair in torch.empty(shape, dtype=k.dtype, device=device)]
    link, main = torch.cuda.Stream(device), torch.cuda.current_stream(device)
    filled, free = ([torch.cuda.Event() for _ in range(2)] for _ in range(2))
    # Fresh memory may still be read by what was queued before: the copies wait for it.
    for event in free:
        event.record(main)

    def copy(number: int) -> None:
        a, b = spans[number]
        with torch.cuda.stream(link):
            link.wait_event(free[number % 2])
            for target, source in zip(buffers[number % 2], (k, v), strict=True):
                target[: b - a].copy_(source[a:b], non_blocking=True)
            filled[number % 2].record(link)

    try:
        copy(0)
        for number, (a, b) in enumerate(spans):
            if number + 1 < len(spans):
                copy(number + 1)
            main.wait_event(filled[number % 2])
            keys, values = buffers[number % 2]
            yield keys[: b - a], values[: b - a]
            free[number % 2].record(main)
    finally:
        # The buffers go back to the main stream: no copy into them may still be under way.
        main.wait_stream(link)
