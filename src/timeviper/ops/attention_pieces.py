"""Which kernel takes which queries and keys of one sequence, from numbers alone; runs nothing.

The sizes are measured: `benchmarks/attention_gpu.py`, figures in `benchmarks/results`.
"""

from dataclasses import dataclass
from typing import Literal

import torch

from timeviper.ops.attention_flash import probe_flash
from timeviper.ops.triton_probe import Probe, probe_triton

# cuDNN plans anew for every shape, which takes longer than most calls: few sizes, each so many
# queries that the tiles of 40 heads fill 132 multiprocessors. The smallest may be padded.
CUDNN_QUERIES = (8_192, 2_048, 384)
# A merge costs a ninth of a block of 8,192 keys and a thirtieth of one of 32,768; beyond that,
# larger blocks gained nothing.
CUDNN_KEYS = (32_768, 8_192)
# Up to so many queries behind so many keys the keys are split over programs: elsewhere a few
# tiles of queries would leave most of the device idle.
SPLIT_QUERIES, SPLIT_KEYS = 160, 2_048
# cuDNN's kernels for older devices are no faster than FlashAttention.
_OLDEST_CAPABILITY = (9, 0)

Kernel = Literal["split", "cudnn", "flash"]


@dataclass(frozen=True, kw_only=True)
class Piece:
    """Some keys, and what attends to them.

    Args:
        kernel: its name.
        first: the first key.
        end: the key after the last.
        causal: whether the queries belong to the last of these keys, so that later are hidden.
    """

    kernel: Kernel
    first: int
    end: int
    causal: bool = False


@dataclass(frozen=True, kw_only=True)
class Stretch:
    """Some queries, and pieces that together hold each key that they see once.

    Args:
        first: the first query.
        end: the query after the last.
        pieces: at least one, the largest first.
    """

    first: int
    end: int
    pieces: tuple[Piece, ...]


def stretches(queries: int, keys: int, *, causal: bool) -> list[Stretch]:
    """Cut queries and keys of one sequence among kernels.

    Args:
        queries: how many, at least one.
        keys: how many, at least one; with `causal` as many as queries or more.
        causal: whether the queries belong to the last keys.

    Returns:
        Stretches that together hold each query once, in order.
    """
    past = keys - queries if causal else keys
    if past < (SPLIT_KEYS if queries <= SPLIT_QUERIES else CUDNN_KEYS[-1]):
        exact = causal and not past and queries == CUDNN_QUERIES[0]
        kernel: Kernel = "cudnn" if exact else "flash"
        whole = Piece(kernel=kernel, first=0, end=keys, causal=causal)
        return [Stretch(first=0, end=queries, pieces=(whole,))]
    found: list[Stretch] = []
    first = 0
    while first < queries:
        left = queries - first
        size = next((size for size in CUDNN_QUERIES if size <= left), left)
        before = past + first if causal else past
        own = size if causal else 0
        found.append(Stretch(first=first, end=first + size, pieces=_pieces(size, before, own)))
        first += size
    return found


def is_few(queries: int, keys: int, *, causal: bool) -> bool:
    """Whether a sequence goes packed with others, split where keys are shared.

    A sequence's own numbers alone decide, so that it is computed alike in any batch.

    Args:
        queries: of the sequence.
        keys: its own, those in front of them not counted.
        causal: whether the queries belong to the last keys.

    Returns:
        False where the queries are many, or split over long own keys.
    """
    past = keys - queries if causal else keys
    return queries <= SPLIT_QUERIES and past < SPLIT_KEYS


def probe_pieces(device_type: str) -> Probe:
    """Whether cuDNN, FlashAttention and the split kernel can run there, and what takes what."""
    for probe in (probe_triton(device_type), probe_flash(device_type)):
        if not probe.available or probe.by_name:
            return Probe(available=False, why=probe.why)
    if torch.cuda.get_device_capability() < _OLDEST_CAPABILITY:
        return Probe(available=False, why="compute capability older than 9.0")
    if not torch.backends.cudnn.is_available():
        return Probe(available=False, why="no cuDNN found")
    return Probe(available=True, why=f"cuDNN {torch.backends.cudnn.version()} {told()}")


def told() -> str:
    """What takes what, in words for `doctor`."""
    return (
        f"from {SPLIT_QUERIES + 1} queries behind {CUDNN_KEYS[-1]:,} keys, keys split over "
        f"programs for fewer queries behind {SPLIT_KEYS:,}, FlashAttention for the rest, ragged "
        "rows and gradients, SDPA for float32"
    )


def _pieces(queries: int, past: int, own: int) -> tuple[Piece, ...]:
    """The pieces of one stretch: `past` keys that all see, then `own` under the mask."""
    end = past + own
    if queries <= SPLIT_QUERIES:
        found, first = [Piece(kernel="split", first=0, end=past)], past
    else:
        found, first = _blocks(past)
    if own == CUDNN_QUERIES[0]:
        # Large enough to pay for a merge of its own with the remainder before it.
        found.append(Piece(kernel="flash", first=first, end=past))
        found.append(Piece(kernel="cudnn", first=past, end=end, causal=True))
    else:
        found.append(Piece(kernel="flash", first=first, end=end, causal=own > 0))
    return tuple(piece for piece in found if piece.first < piece.end)


def _blocks(past: int) -> tuple[list[Piece], int]:
    """Blocks of keys that all queries see, the largest first, and where they end."""
    found: list[Piece] = []
    first = 0
    for size in CUDNN_KEYS:
        while past - first >= size:
            found.append(Piece(kernel="cudnn", first=first, end=first + size))
            first += size
    return found, first
