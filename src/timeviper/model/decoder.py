"""The decoder: hybrid and dense stacks with transfer sites, one call for every length."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor, nn

from timeviper.core.errors import ConfigError
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.attention import AttentionMixer
from timeviper.model.block import Block, StepStream
from timeviper.model.config import DecoderConfig, TransferPlan
from timeviper.model.linear import FEW_TOKENS, project
from timeviper.model.mamba2 import Mamba2Mixer, ScaleNorm
from timeviper.model.parts import Spread, in_turn, last_ones, through, to_last
from timeviper.model.pattern import LayerKind
from timeviper.model.slots import KeySlots, Slots, StepSlots
from timeviper.model.state import AttentionMemory, DecoderState, check_sequences
from timeviper.model.tokens import Tokens, join, on_device
from timeviper.model.transv import SiteRunner, Transfer
from timeviper.ops.attention import warm_attention
from timeviper.ops.attention_parts import Shared
from timeviper.ops.few_rows import few_rows, some_rows
from timeviper.ops.fronts import Fronts
from timeviper.ops.norm import rms_norm


@dataclass(frozen=True)
class _Wish:
    """What is wanted of a pass, and who runs its parts."""

    only_last: bool
    spread: Spread


class Decoder(nn.Module):
    """Embedding, layers, final norm and head, described by a `DecoderConfig`.

    Laws: any cutting of the sequence gives the same output and final state; packed sequences
    equal each alone.
    """

    def __init__(self, config: DecoderConfig) -> None:
        super().__init__()
        self.config = config
        self.embed_tokens = nn.Embedding(config.vocab_size, config.hidden_size)
        self.layers = nn.ModuleList(Block(config, kind) for kind in config.layers)
        self.norm = ScaleNorm(config.hidden_size)
        self.lm_head = (
            None
            if config.tie_word_embeddings
            else nn.Linear(config.hidden_size, config.vocab_size, bias=False)
        )
        self.transfers = nn.ModuleDict(
            {str(site.layer): Transfer(config) for site in config.transfer.sites if site.transfer}
        )

    def forward(
        self,
        x: Float[Tensor, "token hidden"],
        state: DecoderState | None = None,
        *,
        layout: TokenLayout,
        more: bool = False,
    ) -> tuple[Float[Tensor, "out hidden"], DecoderState]:
        """Hidden states after the final norm, of every token that went through.

        Args:
            x: embedded tokens of all sequences, packed.
            state: what came before, or None at the start of time.
            layout: kinds and lengths of the tokens.
            more: further tokens of the same prompt follow in a later call, so a site that
                ranks by the question keeps waiting for its end.

        Returns:
            Hidden states (dropped and waiting tokens are missing) and the state after them.

        Raises:
            LayoutError: tokens and layout differ, or a video is answered without an instruction.
        """
        tokens, state = self.run(Tokens.of(x, layout), state, more=more)
        return tokens.hidden, state

    def run(
        self,
        tokens: Tokens,
        state: DecoderState | None = None,
        *,
        more: bool = False,
        only_last: bool = False,
        spread: Spread = in_turn,
    ) -> tuple[Tokens, DecoderState]:
        """As `forward`, with what each token is going in and coming out.

        Args:
            tokens: of all sequences.
            state: what came before, or None at the start of time.
            more: further tokens of the same prompt follow in a later call.
            only_last: give the last token of each sequence only; the layers behind the last one
                that remembers then see no other.
            spread: runs parts of a long sequence that need nothing of each other.

        Law: the last tokens and the state depend neither on `only_last` nor on `spread`.
        """
        state = state or self.start()
        check_sequences(state, len(tokens.lengths))
        wish = _Wish(only_last, spread)
        out, state = self._rounds(tokens, state, (more,) * len(tokens.lengths), wish)
        out = last_ones(out) if only_last else out
        hidden = rms_norm(out.hidden, self.norm.weight, self.config.norm_eps)
        return out.with_hidden(hidden), state

    def step(
        self, token_ids: Int[Tensor, " sequence"], slots: StepSlots
    ) -> Float[Tensor, "sequence vocab"]:
        """Scores after one more token of each answer; nothing is dropped and nothing waits.

        Args:
            token_ids: the newest token of each sequence.
            slots: memories of `slots_for`, changed in place.

        Law: equals `run` with one answer token a sequence.
        """
        slots.advance()
        stream = StepStream(self.embed(token_ids))
        for layer, own in zip(self.layers, slots.layers, strict=True):
            stream = _block(layer).step(stream, own)
        _, normed = stream.normed(self.norm.weight, self.config.norm_eps)
        if self.lm_head is None:
            return few_rows(normed, self.embed_tokens.weight)
        return project(self.lm_head, normed)

    @torch.no_grad()
    def slots_for(
        self, sequences: int, *, capacity: Sequence[int], shared: Sequence[Shared] | None = None
    ) -> StepSlots:
        """Buffers for steps of so many sequences, still to be loaded.

        Args:
            sequences: number of answers.
            capacity: for each layer the own keys that a sequence may come to hold.
            shared: for each layer what each sequence has in front; None for nothing anywhere.
        """
        like = self.embed_tokens.weight
        kinds, width = self.config.layers, self.config.num_kv_heads
        lengths = like.new_zeros(kinds.count(LayerKind.ATTENTION), sequences, dtype=torch.int64)
        place, row = like.new_zeros(sequences, dtype=torch.int64), iter(lengths)
        layers: list[Slots] = []
        fronts = shared or [(None,) * sequences] * len(self.layers)
        ratio = self.config.num_heads // width
        for layer, room, front in zip(self.layers, capacity, fronts, strict=True):
            match _block(layer).mixer:
                case Mamba2Mixer() as mixer:
                    layers.append(mixer.slots(place))
                case AttentionMixer():
                    shape = (sequences, room, width, self.config.head_dim)
                    k, v = like.new_empty(shape), like.new_empty(shape)
                    tables = Fronts.of_step(front, ratio=ratio, device=like.device)
                    layers.append(KeySlots(k, v, next(row), tables, torch.zeros_like(place)))
                case _:
                    layers.append(None)
        return StepSlots(tuple(layers), lengths, place)

    def start(self) -> DecoderState:
        """The state at the start of time."""
        sites = self.config.transfer.sites
        return DecoderState((None,) * len(self.layers), (None,) * len(sites))

    @torch.no_grad()
    def warm(self) -> None:
        """Let attention plan its kernels where that takes seconds, before anyone waits for it."""
        config, like = self.config, self.embed_tokens.weight
        warm_attention(
            heads=config.num_heads,
            kv_heads=config.num_kv_heads,
            head_dim=config.head_dim,
            dtype=like.dtype,
            device=like.device,
        )

    def embed(self, token_ids: Int[Tensor, " token"]) -> Float[Tensor, "token hidden"]:
        """Token embeddings."""
        return self.embed_tokens(token_ids)

    def logits(self, hidden: Float[Tensor, "row hidden"]) -> Float[Tensor, "row vocab"]:
        """Next-token scores of chosen hidden states; choose before calling, this is large."""
        if len(hidden) <= FEW_TOKENS and not torch.is_grad_enabled():
            head = self.embed_tokens if self.lm_head is None else self.lm_head
            return some_rows(hidden, head.weight)
        if self.lm_head is None:
            return F.linear(hidden, self.embed_tokens.weight)
        return self.lm_head(hidden)

    def runner(self, site_number: int) -> SiteRunner:
        """The transfer site with that place in the plan."""
        site = self.config.transfer.sites[site_number]
        transfer = self.transfers[str(site.layer)] if site.transfer else None
        return SiteRunner(site, _block(self.layers[site.layer]), _transfer(transfer))

    def _rounds(
        self, tokens: Tokens, state: DecoderState, more: tuple[bool, ...], wish: _Wish
    ) -> tuple[Tokens, DecoderState]:
        """One pass for each video that follows an answered one, so that each is ranked alone."""
        cuts = _next_video(tokens, _questioned(state, len(tokens.lengths)))
        if cuts is None:
            return self._layers(tokens, state, more, wish)
        head, tail = _split(tokens, np.maximum(cuts, 0))
        # Sequences without another video lie whole in the tail; their question stays open.
        first, state = self._rounds(head, state, tuple((cuts < 0).tolist()), wish)
        second, state = self._rounds(tail, state, more, wish)
        return join([first, second]), state

    def _layers(
        self, tokens: Tokens, state: DecoderState, more: tuple[bool, ...], wish: _Wish
    ) -> tuple[Tokens, DecoderState]:
        memories, pending = list(state.memories), list(state.pending)
        numbers = {site.layer: n for n, site in enumerate(self.config.transfer.sites)}
        last, waiting = _last_to_look_back(self.config), None
        for index, layer in enumerate(self.layers):
            if index in numbers:
                number, memory = numbers[index], memories[index]
                keys = memory if isinstance(memory, AttentionMemory) else None
                tokens, waiting = tokens.plus(waiting), None
                tokens, pending[number] = self.runner(number)(
                    tokens, pending[number], keys, more=more
                )
            if len(tokens.kinds) == 0:
                # A later site may still let go what it parked.
                continue
            block, memory = _block(layer), memories[index]
            if wish.only_last and index == last:
                tokens, waiting = tokens.plus(waiting), None
                tokens, memories[index] = to_last(block, tokens, memory)
            else:
                tokens, waiting, memories[index] = through(
                    block, tokens, memory, waiting=waiting, spread=wish.spread
                )
        return tokens.plus(waiting), DecoderState(tuple(memories), tuple(pending))


def with_plan(decoder: Decoder, plan: TransferPlan) -> Decoder:
    """The same weights under other transfer sites; nothing is copied.

    Raises:
        ConfigError: a site that transfers where this decoder has no transfer module.
    """
    missing = [s.layer for s in plan.sites if s.transfer and str(s.layer) not in decoder.transfers]
    if missing:
        raise ConfigError(
            want=f"sites that transfer at layers {', '.join(decoder.transfers) or 'none'}",
            got=f"layers {missing}",
            do="use plain dropping there",
        )
    other = copy.copy(decoder)
    other.config = replace(decoder.config, transfer=plan)
    return other


def last_of_each(tokens: Tokens) -> Float[Tensor, "sequence hidden"]:
    """Hidden state of each sequence's last token; sequences without tokens are left out."""
    ends = np.cumsum(tokens.lengths, dtype=np.int64) - 1
    filled = ends[np.asarray(tokens.lengths) > 0]
    return tokens.hidden.index_select(0, on_device(filled, tokens.hidden))


