"""Attention of few queries to many keys: the keys are split over programs, the splits merged.

The query heads that read one key head stand together as rows of one tile, so that every key is
read once, and so do the queries of several sequences behind the same keys. No launch depends on
a length, and what a query gets depends neither on the other queries nor on room for keys: tiles
are of one size, and how its keys are split follows from their number alone.
"""
# The checker does not know how kernels are launched.
# pyright: reportCallIssue=false

import math
from dataclasses import dataclass
from typing import no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from timeviper.ops import attention_torch
from timeviper.ops.attention_parts import Part
from timeviper.ops.fronts import STEP_ROWS, Fronts
from timeviper.ops.triton_probe import is_interpreted

_DTYPES = (torch.float16, torch.bfloat16, torch.float32)
# The matrix unit takes sixteen rows at least; beyond 128 the sums leave the registers.
_FEWEST_ROWS, _MOST_ROWS = 16, 128
# Fewer keys a program, and starting it costs more than it reads.
_FEWEST_KEYS = 512
_MOST_SPLITS = 256
# Rows of one head of one token that a merging program takes.
_MERGED_ROWS = 32
# Few programs read fastest with one on each multiprocessor, more with two; many take several
# rounds, which even out unequal lengths.
_FEW, _RESIDENT, _ROUNDS = 4, 2, 8
# Without a device, in the interpreter, a few programs show all there is to see.
_NO_MULTIPROCESSORS = 2
# Splits are merged in groups of so many, from the first on.
_EIGHT = 8


@dataclass(frozen=True, kw_only=True)
class Tile:
    """How a program of the split kernel is cut.

    Args:
        rows: queries times heads of a tile, padded.
        keys: keys a step of the loop.
        warps: of 32 threads.
        stages: loop steps in flight.
    """

    rows: int
    keys: int
    warps: int
    stages: int


def tile_of(rows: int, itemsize: int = 2) -> Tile:
    """The cut for a number of rows and bytes an element."""
    padded = min(_MOST_ROWS, max(_FEWEST_ROWS, _power(rows)))
    if itemsize > 2:
        return Tile(rows=min(padded, 64), keys=32, warps=4, stages=2)
    if padded > 64:
        return Tile(rows=padded, keys=64, warps=8, stages=3)
    return Tile(rows=padded, keys=64, warps=4, stages=3)


def step_rows(ratio: int, itemsize: int = 2) -> Tile:
    """The cut of a step's queries behind shared keys, whatever their number."""
    return tile_of(max(STEP_ROWS, ratio), itemsize)


def question_rows(ratio: int, itemsize: int = 2) -> Tile:
    """The cut of questions' queries behind shared keys, whatever their number."""
    return tile_of(max(_MOST_ROWS, ratio), itemsize)


