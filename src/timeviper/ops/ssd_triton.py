"""The selective scan by Triton kernels, forward and backward: what CUDA devices run.

Each program carries one head's state through a segment of chunks in registers. Where sequences
alone do not fill the chip they are cut into segments: a first walk finds what each segment adds,
a short scan joins them, a second walk writes outputs. The backward keeps no chunk states from the
forward: it walks again, then takes one chunk a program. Nothing is added atomically.
"""
# Kernels are Triton's language, of which the type checker knows only the outside.
# pyright: reportIncompatibleMethodOverride=false, reportCallIssue=false, reportIndexIssue=false
# pyright: reportGeneralTypeIssues=false

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
import triton.language as tl
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from timeviper.core.errors import ConfigError
from timeviper.ops import ssd_chunked
from timeviper.ops import ssd_triton_kernels as kernels
from timeviper.ops.ssd_tiles_triton import Tiles, Walked

_LARGEST = 128
_JOIN_BLOCK = 1024
_HEADS_BLOCK = 16
# Tokens of a sequence up to which its results do not depend on others (docs/decisions/0020).
_QUESTION = 1024
# States up to this many values leave registers to spare in four warps.
_SMALL_STATE = 64 * 64
_BROAD = 64


@dataclass(frozen=True, kw_only=True)
class Tuning:
    """How the kernels are launched; changes speed, not results.

    Args:
        programs: walking programs wanted on each multiprocessor before sequences are cut; None
            takes as many as its registers hold.
        shortest: fewest chunks of a segment that a sequence is cut into.
        walk: warps and stages of the walks; None takes them by size.
        gradients: warps and stages of the kernel over chunks; None takes them by size.
        precision: how float32 products are computed, a name of Triton's. "ieee" leaves the matrix
            units and, at these sizes, the registers; three tf32 products are as exact as sums.
    """

    programs: int | None = None
    shortest: int = 8
    walk: tuple[int, int] | None = None
    gradients: tuple[int, int] | None = None
    precision: str = "tf32x3"


def ssd(
    x: Float[Tensor, "token head head_dim"],
    dt: Float[Tensor, "token head"],
    A: Float[Tensor, "head"],
    B: Float[Tensor, "token group state_size"],
    C: Float[Tensor, "token group state_size"],
    D: Float[Tensor, "head"] | None = None,
    state: Float[Tensor, "sequence head head_dim state_size"] | None = None,
    *,
    lengths: Sequence[int],
    dt_bias: Float[Tensor, "head"] | None = None,
    dt_softplus: bool = False,
    dt_limit: tuple[float, float] = (0.0, math.inf),
    chunk_size: int = 64,
) -> tuple[
    Float[Tensor, "token head head_dim"],
    Float[Tensor, "sequence head head_dim state_size"],
]:
    """Scan packed sequences; arguments and results as `ops.ssd.ssd`, which checks them.

    Products take bfloat16 operands when `x` is bfloat16 and float32 ones otherwise; sums of
    decays and carried states are float32. Views with any strides are read as they are. Calls of
    one token a sequence take the step of `ops.ssd_chunked`: there is nothing to walk.

    Args:
        x: inputs, packed.
        dt: step sizes before bias, softplus and limits.
        A: negative decay rate a head.
        B: input projections; head h reads group h // (heads / groups).
        C: output projections, grouped like B.
        D: weight of the direct path a head, or None.
        state: what each sequence starts from; None means zeros.
        lengths: tokens of each sequence.
        dt_bias: added to `dt` first.
        dt_softplus: whether softplus follows the bias.
        dt_limit: lowest and highest step size allowed.
        chunk_size: tokens a chunk at most; a power of two from 16 to 64 is taken.

    Returns:
        Outputs in the dtype of `x`; final states in float32.

    Raises:
        ConfigError: float64, or a head_dim or state_size beyond 128.

    Source: Mamba-2 (Dao and Gu 2024), section 6; segments and gradients of decays ours.
    """
    if max(lengths, default=0) <= 1:
        return ssd_chunked.ssd(
            x,
            dt,
            A,
            B,
            C,
            D,
            state,
            lengths=lengths,
            dt_bias=dt_bias,
            dt_softplus=dt_softplus,
            dt_limit=dt_limit,
        )
    options = Options(
        softplus=dt_softplus,
        limit=dt_limit,
        chunk=_chunk(chunk_size, x, B),
        lengths=tuple(lengths),
    )
    return scan((x, dt, A, B, C, D, dt_bias, state), options)


