"""The selective state-space scan as matrix products over chunks: the default on every device.

Within a chunk the scan is a masked product like attention; between chunks one state is carried.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from timeviper.ops.autocast import as_written
from timeviper.ops.packing import from_rows, is_even, to_rows, token_places
from timeviper.ops.ssd_steps import step_sizes

_CPU_BLOCK_BYTES = 16 * 2**20
_GPU_BLOCK_CHUNKS = 128


def ssd(  # noqa: PLR0913
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

    Sums of decays and carried states are float32 (float64 for float64 inputs) under any
    autocast; on a GPU the matrix products take bfloat16 operands when the inputs are such.

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
        chunk_size: tokens a chunk at most; changes speed and memory, not the result.

    Returns:
        Outputs in the dtype of `x`; final states.

    Source: Mamba-2 (Dao and Gu 2024), section 6; splitting of the sums ours.
    """
    work = torch.float64 if x.dtype == torch.float64 else torch.float32
    operand = torch.bfloat16 if x.is_cuda and x.dtype == torch.bfloat16 else work
    # Out of autocast: every cast below is on purpose.
    with as_written(x):
        steps = step_sizes(dt.to(work), dt_bias, softplus=dt_softplus, limit=dt_limit)
        if state is None:
            state = steps.new_zeros(len(lengths), *x.shape[1:], B.shape[2])
        tokens = _Tokens(x=x, dt=steps, decay=steps * A.to(work), b=B, c=C)
        direct = None if D is None else D.to(work)[:, None]
        scan = _Scan(
            chunk_size=chunk_size,
            direct=direct,
            work=work,
            operand=operand,
            few_kernels=_few_kernels(x.device.type),
        )
        return scan.packed(tokens, state.to(work), lengths)


@dataclass(frozen=True, kw_only=True)
class _Tokens:
    """What the scan reads at each token; leading axes are (token) or (sequence, place)."""

    x: Tensor
    dt: Tensor
    decay: Tensor
    b: Tensor
    c: Tensor

    def rows(self, lengths: Sequence[int], places: Tensor | None) -> "_Tokens":
        """Padded rows of the chosen tokens; padding has dt 0 and so leaves states alone."""

        def lay(values: Tensor) -> Tensor:
            picked = values if places is None else values.index_select(0, places)
            return to_rows(picked, lengths)

        return self._each(lay)

    def cut(self, start: int, stop: int) -> "_Tokens":
        """The places from start to stop of every row, as views."""
        return self._each(lambda values: values[:, start:stop])

    def pad(self, extra: int) -> "_Tokens":
        """Rows with empty places added at the end."""
        return self._each(lambda v: F.pad(v, (0, 0) * (v.dim() - 2) + (0, extra)))

    def _each(self, change: Callable[[Tensor], Tensor]) -> "_Tokens":
        return _Tokens(
            x=change(self.x),
            dt=change(self.dt),
            decay=change(self.decay),
            b=change(self.b),
            c=change(self.c),
        )


