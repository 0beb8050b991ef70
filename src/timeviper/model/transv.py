"""TransV: drop vision tokens before a layer and carry what they held into the instruction."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor, nn

from timeviper.core.errors import LayoutError
from timeviper.core.layout import SpanKind
from timeviper.model.block import Block
from timeviper.model.config import DecoderConfig, DropPolicy, TransferSite
from timeviper.model.keep import attention_keep, stream_keep, whole_keep
from timeviper.model.linear import product_of
from timeviper.model.pile import AT_ONCE, Pile, in_one, put_by
from timeviper.model.state import AttentionMemory, PendingTransfer, extend
from timeviper.model.tokens import Tokens, on_device
from timeviper.ops.attention import attention


class Transfer(nn.Module):
    """Gated cross-attention from instruction tokens to dropped tokens (paper eq. 6).

    `x + tanh(alpha) * CrossAttention(x, dropped)`, alpha starting at 0; no norm, no positions.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.head_dim = config.head_dim
        hidden, width = config.hidden_size, config.num_heads * config.head_dim
        kv_width = config.num_kv_heads * config.head_dim
        self.q_proj = nn.Linear(hidden, width, bias=config.qkv_bias)
        self.k_proj = nn.Linear(hidden, kv_width, bias=config.qkv_bias)
        self.v_proj = nn.Linear(hidden, kv_width, bias=config.qkv_bias)
        self.o_proj = nn.Linear(width, hidden, bias=False)
        self.alpha = nn.Parameter(torch.empty(()))

    def remember(
        self, pile: Pile, places: NDArray[np.int64], memory: AttentionMemory | None
    ) -> AttentionMemory:
        """Append the cross-attention keys and values of dropped tokens.

        Args:
            pile: what reached the site.
            places: of the dropped tokens, ascending, at least one.
            memory: what was dropped before.
        """
        blocks = pile.blocks(places)
        pieces = ((self.k_proj(dropped), self.v_proj(dropped)) for dropped in blocks)
        k, v = (x.unflatten(-1, (-1, self.head_dim)) for x in in_one(pieces, len(places)))
        return extend(memory, k, v, lengths=pile.outline.counts(places))

    def forward(
        self,
        hidden: Float[Tensor, "token hidden"],
        memory: AttentionMemory,
        *,
        lengths: Sequence[int],
    ) -> Float[Tensor, "token hidden"]:
        """Instruction tokens with what was dropped before them.

        Args:
            hidden: packed instruction tokens of the sequences that dropped something.
            memory: their dropped tokens' keys and values, none of them empty.
            lengths: instruction tokens of each sequence.

        Returns:
            Updated tokens of the same shape.
        """
        product = product_of(lengths)
        q = product(self.q_proj, hidden).unflatten(-1, (-1, self.head_dim))
        y = attention(
            q,
            memory.k,
            memory.v,
            q_lengths=lengths,
            k_lengths=memory.own,
            causal=False,
            shared=memory.shared,
        )
        return hidden + torch.tanh(self.alpha) * product(self.o_proj, y.flatten(1))


class SiteRunner:
    """Applies one transfer site; holds no weights of its own.

    Args:
        site: where, how and how much.
        block: the layer that follows, which ranks tokens for the attention policy.
        transfer: the cross-attention, or None for plain dropping.
    """

    def __init__(self, site: TransferSite, block: Block, transfer: Transfer | None) -> None:
        self.site = site
        self.block = block
        self.transfer = transfer

    def __call__(
        self,
        tokens: Tokens,
        pending: PendingTransfer | None,
        layer_memory: AttentionMemory | None,
        *,
        more: Sequence[bool],
    ) -> tuple[Tokens, PendingTransfer]:
        """Shorten the tokens and update the instruction.

        Args:
            tokens: what reached the site in this call.
            pending: what the site held before.
            layer_memory: keys of the following attention layer, for ranking.
            more: for each sequence, whether further tokens of its prompt follow in a later call.

        Returns:
            The tokens that go on, and what the site holds now.
        """
        pending = pending or PendingTransfer(seen=(0,) * len(tokens.lengths))
        if self.site.policy == DropPolicy.UNIFORM_STREAM:
            keep = stream_keep(tokens, pending.seen, self.site.keep)
            return self._shorten(Pile.of([tokens]), keep, pending)
        pile, pending = _wait(tokens, pending, more=more)
        return self._shorten(pile, self._choose(pile, layer_memory), pending)

    def _choose(self, pile: Pile, memory: AttentionMemory | None) -> NDArray[np.bool_]:
        if self.site.policy == DropPolicy.UNIFORM_WHOLE:
            return whole_keep(pile.outline, self.site)
        return attention_keep(pile, self.site, self.block, memory)

    def _shorten(
        self, pile: Pile, keep: NDArray[np.bool_], pending: PendingTransfer
    ) -> tuple[Tokens, PendingTransfer]:
        vision = pile.outline.of_kind(SpanKind.VISION)
        seen = tuple(np.add(pending.seen, pile.outline.counts(vision)).tolist())
        pending = replace(pending, seen=seen)
        if not keep.all() and self.transfer is not None:
            memory = self.transfer.remember(pile, np.flatnonzero(~keep), pending.dropped)
            pending = replace(pending, dropped=memory)
        kept = pile.take(np.flatnonzero(keep))
        if self.transfer is not None and pending.dropped is not None:
            kept = _receive(kept, pending.dropped, self.transfer)
        return kept, pending


