"""The selective scan's forward over one long sequence, its tiles fetched by the copy engine.

`ops.ssd_triton` takes this walk where `Tiles.of` finds one; all else stays with its own walks.
"""
# Kernels are Triton's language, of which the type checker knows only the outside.
# pyright: reportGeneralTypeIssues=false, reportCallIssue=false, reportArgumentType=false
# pyright: reportIndexIssue=false, reportOptionalMemberAccess=false

from dataclasses import dataclass
from typing import Any, NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor
from triton.tools.tensor_descriptor import TensorDescriptor

from timeviper.ops import ssd_triton_kernels as kernels

# Every call has another number of chunks: kernels made for some of them would be made often.
_COUNTS = ["num_chunks"]
# The copy engine reads rows that begin at multiples of this many bytes.
_ALIGNED = 16
# What an H100 was seen to compute right, and faster than the other walk does.
_CHUNK, _SIZE, _WIDTHS = 64, 128, (80,)
# Tiles are under way for two chunks: one alone leaves the walk waiting for memory.
_STAGES = 4


class Walked(NamedTuple):
    """What a walk by tiles reads and writes beside the tiles.

    Args:
        D: direct path, or None.
        y: outputs (token, head, channel).
        steps: step sizes (head, chunk, Q), float32.
        sums: running sums of dt A within each chunk, like `steps`.
        starts: state before each segment, or None for zeros.
        ends: where the state after each segment goes, or None.
        segments: table of the segments.
    """

    D: Any
    y: Any
    steps: Any
    sums: Any
    starts: Any
    ends: Any
    segments: Any


@dataclass(frozen=True, kw_only=True)
class Tiles:
    """x, B and C of one sequence as matrices with a token a row.

    Args:
        x: (token, head x channel).
        B: (token, group x state).
        C: like `B`.
        heads: number of heads.
        groups: number of groups of B and C.
        operand: dtype of matrix operands.
    """

    x: Tensor
    B: Tensor
    C: Tensor
    heads: int
    groups: int
    operand: torch.dtype

    @classmethod
    def of(
        cls, x: Tensor, B: Tensor, C: Tensor, *, chunk: int, operand: torch.dtype
    ) -> "Tiles | None":
        """The matrices, or None where sizes or strides are not those that this walk is made for.

        Args:
            x: (token, head, channel) of one sequence.
            B: (token, group, state).
            C: like `B`.
            chunk: tokens a chunk.
            operand: dtype of matrix operands.
        """
        made_for = chunk == _CHUNK and B.shape[2] == _SIZE and x.shape[2] in _WIDTHS
        x_rows, b_rows, c_rows = _rows(x), _rows(B), _rows(C)
        if x_rows is None or b_rows is None or c_rows is None:
            return None
        if not made_for or x.dtype != torch.bfloat16:
            return None
        heads, groups = x.shape[1], B.shape[1]
        return cls(x=x_rows, B=b_rows, C=c_rows, heads=heads, groups=groups, operand=operand)

    def walk(self, walked: Walked, *, chunks: int, segments: int, part: tuple[int, int]) -> None:
        """Walk some channels of every head through every segment; outputs and last states.

        Args:
            walked: what else is read and written.
            chunks: number of chunks.
            segments: number of segments.
            part: first channel of a head and how many; a power of two from 16.
        """
        begin, width = part
        tiles = (self.x, [_CHUNK, width]), (self.B, [_CHUNK, _SIZE]), (self.C, [_CHUNK, _SIZE])
        found = [TensorDescriptor.from_tensor(rows, block) for rows, block in tiles]
        tiles_kernel[(self.heads, segments)](
            *found,
            walked,
            chunks,
            HEADS=self.heads,
            RATIO=self.heads // self.groups,
            P=self.x.shape[1] // self.heads,
            N=_SIZE,
            Q=_CHUNK,
            FROM=begin,
            BP=width,
            OPERAND=_TRITON_DTYPES[self.operand],
            # Four warps: Triton 3.6 lays eight over 64 rows as if there were 128.
            num_warps=4,
            num_stages=_STAGES,
        )