@dataclass(frozen=True, kw_only=True)
class _Scan:
    """How to scan: chunk length, direct path (head, 1), dtypes of sums and of matrix operands.

    `few_kernels` prefers copies and larger products to more launches, as GPUs do.
    """

    chunk_size: int
    direct: Tensor | None
    work: torch.dtype
    operand: torch.dtype
    few_kernels: bool

    def packed(
        self, tokens: _Tokens, state: Tensor, lengths: Sequence[int]
    ) -> tuple[Tensor, Tensor]:
        """Scan packed tokens, sequences of like length together as rows."""
        if is_even(lengths):
            if lengths[0] == 0:
                return tokens.x, state
            y, state = self.rows(tokens.rows(lengths, None), state)
            return from_rows(y, lengths), state
        device = state.device
        groups = like_lengths(lengths, self.chunk_size)
        outputs: list[Tensor] = []
        finals: list[Tensor] = []
        for group in groups:
            sizes = [lengths[s] for s in group]
            places = torch.from_numpy(token_places(lengths, group)).to(device)
            start = state.index_select(0, torch.tensor(group, device=device))
            y, final = self.rows(tokens.rows(sizes, places), start)
            outputs.append(from_rows(y, sizes))
            finals.append(final)
        if not groups:
            return tokens.x, state
        order = [s for group in groups for s in group]
        places = torch.from_numpy(token_places(lengths, order)).to(device)
        y = torch.cat(outputs)
        y = torch.empty_like(y).index_copy(0, places, y)
        chosen = torch.tensor(order, device=device)
        return y, state.index_copy(0, chosen, torch.cat(finals))

    def rows(self, tokens: _Tokens, state: Tensor) -> tuple[Tensor, Tensor]:
        """Scan padded rows of one length, block by block with the state carried on."""
        length = tokens.x.shape[1]
        if length == 1:
            return self.step(tokens, state)
        chunk = min(self.chunk_size, length)
        if self.few_kernels and length % chunk:
            # No odd block at the end.
            tokens = tokens.pad(-length % chunk)
        blocks = list(self._blocks(tokens, state, chunk))
        # Without gradients each block is written where it belongs: no second copy of all outputs.
        whole = None if torch.is_grad_enabled() else torch.empty_like(tokens.x)
        outputs: list[Tensor] = []
        for start, stop, part in blocks:
            y, state = self.block(tokens.cut(start, stop), state, part)
            if whole is not None:
                whole[:, start:stop].view_as(y).copy_(y)
            else:
                outputs.append(y.to(tokens.x.dtype).flatten(1, 2).flatten(2, 3))
        y = torch.cat(outputs, dim=1) if whole is None else whole
        return y[:, :length], state

    def _blocks(self, tokens: _Tokens, state: Tensor, chunk: int) -> Iterator[tuple[int, int, int]]:
        """(start, stop, chunk length) of each block; what is over is one short chunk."""
        length, heads = tokens.x.shape[1:3]
        if self.few_kernels:
            chunks = _GPU_BLOCK_CHUNKS
        else:
            # What one chunk of one sequence needs at the same time, measured.
            floats = 3 * heads * chunk * chunk + 6 * chunk * heads * tokens.x.shape[3]
            floats = state.shape[0] * floats + 3 * state.numel()
            chunks = max(1, _CPU_BLOCK_BYTES // (floats * self.work.itemsize))
        whole = length // chunk * chunk
        for start in range(0, whole, chunks * chunk):
            yield start, min(start + chunks * chunk, whole), chunk
        if whole < length:
            yield whole, length, length - whole

    def block(self, t: _Tokens, state: Tensor, chunk: int) -> tuple[Tensor, Tensor]:
        """Scan a whole number of chunks at once.

        Axes: s sequence, k chunk, q and i place in the chunk, g group, r head of the group,
        p head_dim, n state_size.
        """
        sequences, length, heads, width = t.x.shape
        groups, size = t.b.shape[2:]
        ratio, count = heads // groups, length // chunk
        split = (sequences, count, chunk, groups, ratio)
        # (s k q g r): decay from the start of the chunk up to and including each place.
        total = t.decay.reshape(split).cumsum(2, dtype=torch.float64)
        x, dt = t.x.reshape(*split, width), t.dt.reshape(split)
        b = t.b.to(self.operand).reshape(sequences, count, chunk, groups, size)
        c = t.c.to(self.operand).reshape(sequences, count, chunk, groups, size)
        b, c = b.transpose(2, 3).contiguous(), c.transpose(2, 3).contiguous()

        inside = self._inside(total, dt, x, c @ b.transpose(-1, -2))
        to_end = dt * (total[:, :, -1:] - total).to(self.work).exp()
        leaving = (x * to_end[..., None]).flatten(-2).to(self.operand)
        added = leaving.permute(0, 1, 3, 4, 2) @ b
        added = added.to(self.work).reshape(sequences, count, heads, width, size)
        carry = _carry_by_product if self.few_kernels and count > 1 else _carry_by_steps
        before, state = carry(added, total[:, :, -1].flatten(-2), state)
        before = before.to(self.operand).reshape(sequences, count, groups, ratio * width, size)
        carried = (c @ before.transpose(-1, -2)).unflatten(-1, (ratio, width))
        from_start = total.to(self.work).exp()[..., None]
        return torch.addcmul(inside, carried.transpose(2, 3).to(self.work), from_start), state

    def _inside(self, total: Tensor, dt: Tensor, x: Tensor, scores: Tensor) -> Tensor:
        """What places of a chunk give to themselves and to later ones; (s k q g r p)."""
        chunk = total.shape[2]
        # The step size of the source joins the exponent: no pass of its own over the inputs.
        tiny = torch.finfo(self.work).tiny
        sources = total - dt.clamp(min=tiny).log()
        sums, sources = (v.to(self.work).permute(0, 1, 3, 4, 2) for v in (total, sources))
        future = torch.ones(chunk, chunk, dtype=torch.bool, device=total.device).triu(1)
        # Masked before exp: after it, inf * 0 would put NaN into the gradients.
        spans = (sums[..., :, None] - sources[..., None, :]).masked_fill_(future, -math.inf)
        reach, scores = spans.exp_().to(self.operand), scores.unsqueeze(3)
        if self.direct is None:
            weights = reach * scores
        else:
            # D x is a diagonal of the same product.
            diagonal = self.direct.reshape(*dt.shape[3:], 1).expand(-1, -1, chunk).diag_embed()
            weights = torch.addcmul(diagonal.to(self.operand), reach, scores)
        y = weights @ x.to(self.operand).permute(0, 1, 3, 4, 2, 5)
        return y.permute(0, 1, 4, 2, 3, 5).to(self.work)

    def step(self, t: _Tokens, state: Tensor) -> tuple[Tensor, Tensor]:
        """One token a sequence: the recurrence itself."""
        sequences, _, heads, width = t.x.shape
        groups, size = t.b.shape[2:]
        entering = t.x[:, 0].to(self.work) * t.dt[:, 0, :, None]
        entering = entering.reshape(sequences, groups, -1, 1)
        added = entering * t.b[:, 0, :, None].to(self.work)
        decay = t.decay[:, 0].exp()[..., None, None]
        state = torch.addcmul(added.reshape(sequences, heads, width, size), state, decay)
        readers = t.c[:, 0, :, :, None].to(self.work)
        y = state.reshape(sequences, groups, -1, size) @ readers
        y = y.reshape(sequences, 1, heads, width)
        if self.direct is not None:
            y = torch.addcmul(y, t.x.to(self.work), self.direct)
        return y.to(t.x.dtype), state


def like_lengths(lengths: Sequence[int], chunk_size: int) -> list[list[int]]:
    """Group sequences so that padding to the longest of a group at most doubles it.

    Args:
        lengths: tokens of each sequence.
        chunk_size: sequences up to this long always share a group.

    Returns:
        Numbers of the sequences of each group; sequences without tokens are in none.
    """
    order = sorted((s for s, n in enumerate(lengths) if n), key=lambda s: -lengths[s])
    groups: list[list[int]] = []
    for s in order:
        longest = lengths[groups[-1][0]] if groups else 0
        if longest and (longest <= chunk_size or 2 * lengths[s] >= longest):
            groups[-1].append(s)
        else:
            groups.append([s])
    return groups


def _few_kernels(device_type: str) -> bool:
    """Whether launches cost more than copies on this kind of device."""
    return device_type == "cuda"


def _carry_by_steps(added: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """States before each chunk and after the last, one chunk after another.

    Args:
        added: (sequence, chunk, head, head_dim, state_size), what each chunk adds by its end.
        decay: (sequence, chunk, head), log of what a state keeps across each chunk, float64.
        state: (sequence, head, head_dim, state_size), before the first chunk.

    Returns:
        States like `added`, and the state after the last chunk like `state`.
    """
    keeps = decay.to(added.dtype).exp()[..., None, None]
    last = added.shape[1] - 1
    if torch.is_grad_enabled():
        states = [state]
        for k in range(last):
            states.append(torch.addcmul(added[:, k], states[k], keeps[:, k]))
        before = torch.stack(states, dim=1)
    else:
        # Written in place: stacking would copy every state once more.
        before = torch.empty_like(added) if last else state[:, None]
        if last:
            before[:, 0] = state
        for k in range(last):
            torch.addcmul(added[:, k], before[:, k], keeps[:, k], out=before[:, k + 1])
    return before, torch.addcmul(added[:, last], before[:, last], keeps[:, last])


def _carry_by_product(added: Tensor, decay: Tensor, state: Tensor) -> tuple[Tensor, Tensor]:
    """The same by one product with a (chunk x chunk) matrix of decays."""
    count = added.shape[1]
    sums = F.pad(decay.cumsum(1), (0, 0, 1, 0)).transpose(1, 2)
    future = torch.ones(count + 1, count + 1, dtype=torch.bool, device=sums.device).triu(1)
    spans = (sums[..., :, None] - sums[..., None, :]).masked_fill(future, -math.inf)
    reach = spans.to(added.dtype).exp()
    sources = torch.cat([state[:, None], added], dim=1)
    states = torch.einsum("shkj,sjhpn->skhpn", reach, sources)
    return states[:, :-1], states[:, -1]
