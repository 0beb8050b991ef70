"""One layer over a long sequence: in parts that bound memory, side by side where cores are free."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from torch import Tensor

from timeviper.model.attention import AttentionMixer
from timeviper.model.block import Block, Stream
from timeviper.model.linear import product_of
from timeviper.model.mamba2 import Mamba2Mixer
from timeviper.model.mlp import MlpMixer
from timeviper.model.state import AttentionMemory, MambaMemory, Memory
from timeviper.model.tokens import Tokens, on_device
from timeviper.ops import hollow

# Tokens of a sequence that a layer takes at once: a question lets go all that waited for it, and
# what a layer holds in between must not grow with the video. A CPU's caches hold a small part.
_AT_ONCE = {"cpu": 1024}
_MOST_AT_ONCE = 8192
# A rest of up to one in so many tokens of a part joins the last one: a question behind what was
# kept would otherwise read all weights again for a few tokens.
_REST = 16


@runtime_checkable
class Spread(Protocol):
    """Runs pieces of work that need nothing of each other."""

    def __call__(self, work: Callable[[int], Tensor], count: int) -> list[Tensor]:
        """Results of `work(0)` to `work(count - 1)`, in that order, run in any."""
        ...


def in_turn(work: Callable[[int], Tensor], count: int) -> list[Tensor]:
    """One after another, in the caller's thread."""
    return [work(number) for number in range(count)]


def part_size(device: torch.device) -> int:
    """Tokens of one sequence that a layer takes at once on a device."""
    return _AT_ONCE.get(hollow.stands_for(device), _MOST_AT_ONCE)


def through(
    block: Block,
    tokens: Tokens,
    memory: Memory,
    *,
    waiting: Tensor | None = None,
    spread: Spread = in_turn,
) -> tuple[Tokens, Tensor | None, Memory]:
    """One layer; a long sequence goes through in parts where no gradient is kept.

    Args:
        block: the layer.
        tokens: of one or several sequences.
        memory: what the layer remembers.
        waiting: what is still to be added to the tokens' hidden states.
        spread: runs the parts that need nothing of each other.

    Returns:
        The tokens, what is still to be added to them, and the memory after them.

    Law: none of it depends on `spread` or on the size of a part.
    """
    if _whole(tokens):
        stream, memory = block(Stream(tokens.hidden, waiting), memory, lengths=tokens.lengths)
        return tokens.with_hidden(stream.hidden), stream.addition, memory
    parts = _split(tokens.plus(waiting).hidden)
    match block.mixer, memory:
        case MlpMixer(), _:
            done = spread(lambda n: _alone(block, parts[n], None)[0], len(parts))
        case AttentionMixer() as mixer, (AttentionMemory() | None) as before:
            done, memory = _attended(block, mixer, parts, before, spread)
        case _:
            done: list[Tensor] = []
            for part in parts:
                hidden, memory = _alone(block, part, memory)
                done.append(hidden)
    return tokens.with_hidden(torch.cat(done)), None, memory


def to_last(block: Block, tokens: Tokens, memory: Memory) -> tuple[Tokens, Memory]:
    """The last layer that remembers, when only what each sequence ends with is wanted.

    Args:
        block: the layer.
        tokens: of one or several sequences.
        memory: what the layer remembers.

    Returns:
        The last token of each sequence that has one, and the memory after all of them.

    Law: both are those of `through`.
    """
    if _whole(tokens):
        hidden, memory = _last(block, tokens.hidden, memory, tokens.lengths)
        return last_ones(tokens).with_hidden(hidden), memory
    hidden = tokens.hidden
    for part in _split(tokens.hidden):
        hidden, memory = _last(block, part, memory, (len(part),))
    return last_ones(tokens).with_hidden(hidden), memory


def last_ones(tokens: Tokens) -> Tokens:
    """The last token of each sequence that has one."""
    ends = np.cumsum(tokens.lengths, dtype=np.int64) - 1
    return tokens.take(ends[np.asarray(tokens.lengths) > 0])


def _alone(block: Block, part: Tensor, memory: Memory) -> tuple[Tensor, Memory]:
    """A part through a layer, with all that is to be added."""
    stream, memory = block(Stream(part), memory, lengths=(len(part),))
    return stream.sum(), memory


def _split(hidden: Tensor) -> tuple[Tensor, ...]:
    """Hidden states of one sequence in parts; all of one size but the last."""
    size = part_size(hidden.device)
    whole, rest = divmod(len(hidden), size)
    sizes = [size] * whole
    if whole and rest <= size // _REST:
        sizes[-1] += rest
    elif rest:
        sizes.append(rest)
    return hidden.split(sizes)


def _whole(tokens: Tokens) -> bool:
    size = part_size(tokens.hidden.device)
    few = len(tokens.kinds) <= size + size // _REST
    return few or torch.is_grad_enabled() or len(tokens.lengths) > 1


def _last(
    block: Block, hidden: Tensor, memory: Memory, lengths: Sequence[int]
) -> tuple[Tensor, Memory]:
    """As the block, where only the last token of each sequence goes on."""
    ends = np.cumsum(lengths, dtype=np.int64) - 1
    index = on_device(ends[np.asarray(lengths) > 0], hidden)
    last, normed = hidden.index_select(0, index), block.normed(hidden)
    match block.mixer, memory:
        case Mamba2Mixer() as mixer, (MambaMemory() | None) as before:
            y, z, after = mixer.scan(normed, before, lengths=lengths)
            chosen = y.index_select(0, index), z.index_select(0, index)
            mixed = mixer.finish(*chosen, product=product_of([1] * len(index)))
        case AttentionMixer() as mixer, (AttentionMemory() | None) as before:
            places = mixer.places(before, lengths, hidden)
            after = mixer.remember(normed, places, before, lengths=lengths)
            at = None if places is None else places.index_select(0, index)
            ones = [min(1, length) for length in lengths]
            rows = normed.index_select(0, index)
            mixed = mixer.attend(rows, at, after, lengths=ones, own=after.own)
        case _:
            raise TypeError("only a layer that remembers looks back")
    return last + mixed, after


def _attended(
    block: Block,
    mixer: AttentionMixer,
    parts: tuple[Tensor, ...],
    before: AttentionMemory | None,
    spread: Spread,
) -> tuple[list[Tensor], AttentionMemory]:
    """All keys first; then no part waits for another."""
    sizes = [len(part) for part in parts]
    ends = np.cumsum([sum(before.own) if before else 0, *sizes]).tolist()[1:]
    places = mixer.places(before, (sum(sizes),), parts[0])
    where = [None] * len(parts) if places is None else places.split(sizes)
    after = mixer.remember(block.normed(parts[0]), where[0], before, lengths=sizes[:1])
    for part, place in zip(parts[1:], where[1:], strict=True):
        after = mixer.remember(block.normed(part), place, after, lengths=(len(part),))

    def attend(number: int) -> Tensor:
        part = parts[number]
        lengths, own = (sizes[number],), (ends[number],)
        normed = block.normed(part)
        return part + mixer.attend(normed, where[number], after, lengths=lengths, own=own)

    return spread(attend, len(parts)), after