@dataclass(frozen=True, kw_only=True)
class Options:
    """What a scan is told beside its tensors; `chunk` is a power of two from 16."""

    lengths: tuple[int, ...]
    softplus: bool = False
    limit: tuple[float, float] = (0.0, math.inf)
    chunk: int = 64
    tuning: Tuning = Tuning()

    @property
    def clamps(self) -> bool:
        """Whether the limits can bite; softplus is never negative."""
        return not (self.softplus and self.limit[0] <= 0.0 and self.limit[1] == math.inf)


Operands = tuple[
    Tensor, Tensor, Tensor, Tensor, Tensor, Tensor | None, Tensor | None, Tensor | None
]


def scan(operands: Operands, options: Options) -> tuple[Tensor, Tensor]:
    """The scan with everything about its launches open, for `ssd` and for tuning.

    Args:
        operands: x, dt, A, B, C, D, dt_bias, state; the last three may be None.
        options: lengths, step sizes and tuning.

    Returns:
        Outputs and final states as `ssd`.

    Raises:
        ConfigError: float64, or a head_dim or state_size beyond 128.
    """
    _check(operands)
    y, final = _Scan.apply(*operands, options)
    return y, final


def _check(operands: Operands) -> None:
    """Refuse what the kernels cannot hold."""
    x, dt, _, b, c = operands[:5]
    if any(t.dtype == torch.float64 for t in (x, dt, b, c)):
        raise ConfigError(
            want="x, dt, B and C in float32, bfloat16 or float16 for the triton scan",
            got="float64",
            do="pass backend='chunked', or override it, for float64",
        )
    if x.shape[2] > _LARGEST or b.shape[2] > _LARGEST:
        raise ConfigError(
            want=f"head_dim and state_size of at most {_LARGEST} for the triton scan",
            got=(x.shape[2], b.shape[2]),
            do="pass backend='chunked', or override it, for larger heads",
        )


def _chunk(chunk_size: int, x: Tensor, B: Tensor) -> int:
    """The largest power of two up to `chunk_size` that matrix units and shared memory take."""
    fits = _residents(x.shape[2], B.shape[2]) > 1 or x.dtype == torch.bfloat16
    most = 64 if fits else 32
    return 1 << (min(max(chunk_size, 16), most).bit_length() - 1)


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Where chunks, segments and sequences lie; int64 arrays for the host.

    Args:
        chunks: (chunk, 2): first token, tokens.
        segments: (segment, 4): first chunk, chunks, first token, token after the last.
        sequences: (sequence, 2): first segment, segments.
    """

    chunks: np.ndarray
    segments: np.ndarray
    sequences: np.ndarray

    @property
    def is_cut(self) -> bool:
        """Whether a sequence has more than one segment."""
        return len(self.segments) > len(self.sequences)


@lru_cache(maxsize=64)
def plan(lengths: tuple[int, ...], chunk: int, most: int) -> Plan:
    """Cut sequences into chunks and segments; each sequence has at least one, maybe empty, segment.

    Args:
        lengths: tokens of each sequence.
        chunk: tokens a chunk.
        most: chunks a segment at most.

    Returns:
        The three tables; the same object for the same arguments.
    """
    sizes = np.asarray(lengths, dtype=np.int64)
    begins = np.cumsum(sizes) - sizes
    counts = -(-sizes // chunk)
    chunk_begins = np.cumsum(counts) - counts
    within, owner = _numbered(counts)
    first = begins[owner] + within * chunk
    chunks = np.stack([first, np.minimum(chunk, (begins + sizes)[owner] - first)], axis=1)

    pieces = np.maximum(-(-counts // most), 1)
    # Pieces of like size: a short last one would leave programs waiting.
    each = -(-counts // pieces)
    within, owner = _numbered(pieces)
    skipped = np.minimum(within * each[owner], counts[owner])
    taken = np.minimum(each[owner], counts[owner] - skipped)
    token = begins[owner] + skipped * chunk
    end = np.minimum(token + taken * chunk, (begins + sizes)[owner])
    segments = np.stack([chunk_begins[owner] + skipped, taken, token, end], axis=1)
    sequences = np.stack([np.cumsum(pieces) - pieces, pieces], axis=1)
    return Plan(chunks=chunks, segments=segments, sequences=sequences)


def _numbered(counts: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """For things counted by owner: each one's number within its owner, and the owner."""
    owner = np.repeat(np.arange(len(counts)), counts)
    return np.arange(len(owner)) - (np.cumsum(counts) - counts)[owner], owner