_TRITON_DTYPES = {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


def _rows(values: Tensor) -> Tensor | None:
    """A packed tensor as a matrix with a token a row, or None where its strides are no such."""
    tokens, groups, width = values.shape
    size = values.element_size()
    whole = values.stride(2) == 1 and (groups == 1 or values.stride(1) == width)
    aligned = values.data_ptr() % _ALIGNED == 0 and values.stride(0) * size % _ALIGNED == 0
    if not (tokens and whole and aligned):
        return None
    return values.as_strided((tokens, groups * width), (values.stride(0), 1))


@no_type_check
@triton.jit(do_not_specialize=_COUNTS)
def tiles_kernel(
    x: tl.tensor_descriptor,
    B: tl.tensor_descriptor,
    C: tl.tensor_descriptor,
    io: Walked,
    num_chunks: tl.tensor,
    HEADS: tl.constexpr,
    RATIO: tl.constexpr,
    P: tl.constexpr,
    N: tl.constexpr,
    Q: tl.constexpr,
    FROM: tl.constexpr,
    BP: tl.constexpr,
    OPERAND: tl.constexpr,
) -> None:
    """Carry BP channels of one head's state through the chunks of a segment, in registers.

    As `walk_kernel` of `ops.ssd_triton_kernels`, outputs written: the state lies turned, (N, BP).
    Tiles end with the sequence: what lies beyond is zero. Sizes are constants, so that addresses
    cost no registers.
    """
    head = tl.program_id(0).to(tl.int64)
    segment = tl.program_id(1).to(tl.int64)
    i, n, p = tl.arange(0, Q), tl.arange(0, N), FROM + tl.arange(0, BP)
    row = io.segments + 4 * segment
    first, many = tl.load(row), tl.load(row + 1).to(tl.int32)
    begin, end = tl.load(row + 2), tl.load(row + 3)
    own, group = segment * HEADS + head, head // RATIO
    column, channel = (group * N).to(tl.int32), (head * P + FROM).to(tl.int32)
    state = tl.zeros((N, BP), dtype=tl.float32)
    if io.starts is not None:
        state += kernels.load_turned(io.starts, own, p, n, P, N).to(tl.float32)
    direct = 0.0
    if io.D is not None:
        direct = tl.load(io.D + head).to(tl.float32)
    for turn in range(many):
        past = turn
        chunk, token = first + past, begin + past.to(tl.int64) * Q
        at, at_token = (head * num_chunks + chunk) * Q, token.to(tl.int32)
        step_i, sum_i = tl.load(io.steps + at + i), tl.load(io.sums + at + i)
        last = tl.load(io.sums + at + Q - 1)
        b_i = B.load([at_token, column]).to(OPERAND)
        x_i = x.load([at_token, channel]).to(OPERAND)
        c_i = C.load([at_token, column]).to(OPERAND)
        # The state moves on first: what outputs read of it waits in shared memory.
        old = state.to(OPERAND)
        weight = step_i * tl.exp(last - sum_i)
        enters, stays = (x_i * weight[:, None]).to(OPERAND), state * tl.exp(last)
        state = tl.dot(tl.trans(b_i), enters, acc=stays)
        log2 = sum_i * 1.4426950408889634
        # Masked before the power: a future span would overflow it.
        spans = tl.where(i[:, None] >= i[None, :], log2[:, None] - log2[None, :], float("-inf"))
        mixed = tl.dot(c_i, tl.trans(b_i)) * (tl.exp2(spans) * step_i[None, :])
        mixed = tl.where(i[:, None] == i[None, :], mixed + direct, mixed).to(OPERAND)
        out = tl.dot(mixed, x_i, acc=tl.dot(c_i, old) * tl.exp(sum_i)[:, None])
        y, seen = io.y + (token * HEADS + head) * P, i < (end - token).to(tl.int32)
        to = y + (i.to(tl.int64)[:, None] * (HEADS * P) + p.to(tl.int64)[None, :])
        tl.store(to, out.to(io.y.dtype.element_ty), mask=seen[:, None])
    if io.ends is not None:
        kernels.store_turned(io.ends, own, p, n, state, P, N)