def _receive(tokens: Tokens, memory: AttentionMemory, transfer: Transfer) -> Tokens:
    places = tokens.of_kind(SpanKind.INSTRUCTION)
    counts = tokens.counts(places)
    rows = [r for r, n in enumerate(counts) if n and memory.lengths[r]]
    if not rows:
        return tokens
    if len(rows) < len(counts):
        memory = memory.select(rows)
        sequence = np.repeat(np.arange(len(counts)), counts)
        places = places[np.isin(sequence, rows)]
    index = on_device(places, tokens.hidden)
    told = transfer(tokens.hidden.index_select(0, index), memory, lengths=[counts[r] for r in rows])
    return tokens.with_hidden(tokens.hidden.index_copy(0, index, told.to(tokens.hidden.dtype)))


def _wait(
    tokens: Tokens, pending: PendingTransfer, *, more: Sequence[bool]
) -> tuple[Pile, PendingTransfer]:
    """Let go what need not wait: text before a video, and sequences whose question is complete."""
    if _only_waits(tokens, pending):
        return _put_by(tokens, pending)
    pile = Pile.of([*pending.parked, tokens])
    whole = pile.outline
    go = np.ones(len(whole.kinds), dtype=bool)
    for row, (start, length) in enumerate(zip(whole.starts, whole.lengths, strict=True)):
        kinds = whole.kinds[start : start + length]
        vision = np.flatnonzero(kinds == SpanKind.VISION.code)
        if len(vision) and not _asked(kinds[vision[0] :], row, more=more[row]):
            go[start + vision[0] : start + length] = False
    if go.all():
        return pile, replace(pending, parked=())
    if len(whole.lengths) == 1 and not go.any():
        # A question whose end has not come yet: what waited stays where it is.
        return _put_by(tokens, pending)
    parked = pile.take(np.flatnonzero(~go))
    return Pile.of([pile.take(np.flatnonzero(go))]), replace(pending, parked=(parked,))


def _put_by(tokens: Tokens, pending: PendingTransfer) -> tuple[Pile, PendingTransfer]:
    """Nothing goes on; all tokens join the queue."""
    nothing = tokens.take(np.array([], dtype=np.int64))
    parked = put_by(pending.parked, tokens, most=AT_ONCE)
    return Pile.of([nothing]), replace(pending, parked=parked)


def _only_waits(tokens: Tokens, pending: PendingTransfer) -> bool:
    """Whether every token just joins a queue in which nobody has asked: no need to look closer."""
    if not pending.parked:
        return False
    # The ends speak for all: a question that is parked lies in the newest part, and where several
    # sequences wait, what asks or opens a queue makes one part of everything.
    first, newest = pending.parked[0], pending.parked[-1]
    if any(_asks_or_answers(part.kinds) for part in (first, newest, tokens)):
        return False
    return all(q or not n for q, n in zip(first.lengths, tokens.lengths, strict=True))


def _asks_or_answers(kinds: NDArray[np.int8]) -> bool:
    return bool(np.isin(kinds, (SpanKind.INSTRUCTION.code, SpanKind.ANSWER.code)).any())


def _asked(kinds: NDArray[np.int8], row: int, *, more: bool) -> bool:
    """Whether a whole instruction follows the video of sequence `row`."""
    instruction = np.flatnonzero(kinds == SpanKind.INSTRUCTION.code)
    if len(instruction) == 0:
        if (kinds == SpanKind.ANSWER.code).any():
            raise LayoutError(
                want="an instruction between the video and its answer",
                got=f"an answer of sequence {row} to no instruction",
                do="ask a question before answering",
            )
        return False
    return not more or bool((kinds[instruction[0] :] != SpanKind.INSTRUCTION.code).any())