def most_chunks(counts: Sequence[int], *, walkers: int, wanted: int, shortest: int) -> int:
    """Chunks of a segment at most, so that programs fill the chip and none runs much longer.

    Args:
        counts: chunks of each sequence.
        walkers: programs that walk one sequence side by side.
        wanted: programs that the chip should have.
        shortest: fewest chunks that are worth a segment.

    Returns:
        An even share of the work, or the longest sequence where that is at most two shares:
        cutting costs a second walk, so it has to shorten the longest by more than that.
    """
    longest = max(counts)
    share = max(-(-sum(counts) * walkers // wanted), shortest)
    return longest if longest <= 2 * share else share


class _Scan(torch.autograd.Function):
    """The kernels as one differentiable op."""

    @staticmethod
    def forward(
        ctx: Any,
        x: Tensor,
        dt: Tensor,
        A: Tensor,
        B: Tensor,
        C: Tensor,
        D: Tensor | None,
        dt_bias: Tensor | None,
        state: Tensor | None,
        options: Options,
    ) -> tuple[Tensor, Tensor]:
        """Outputs and final states; keeps the inputs, the steps and each segment's first state."""
        A, D, bias, state = A.contiguous(), _flat(D), _flat(dt_bias), _flat(state)
        work = _Work.of(x, B, C, options)
        with torch.cuda.device_of(x):
            given = work.steps(dt, A, bias)
            tiles = work.tiles(x, B, C)
            walk = _Walk(x=x, B=B, C=C, given=given, reverse=False, tiles=tiles)
            y = torch.empty(x.shape, device=x.device, dtype=x.dtype)
            starts, final = work.carry(walk, state, emit=(y, D))
        ctx.save_for_backward(x, dt, A, B, C, D, bias, starts, given.steps, given.sums)
        ctx.options, ctx.state_dtype = options, None if state is None else state.dtype
        ctx.set_materialize_grads(False)
        return y, final

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_y: Tensor | None, d_final: Tensor | None) -> tuple[Tensor | None, ...]:
        """Gradients of all tensors; states are walked again, forwards and backwards."""
        x, dt, A, B, C, D, bias, starts, steps, sums = ctx.saved_tensors
        work = _Work.of(x, B, C, ctx.options)
        given = work.given(dt, A, bias, steps, sums)
        d_y = torch.zeros_like(x) if d_y is None else d_y
        with torch.cuda.device_of(x):
            before, after = work.states(x), work.states(x)
            walk = _Walk(x=x, B=B, C=C, given=given, reverse=False)
            work.walk(walk, starts, keep=before)
            walk = _Walk(x=d_y, B=C, C=B, given=given, reverse=True)
            d_state = work.carry(walk, _flat(d_final), keep=after)[1]
            around = kernels.Around(D, steps, sums, before, after)
            found = work.gradients((x, B, C, d_y), around)
            d_dt, d_A, d_bias = work.steps_backward(given, found)
        d_D = None if D is None else found.D.sum(0).to(D.dtype)
        d_start = None if ctx.state_dtype is None else d_state.to(ctx.state_dtype)
        return found.x, d_dt, d_A, found.B, found.C, d_D, d_bias, d_start, None


@dataclass(frozen=True, kw_only=True)
class _Walk:
    """What a walk reads at each token, and in which direction; `tiles` where outputs go by them."""

    x: Tensor
    B: Tensor
    C: Tensor
    given: kernels.Steps
    reverse: bool
    tiles: Tiles | None = None


@dataclass(frozen=True, kw_only=True)
class _Work:
    """One scan's sizes and tables; each method launches one kernel.

    Args:
        options: as given by the caller.
        plan: tables on the host.
        chunks: table of the chunks on the device.
        segments: table of the segments on the device.
        sequences: table of the sequences on the device.
        heads: number of heads.
        groups: number of groups of B and C.
        head_dim: channels of a head.
        size: state size.
        operand: dtype of matrix operands.
    """

    options: Options
    plan: Plan
    chunks: Tensor
    segments: Tensor
    sequences: Tensor
    heads: int
    groups: int
    head_dim: int
    size: int
    operand: torch.dtype

    @classmethod
    def of(cls, x: Tensor, B: Tensor, C: Tensor, options: Options) -> "_Work":
        """Settle the plan and bring its tables to the device."""
        _, heads, head_dim = x.shape
        _, groups, size = B.shape
        tuning = options.tuning
        counts = [-(-length // options.chunk) for length in options.lengths]
        most = most_chunks(
            counts,
            walkers=heads,
            wanted=(tuning.programs or _residents(head_dim, size)) * _processors(x.device),
            shortest=tuning.shortest,
        )
        cut = plan(options.lengths, options.chunk, most)
        tables = [cut.chunks, cut.segments, cut.sequences]
        packed = torch.from_numpy(np.concatenate([table.ravel() for table in tables]))
        if x.is_cuda:
            # Pinned: the copy of a pageable buffer would wait for the device.
            packed = packed.pin_memory().to(x.device, non_blocking=True)
        chunks, segments, sequences = packed.split([table.size for table in tables])
        return cls(
            options=options,
            plan=cut,
            chunks=chunks,
            segments=segments,
            sequences=sequences,
            heads=heads,
            groups=groups,
            head_dim=head_dim,
            size=size,
            # Kernels that are interpreted on a CPU have no products of bfloat16.
            operand=torch.bfloat16 if x.is_cuda and x.dtype == torch.bfloat16 else torch.float32,
        )

    @property
    def num_chunks(self) -> int:
        """Chunks of all sequences."""
        return len(self.plan.chunks)

    def states(self, like: Tensor) -> Tensor:
        """Room for one state a chunk and head, as the products take them."""
        shape = (self.num_chunks, self.heads, self.head_dim, self.size)
        return torch.empty(shape, device=like.device, dtype=self.operand)

    def given(
        self, dt: Tensor, A: Tensor, bias: Tensor | None, steps: Tensor, sums: Tensor
    ) -> kernels.Steps:
        """What kernels need to know of steps."""
        return kernels.Steps(dt, *dt.stride(), A, bias, *self.options.limit, steps, sums)

    def steps(self, dt: Tensor, A: Tensor, bias: Tensor | None) -> kernels.Steps:
        """Step sizes and running sums of dt A, (head, chunk, place), float32."""
        shape = (self.heads, self.num_chunks, self.options.chunk)
        steps = torch.empty(shape, device=dt.device, dtype=torch.float32)
        given = self.given(dt, A, bias, steps, torch.empty_like(steps))
        kernels.steps_kernel[self._steps_grid()](
            given, self.chunks, self.num_chunks, self.heads, **self._steps_flags()
        )
        return given

    def steps_backward(
        self, given: kernels.Steps, found: kernels.Found
    ) -> tuple[Tensor, Tensor, Tensor | None]:
        """Gradients of dt, A and the bias from those of steps and decays."""
        dt, A, bias = given.dt, given.A, given.bias
        d_dt = torch.empty(dt.shape, device=dt.device, dtype=dt.dtype)
        d_A = torch.empty(self.num_chunks, self.heads, device=dt.device, dtype=torch.float32)
        d_bias = None if bias is None else torch.empty_like(d_A)
        kernels.steps_backward_kernel[self._steps_grid()](
            given,
            found,
            d_dt,
            d_A,
            d_bias,
            self.chunks,
            self.num_chunks,
            self.heads,
            **self._steps_flags(),
        )
        d_A = d_A.sum(0).to(A.dtype)
        if bias is None or d_bias is None:
            return d_dt, d_A, None
        return d_dt, d_A, d_bias.sum(0).to(bias.dtype)

    def _steps_grid(self) -> tuple[int, int]:
        return self.num_chunks, -(-self.heads // min(_HEADS_BLOCK, _padded(self.heads, 1)))

    def _steps_flags(self) -> dict[str, int | bool]:
        return {
            "Q": self.options.chunk,
            "BH": min(_HEADS_BLOCK, _padded(self.heads, 1)),
            "SOFTPLUS": self.options.softplus,
            "CLAMP": self.options.clamps,
            "num_warps": 2,
        }

    def carry(
        self,
        walk: _Walk,
        state: Tensor | None,
        *,
        keep: Tensor | None = None,
        emit: tuple[Tensor, Tensor | None] | None = None,
    ) -> tuple[Tensor | None, Tensor]:
        """Walk every sequence from its state, twice where sequences are cut.

        Args:
            walk: what is read.
            state: (sequence, head, head_dim, state_size) or None for zeros.
            keep: as in `walk`.
            emit: as in `walk`.

        Returns:
            The state at the start of each segment, None for zeros, and after each sequence.
        """
        count = len(self.plan.segments)
        like: dict[str, Any] = {"device": walk.x.device, "dtype": torch.float32}
        ends = torch.empty(count, self.heads, self.head_dim, self.size, **like)
        decays = torch.empty(count, self.heads, **like)
        if not self.plan.is_cut:
            self.walk(walk, state, ends=(ends, decays), keep=keep, emit=emit)
            return state, ends
        self.walk(walk, None, ends=(ends, decays))
        starts, finals = self.join(ends, decays, state, reverse=walk.reverse)
        self.walk(walk, starts, keep=keep, emit=emit)
        return starts, finals

    def walk(
        self,
        walk: _Walk,
        starts: Tensor | None,
        *,
        ends: tuple[Tensor, Tensor] | None = None,
        keep: Tensor | None = None,
        emit: tuple[Tensor, Tensor | None] | None = None,
    ) -> None:
        """Walk every segment from its start; what is written is what there is room for.

        Args:
            walk: what is read.
            starts: (segment, head, head_dim, state_size) or None for zeros.
            ends: last states and summed decays to fill, or None.
            keep: where the state before each chunk goes (after it, in reverse), or None.
            emit: outputs to fill and weight of the direct path, or None.
        """
        if emit is not None and walk.tiles is not None:
            self._walk_tiles(walk.tiles, walk.given, (starts, ends and ends[0]), emit)
            return
        y, direct = emit or (None, None)
        views = map(kernels.View.of, (walk.x, walk.B, walk.C))
        io = kernels.Walked(*views, direct, y, walk.given.steps, walk.given.sums, keep)
        broad = emit is not None and self.operand == torch.bfloat16
        for begin, width in _parts(self.head_dim, broad=broad):
            kernels.walk_kernel[self.heads, len(self.plan.segments)](
                io,
                starts,
                *(ends or (None, None)),
                self.segments,
                self.num_chunks,
                self.heads,
                **self._sizes(),
                FROM=begin,
                BP=width,
                REVERSE=walk.reverse,
                **self._launch(self.options.tuning.walk, (4, 3)),
            )

    def tiles(self, x: Tensor, B: Tensor, C: Tensor) -> Tiles | None:
        """What the copy engine fetches, where one sequence has all tokens and sizes allow it."""
        # Of several sequences, one's last tile would hold the first tokens of the next. A short one
        # takes the walk that it takes beside others: a question does not feel its batch.
        lengths = self.options.lengths
        if sum(length > 0 for length in lengths) != 1 or sum(lengths) <= _QUESTION:
            return None
        return Tiles.of(x, B, C, chunk=self.options.chunk, operand=self.operand)

    def _walk_tiles(
        self,
        tiles: Tiles,
        given: kernels.Steps,
        states: tuple[Tensor | None, Tensor | None],
        emit: tuple[Tensor, Tensor | None],
    ) -> None:
        """Walk every segment by tiles; `states` are its first ones and room for its last ones."""
        y, direct = emit
        walked = Walked(direct, y, given.steps, given.sums, *states, self.segments)
        for part in _parts(self.head_dim):
            tiles.walk(walked, chunks=self.num_chunks, segments=len(self.plan.segments), part=part)

    def join(
        self, ends: Tensor, decays: Tensor, state: Tensor | None, *, reverse: bool
    ) -> tuple[Tensor, Tensor]:
        """States at the start of each segment and after each sequence, float32."""
        starts = torch.empty_like(ends)
        finals = ends.new_empty(len(self.plan.sequences), *ends.shape[1:])
        size = self.head_dim * self.size
        grid = len(self.plan.sequences), self.heads, -(-size // _JOIN_BLOCK)
        kernels.join_kernel[grid](
            state,
            ends,
            decays,
            starts,
            finals,
            self.sequences,
            self.heads,
            SIZE=size,
            BLOCK=_JOIN_BLOCK,
            REVERSE=reverse,
        )
        return starts, finals

    def gradients(
        self, tokens: tuple[Tensor, Tensor, Tensor, Tensor], around: kernels.Around
    ) -> kernels.Found:
        """Gradients of every chunk's x, B, C and the rest, from those, d_y and what is around."""
        x, B, C, _ = tokens
        found = kernels.Found(
            x=torch.empty(x.shape, device=x.device, dtype=x.dtype),
            B=torch.empty(B.shape, device=x.device, dtype=B.dtype),
            C=torch.empty(B.shape, device=x.device, dtype=C.dtype),
            D=torch.empty(self.num_chunks, self.heads, device=x.device, dtype=torch.float32),
            steps=torch.empty_like(around.steps),
            decays=torch.empty_like(around.steps),
        )
        kernels.gradients_kernel[(self.num_chunks, self.groups)](
            *map(kernels.View.of, tokens),
            around,
            found,
            self.chunks,
            self.num_chunks,
            self.heads,
            **self._sizes(),
            BP=_padded(self.head_dim),
            **self._launch(self.options.tuning.gradients, (8, 2)),
        )
        return found

    def _sizes(self) -> dict[str, Any]:
        """Sizes that kernels are compiled for."""
        return {
            "RATIO": self.heads // self.groups,
            "P": self.head_dim,
            "N": self.size,
            "Q": self.options.chunk,
            "BN": _padded(self.size),
            "OPERAND": _TRITON_DTYPES[self.operand],
            "PRECISION": self.options.tuning.precision,
        }

    def _launch(self, asked: tuple[int, int] | None, large: tuple[int, int]) -> dict[str, int]:
        """Warps and stages: those asked for, or by the size of a state."""
        if asked is None and self.operand != torch.bfloat16:
            # Tiles of float32 fill shared memory: nothing ahead. Eight warps would be quicker, but
            # Triton 3.6 lays them over 64 rows as if there were 128, and reads stray memory.
            asked = (4, 1)
        elif asked is None:
            asked = (4, 2) if _residents(self.head_dim, self.size) > 1 else large
        return {"num_warps": asked[0], "num_stages": asked[1]}


_TRITON_DTYPES = {torch.bfloat16: tl.bfloat16, torch.float32: tl.float32}


def _flat(values: Tensor | None) -> Tensor | None:
    """Values side by side in memory, where there are any."""
    return None if values is None else values.contiguous()


def _padded(size: int, least: int = 16) -> int:
    """The power of two that holds `size`; matrix units take no less than 16."""
    return max(least, 1 << (size - 1).bit_length())


def _parts(head_dim: int, *, broad: bool = False) -> list[tuple[int, int]]:
    """First channel and width of each walk: powers of two that pad a head by little.

    Two parts in one program keep more registers than there are, and came out wrong on an H100.

    Args:
        head_dim: channels of a head.
        broad: no part below 64 channels but a rest of 16, as walks that write outputs from products
            of bfloat16 want it: of 32 channels they came out wrong on an H100 at odd strides.
    """
    whole = _padded(head_dim)
    if broad and head_dim <= _BROAD:
        return [(0, _BROAD)]
    if whole == head_dim or head_dim < 32:
        return [(0, whole)]
    large, rest = whole // 2, _padded(head_dim - whole // 2)
    return [(0, large), (large, _BROAD if broad and head_dim - large != 16 else rest)]


def _residents(head_dim: int, size: int) -> int:
    """Walking programs that the registers of one multiprocessor hold."""
    return 1 if _padded(head_dim) * _padded(size) > _SMALL_STATE else 2


def _processors(device: torch.device) -> int:
    """Multiprocessors of the device; one where kernels are interpreted."""
    if device.type != "cuda":
        return 1
    return torch.cuda.get_device_properties(device).multi_processor_count