def question_tile(ratio: int, itemsize: int = 2) -> int:
    """Queries of questions that a tile holds."""
    return max(1, question_rows(ratio, itemsize).rows // ratio)


def even_splits(device: torch.device, kv_heads: int) -> int:
    """Into how many parts the keys of one query are cut, if there are many.

    Args:
        device: where it runs.
        kv_heads: key heads, each of which is as many programs.

    Returns:
        As many as fill the device for one sequence, a multiple of eight, so that what is merged
        in eights is so in any batch.
    """
    return max(_EIGHT, processors(device) // kv_heads // _EIGHT * _EIGHT)


def attention_step(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    *,
    k_lengths: Tensor,
    shared: Fronts | None = None,
    scale: float | None = None,
) -> Tensor:
    """As `ops.attention.attention_step`; safe inside a CUDA graph.

    Args:
        q: the query of each sequence.
        k: keys of each sequence.
        v: values, laid out like the keys.
        k_lengths: filled slots of each sequence, on the device.
        shared: keys in front of each sequence's own.
        scale: factor of the scores; None means 1 / sqrt(head_dim).

    Returns:
        Weighted values of each sequence.
    """
    fronts = [] if shared is None else [keys.k.dtype for keys, _ in shared.tiles()]
    if q.dtype not in _DTYPES or {k.dtype, v.dtype, *fronts} != {q.dtype}:
        return attention_torch.attention_step(
            q, k, v, k_lengths=k_lengths, shared=shared, scale=scale
        )
    ratio, wide = q.shape[1] // k.shape[2], even_splits(q.device, k.shape[2])
    first = wide if shared is not None and len(shared.places) else 0
    scratch = _Scratch.of(q, first + min(wide, max(1, -(-k.shape[1] // _FEWEST_KEYS))))
    if shared is not None and first:
        _in_front(q, shared, scratch, tile=step_rows(ratio, q.itemsize), scale=scale, like=k)
    share = wide, _FEWEST_KEYS
    _split(q, k, v, k_lengths, scratch, first=first, share=share, scale=scale)
    return _merged(scratch, q).out


def in_front(q: Tensor, fronts: Fronts, *, kv_heads: int, scale: float | None) -> Part:
    """Attention of some queries to what lies in front of each; `q` of float32 or a half.

    Args:
        q: (token, head, head_dim), queries of any sequences.
        fronts: one a query, at most `question_tile` of them a tile.
        kv_heads: key heads.
        scale: factor of the scores; None means 1 / sqrt(head_dim).

    Returns:
        Output in the dtype of `q` and log-sum in float32.
    """
    scratch = _Scratch.of(q, even_splits(q.device, kv_heads))
    like = q[:, :kv_heads]
    tile = question_rows(q.shape[1] // kv_heads, q.itemsize)
    _in_front(q, fronts, scratch, tile=tile, scale=scale, like=like)
    return _merged(scratch, q)


def part(q: Tensor, k: Tensor, v: Tensor, *, scale: float | None) -> Part:
    """Attention of some queries to keys that all of them see; `q` of float32 or a half.

    Args:
        q: (token, head, head_dim), queries of any sequences.
        k: (key, kv_head, head_dim), all filled, at least one.
        v: laid out like the keys.
        scale: factor of the scores; None means 1 / sqrt(head_dim).

    Returns:
        Output in the dtype of `q` and log-sum in float32.
    """
    ratio = q.shape[1] // k.shape[1]
    tiles = _tiles(len(q), ratio, tile_of(len(q) * ratio, q.itemsize))
    splits = splits_of(q.device, tiles * k.shape[1], len(k))
    scratch = _Scratch.of(q, splits)
    _split(q, k, v, len(k), scratch, first=0, share=(splits, 1), scale=scale)
    return _merged(scratch, q)


def merge_two(a: Part, b: Part, dtype: torch.dtype) -> Part:
    """Merge attention over two disjoint sets of keys in one pass.

    Args:
        a: over some keys.
        b: over others, of the same queries; both with any strides but that of the last axis.
        dtype: of the merged output; float32 while more parts follow.

    Returns:
        The merged part; an `a` of that dtype and contiguous is written over.
    """
    tokens, heads, head_dim = a.out.shape
    in_place = a.out.dtype == dtype and a.out.is_contiguous()
    out = a.out if in_place else torch.empty(a.out.shape, device=a.out.device, dtype=dtype)
    lse = torch.empty(tokens, heads, device=a.out.device, dtype=torch.float32)
    if out.numel():
        grid = (-(-tokens * heads // _MERGED_ROWS),)
        with torch.cuda.device_of(out):
            _merge_two_kernel[grid](
                a.out,
                b.out,
                a.lse,
                b.lse,
                out,
                lse,
                tokens * heads,
                heads,
                *a.out.stride()[:2],
                *b.out.stride()[:2],
                *a.lse.stride(),
                *b.lse.stride(),
                HEAD_DIM=head_dim,
                BLOCK_D=max(16, _power(head_dim)),
                ROWS=_MERGED_ROWS,
                num_warps=4,
            )
    return Part(out, lse)


def splits_of(device: torch.device, programs: int, capacity: int) -> int:
    """Into how many parts to cut the keys, from shapes alone.

    Args:
        device: where it runs.
        programs: programs that each part adds.
        capacity: most keys that there can be.

    Returns:
        Parts that fill the device, with several rounds of programs where the parts stay long.
    """
    count = processors(device)
    most = max(1, min(_MOST_SPLITS, capacity // _FEWEST_KEYS))
    programs = max(1, programs)
    if programs * _FEW <= count:
        return min(most, count // programs)
    if programs <= count:
        return min(most, _RESIDENT * count // programs)
    return min(most, max(1, round(_ROUNDS * count / programs)))


def processors(device: torch.device) -> int:
    """Multiprocessors of a device."""
    if device.type != "cuda":
        return _NO_MULTIPROCESSORS
    return torch.cuda.get_device_properties(device).multi_processor_count


def _power(count: int) -> int:
    """The next power of two."""
    return 1 << max(0, count - 1).bit_length()


@dataclass(frozen=True)
class _Scratch:
    """Outputs (token, head, split, head_dim) and log-sums (token, head, split) of every split."""

    out: Tensor
    lse: Tensor

    @classmethod
    def of(cls, q: Tensor, splits: int) -> "_Scratch":
        tokens, heads, head_dim = q.shape
        out = torch.empty(tokens, heads, splits, head_dim, device=q.device, dtype=torch.float32)
        return cls(out, torch.empty(out.shape[:3], device=q.device, dtype=torch.float32))


def _tiles(tokens: int, ratio: int, tile: Tile) -> int:
    """Tiles that hold the rows of all tokens, a token's rows never parted."""
    return -(-tokens // max(1, tile.rows // ratio))


def _in_front(
    q: Tensor,
    fronts: Fronts,
    scratch: _Scratch,
    *,
    tile: Tile,
    scale: float | None,
    like: Tensor,
) -> None:
    """Fill the first splits with attention to what lies in front; `like` the keys, in heads."""
    tiles, at_once = fronts.members.shape
    if len(q) != fronts.queries or at_once * (q.shape[1] // like.shape[-2]) > tile.rows:
        raise ValueError(f"{fronts.queries} queries, {at_once} a tile, do not fit {tile}")
    kv_heads, head_dim = like.shape[-2:]
    splits = even_splits(q.device, kv_heads)
    q = q if q.stride(-1) == 1 else q.contiguous()
    # A query with nothing in front is in no tile.
    if not fronts.everywhere:
        scratch.lse[:, :, :splits].fill_(-torch.inf)
    factor = head_dim**-0.5 if scale is None else scale
    with torch.cuda.device_of(q):
        # Programs that read the same keys follow one another.
        _front_kernel[kv_heads, tiles, splits](
            q,
            fronts.places,
            fronts.members,
            scratch.out,
            scratch.lse,
            factor * math.log2(math.e),
            scratch.out.shape[2],
            *q.stride()[:2],
            TOKENS=at_once,
            FEWEST=_FEWEST_KEYS,
            SPLITS=splits,
            RATIO=q.shape[1] // kv_heads,
            HEADS=q.shape[1],
            HEAD_DIM=head_dim,
            BLOCK_D=max(16, _power(head_dim)),
            ROWS=tile.rows,
            KEYS=tile.keys,
            EXACT=q.dtype == torch.float32,
            WHILE=is_interpreted(),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )


def _split(
    q: Tensor,
    k: Tensor,
    v: Tensor,
    lengths: Tensor | int,
    scratch: _Scratch,
    *,
    first: int,
    share: tuple[int, int],
    scale: float | None,
) -> None:
    """Fill splits `first` and on: each token's own row of keys, or one row that all share.

    A length is cut into so many equal parts, none of fewer keys: the two numbers of `share`.
    """
    tokens, heads, head_dim = q.shape
    if not tokens:
        return
    own = isinstance(lengths, Tensor)
    kv_heads = k.shape[-2]
    ratio = heads // kv_heads
    tile = tile_of(ratio if own else tokens * ratio, q.itemsize)
    at_once = 1 if own else max(1, tile.rows // ratio)
    q, k, v = (x if x.stride(-1) == 1 else x.contiguous() for x in (q, k, v))
    factor = head_dim**-0.5 if scale is None else scale
    tiles, splits = -(-tokens // at_once), scratch.out.shape[2] - first
    # Programs that read the same keys follow one another: all key heads, then shared tiles.
    grid = (kv_heads, splits, tiles) if own else (kv_heads, tiles, splits)
    with torch.cuda.device_of(q):
        _split_kernel[grid](
            q,
            k,
            v,
            lengths if own else None,
            scratch.out,
            scratch.lse,
            tokens,
            0 if own else lengths,
            factor * math.log2(math.e),
            *share,
            first,
            scratch.out.shape[2],
            *q.stride()[:2],
            *((k.stride(0), v.stride(0)) if own else (0, 0)),
            *k.stride()[-3:-1],
            *v.stride()[-3:-1],
            OWN=own,
            TOKENS=at_once,
            RATIO=ratio,
            HEADS=heads,
            HEAD_DIM=head_dim,
            BLOCK_D=max(16, _power(head_dim)),
            ROWS=tile.rows,
            KEYS=tile.keys,
            EXACT=q.dtype == torch.float32,
            WHILE=is_interpreted(),
            num_warps=tile.warps,
            num_stages=tile.stages,
        )


def _merged(scratch: _Scratch, like: Tensor) -> Part:
    """All splits as one part, in the dtype of the queries."""
    tokens, heads, splits, head_dim = scratch.out.shape
    out = torch.empty(tokens, heads, head_dim, device=like.device, dtype=like.dtype)
    lse = torch.empty(tokens, heads, device=like.device, dtype=torch.float32)
    if out.numel():
        with torch.cuda.device_of(like):
            _merge_kernel[(tokens * heads,)](
                scratch.out,
                scratch.lse,
                out,
                lse,
                splits,
                PADDED=_power(splits),
                HEAD_DIM=head_dim,
                BLOCK_D=max(16, _power(head_dim)),
                num_warps=4,
            )
    return Part(out, lse)


@no_type_check
@triton.jit
def _load(pointers, seen, dims, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Rows of which only some may be read, 0 elsewhere."""
    if BLOCK_D == HEAD_DIM:
        return tl.load(pointers, mask=seen[:, None], other=0.0)
    return tl.load(pointers, mask=seen[:, None] & (dims < HEAD_DIM)[None, :], other=0.0)


@no_type_check
@triton.jit
def _read(
    k,
    v,
    k_step,
    v_step,
    start,
    end,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    KEYS: tl.constexpr,
):
    """Some keys and values, and which of them count."""
    slots = start + tl.arange(0, KEYS)
    seen = slots < end
    dims = tl.arange(0, BLOCK_D)
    # 64 bits: beyond 2.1 million keys of 1,024 numbers the offset passes 2^31.
    wide = slots.to(tl.int64)[:, None]
    keys = _load(k + wide * k_step + dims[None, :], seen, dims, HEAD_DIM, BLOCK_D)
    values = _load(v + wide * v_step + dims[None, :], seen, dims, HEAD_DIM, BLOCK_D)
    return keys, values, seen


@no_type_check
@triton.jit
def _add(queries, keys, values, seen, top, total, sums, factor, EXACT: tl.constexpr):
    """The running maximum, sum of weights and weighted values with some more keys."""
    if EXACT:
        scores = tl.dot(queries, tl.trans(keys), input_precision="ieee") * factor
    else:
        scores = tl.dot(queries, tl.trans(keys)) * factor
    scores = tl.where(seen[None, :], scores, -float("inf"))
    higher = tl.maximum(top, tl.max(scores, axis=1))
    fade = tl.exp2(top - higher)
    weights = tl.exp2(scores - higher[:, None])
    total = total * fade + tl.sum(weights, axis=1)
    if EXACT:
        sums = tl.dot(weights, values, sums * fade[:, None], input_precision="ieee")
    else:
        sums = tl.dot(weights.to(values.dtype), values, sums * fade[:, None])
    return higher, total, sums


@no_type_check
@triton.jit
def _walk(
    queries,
    k,
    v,
    k_step,
    v_step,
    begin,
    end,
    factor,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    KEYS: tl.constexpr,
    EXACT: tl.constexpr,
    WHILE: tl.constexpr,
):
    """The rows over a stretch of keys: largest score, sum of weights, weighted values."""
    # A finite floor: a row that saw nothing would become NaN with -inf.
    top = tl.full([queries.shape[0]], -1e30, tl.float32)
    total = tl.zeros([queries.shape[0]], tl.float32)
    sums = tl.zeros([queries.shape[0], BLOCK_D], tl.float32)
    if WHILE:
        # The interpreter counts no loop whose ends a kernel computed.
        start = begin
        queries = queries.to(tl.float32)
        while start < end:
            keys, values, seen = _read(k, v, k_step, v_step, start, end, HEAD_DIM, BLOCK_D, KEYS)
            # Nor does it multiply bfloat16.
            keys, values = keys.to(tl.float32), values.to(tl.float32)
            top, total, sums = _add(queries, keys, values, seen, top, total, sums, factor, EXACT)
            start += KEYS
    else:
        for start in range(begin, end, KEYS):
            keys, values, seen = _read(k, v, k_step, v_step, start, end, HEAD_DIM, BLOCK_D, KEYS)
            top, total, sums = _add(queries, keys, values, seen, top, total, sums, factor, EXACT)
    return top, total, sums


@no_type_check
@triton.jit
def _leave(out, lse, place, real, top, total, sums, HEAD_DIM: tl.constexpr, BLOCK_D: tl.constexpr):
    """Store output and log-sum of the rows; 0 and -inf where a row saw nothing."""
    dims = tl.arange(0, BLOCK_D)
    # What is no number stays so.
    nothing = total == 0
    safe = tl.where(nothing, 1.0, total)
    log_sum = tl.where(nothing, -float("inf"), (top + tl.log2(safe)) * 0.6931471805599453)
    tl.store(lse + place, log_sum, mask=real)
    written = real[:, None] & (dims < HEAD_DIM)[None, :]
    tl.store(out + place[:, None] * HEAD_DIM + dims[None, :], sums / safe[:, None], mask=written)


@no_type_check
@triton.jit
def _split_kernel(
    q,
    k,
    v,
    lengths,
    out,
    lse,
    tokens,
    fixed,
    factor,
    cuts,
    fewest,
    first_split,
    all_splits,
    q_step,
    q_head,
    k_row,
    v_row,
    k_step,
    k_head,
    v_step,
    v_head,
    OWN: tl.constexpr,
    TOKENS: tl.constexpr,
    RATIO: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    EXACT: tl.constexpr,
    WHILE: tl.constexpr,
):
    """One tile of rows (tokens x heads of one key head) over one split of the keys."""
    kv_head = tl.program_id(0)
    if OWN:
        split, tile = tl.program_id(1), tl.program_id(2).to(tl.int64)
        length = tl.load(lengths + tile).to(tl.int32)
        k += tile * k_row
        v += tile * v_row
    else:
        split, tile = tl.program_id(2), tl.program_id(1).to(tl.int64)
        length = fixed
    rows = tl.arange(0, ROWS)
    token = tile * TOKENS + rows // RATIO
    head = kv_head * RATIO + rows % RATIO
    real = (rows < TOKENS * RATIO) & (token < tokens)
    dims = tl.arange(0, BLOCK_D)
    spots = token[:, None] * q_step + head[:, None] * q_head + dims[None, :]
    queries = _load(q + spots, real, dims, HEAD_DIM, BLOCK_D)
    k += kv_head.to(tl.int64) * k_head
    v += kv_head.to(tl.int64) * v_head
    share = tl.cdiv(tl.maximum(tl.cdiv(length, cuts), fewest), KEYS) * KEYS
    begin, end = split * share, tl.minimum(split * share + share, length)
    top, total, sums = _walk(
        queries, k, v, k_step, v_step, begin, end, factor, HEAD_DIM, BLOCK_D, KEYS, EXACT, WHILE
    )
    place = (token * HEADS + head) * all_splits + first_split + split
    _leave(out, lse, place, real, top, total, sums, HEAD_DIM, BLOCK_D)


@no_type_check
@triton.jit
def _front_kernel(
    q,
    places,
    members,
    out,
    lse,
    factor,
    all_splits,
    q_step,
    q_head,
    TOKENS: tl.constexpr,
    FEWEST: tl.constexpr,
    SPLITS: tl.constexpr,
    RATIO: tl.constexpr,
    HEADS: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
    KEYS: tl.constexpr,
    EXACT: tl.constexpr,
    WHILE: tl.constexpr,
):
    """One tile of rows (tokens x heads of one key head) over one split of what lies in front."""
    kv_head, tile, split = tl.program_id(0), tl.program_id(1).to(tl.int64), tl.program_id(2)
    STEP: tl.constexpr = HEADS // RATIO * HEAD_DIM
    kind = tl.pointer_type(q.dtype.element_ty)
    k = tl.multiple_of(tl.load(places + tile * 3).to(kind), [16]) + kv_head * HEAD_DIM
    v = tl.multiple_of(tl.load(places + tile * 3 + 1).to(kind), [16]) + kv_head * HEAD_DIM
    length = tl.load(places + tile * 3 + 2).to(tl.int32)
    rows = tl.arange(0, ROWS)
    inside = rows < TOKENS * RATIO
    token = tl.load(members + tile * TOKENS + rows // RATIO, mask=inside, other=-1).to(tl.int64)
    real = token >= 0
    head = kv_head * RATIO + rows % RATIO
    dims = tl.arange(0, BLOCK_D)
    spots = token[:, None] * q_step + head[:, None] * q_head + dims[None, :]
    queries = _load(q + spots, real, dims, HEAD_DIM, BLOCK_D)
    share = tl.cdiv(tl.maximum(tl.cdiv(length, SPLITS), FEWEST), KEYS) * KEYS
    begin, end = split * share, tl.minimum(split * share + share, length)
    top, total, sums = _walk(
        queries, k, v, STEP, STEP, begin, end, factor, HEAD_DIM, BLOCK_D, KEYS, EXACT, WHILE
    )
    place = (token * HEADS + head) * all_splits + split
    _leave(out, lse, place, real, top, total, sums, HEAD_DIM, BLOCK_D)


@no_type_check
@triton.jit
def _merge_kernel(
    parts,
    sums,
    out,
    lse,
    splits,
    PADDED: tl.constexpr,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
):
    """All splits of one head of one token."""
    row = tl.program_id(0).to(tl.int64)
    all_splits = tl.arange(0, PADDED)
    logs = tl.load(sums + row * splits + all_splits, mask=all_splits < splits, other=-float("inf"))
    # A head that saw nothing: -inf - -inf would be NaN.
    top = tl.maximum(tl.max(logs, axis=0), -1e30)
    dims = tl.arange(0, BLOCK_D)
    inside = dims < HEAD_DIM
    total = 0.0
    merged = tl.zeros([BLOCK_D], tl.float32)
    # In eights from the first on: empty ones behind the last add nothing, not even a rounding.
    for start in range(0, PADDED, 8):
        some = start + tl.arange(0, 8)
        log = tl.load(sums + row * splits + some, mask=some < splits, other=-float("inf"))
        weights = tl.exp(log - top)
        total += tl.sum(weights, axis=0)
        spots = (row * splits + some)[:, None] * HEAD_DIM + dims[None, :]
        # What was not written is not read: it may be no number.
        there = log > -float("inf")
        values = tl.load(parts + spots, mask=there[:, None] & inside[None, :], other=0.0)
        merged += tl.sum(weights[:, None] * values, axis=0)
    safe = tl.where(total == 0, 1.0, total)
    tl.store(out + row * HEAD_DIM + dims, (merged / safe).to(out.dtype.element_ty), mask=inside)
    tl.store(lse + row, tl.where(total == 0, -float("inf"), top + tl.log(safe)))


@no_type_check
@triton.jit
def _merge_two_kernel(
    a,
    b,
    a_sums,
    b_sums,
    out,
    lse,
    rows,
    heads,
    a_token,
    a_head,
    b_token,
    b_head,
    a_sum_token,
    a_sum_head,
    b_sum_token,
    b_sum_head,
    HEAD_DIM: tl.constexpr,
    BLOCK_D: tl.constexpr,
    ROWS: tl.constexpr,
):
    """Some rows, a row being one head of one token."""
    row = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    real = row < rows
    token, head = row // heads, row % heads
    dims = tl.arange(0, BLOCK_D)
    a_log = tl.load(a_sums + token * a_sum_token + head * a_sum_head, mask=real, other=0.0)
    b_log = tl.load(b_sums + token * b_sum_token + head * b_sum_head, mask=real, other=0.0)
    # A finite floor: -inf - -inf would be NaN where neither part saw anything.
    top = tl.maximum(tl.maximum(a_log, b_log), -1e30)
    a_weight, b_weight = tl.exp(a_log - top), tl.exp(b_log - top)
    total = a_weight + b_weight
    safe = tl.where(total == 0, 1.0, total)
    a_spots = token[:, None] * a_token + head[:, None] * a_head + dims[None, :]
    b_spots = token[:, None] * b_token + head[:, None] * b_head + dims[None, :]
    first = _load(a + a_spots, real, dims, HEAD_DIM, BLOCK_D).to(tl.float32)
    second = _load(b + b_spots, real, dims, HEAD_DIM, BLOCK_D).to(tl.float32)
    merged = first * (a_weight / safe)[:, None] + second * (b_weight / safe)[:, None]
    spots = row[:, None] * HEAD_DIM + dims[None, :]
    written = real[:, None] & (dims < HEAD_DIM)[None, :]
    tl.store(out + spots, merged.to(out.dtype.element_ty), mask=written)
    tl.store(lse + row, tl.where(total == 0, -float("inf"), top + tl.log(safe)), mask=real)