def _last_to_look_back(config: DecoderConfig) -> int | None:
    """The last layer at which a token needs others, if no site lies behind it."""
    remembers = [n for n, kind in enumerate(config.layers) if kind != LayerKind.MLP]
    sites = [site.layer for site in config.transfer.sites]
    return remembers[-1] if remembers and max(sites, default=0) <= remembers[-1] else None


def _block(module: nn.Module | None) -> Block:
    if not isinstance(module, Block):
        raise TypeError("decoder layers are Blocks")
    return module


def _transfer(module: nn.Module | None) -> Transfer | None:
    return module if isinstance(module, Transfer) else None


def _questioned(state: DecoderState, sequences: int) -> NDArray[np.bool_]:
    """Whether an instruction of each sequence is parked, waiting for its end."""
    found = np.zeros(sequences, dtype=bool)
    for pending in state.pending:
        # An instruction lies in the newest part; several sequences that are asked are one part.
        for part in pending.parked[-1:] if pending else ():
            found |= np.asarray(part.counts(part.of_kind(SpanKind.INSTRUCTION))) > 0
    return found


def _next_video(tokens: Tokens, questioned: NDArray[np.bool_]) -> NDArray[np.int64] | None:
    """Where each sequence starts another video after an instruction.

    Args:
        tokens: of this call.
        questioned: sequences whose instruction is parked.

    Returns:
        Place within each sequence, -1 for one without another video; None when no one has.
    """
    kinds = tokens.kinds
    if not (kinds == SpanKind.VISION.code).any():
        return None
    if not (questioned.any() or (kinds == SpanKind.INSTRUCTION.code).any()):
        return None
    cuts = np.full(len(tokens.lengths), -1, dtype=np.int64)
    for number, (start, length) in enumerate(zip(tokens.starts, tokens.lengths, strict=True)):
        own = kinds[start : start + length]
        asked = np.flatnonzero(own == SpanKind.INSTRUCTION.code)
        shown = np.flatnonzero(own == SpanKind.VISION.code)
        if not questioned[number]:
            shown = shown[shown > asked[0]] if len(asked) else shown[:0]
        if len(shown):
            cuts[number] = shown[0]
    return cuts if (cuts >= 0).any() else None


def _split(tokens: Tokens, cuts: NDArray[np.int64]) -> tuple[Tokens, Tokens]:
    within = np.arange(len(tokens.kinds)) - np.repeat(tokens.starts, tokens.lengths)
    head = within < np.repeat(cuts, tokens.lengths)
    return tokens.take(np.flatnonzero(head)), tokens.take(np.flatnonzero(~head))
