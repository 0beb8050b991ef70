"""Which vision tokens stay at a transfer site: chosen evenly, or ranked by the question."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from fractions import Fraction
from itertools import chain

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from torch import Tensor

from timeviper.core.errors import ConfigError, LayoutError
from timeviper.core.layout import SpanKind
from timeviper.model.attention import AttentionMixer
from timeviper.model.block import Block
from timeviper.model.config import TransferSite
from timeviper.model.pile import AT_ONCE, Pile
from timeviper.model.state import AttentionMemory
from timeviper.model.tokens import Tokens, on_device
from timeviper.ops.attention_row import attention_row


def stream_keep(tokens: Tokens, seen: tuple[int, ...], keep: Fraction) -> NDArray[np.bool_]:
    """Keep vision token i of a sequence when floor((i+1)*keep) > floor(i*keep).

    Args:
        tokens: what reached the site.
        seen: vision tokens of each sequence that came in earlier calls.
        keep: fraction that stays.

    Returns:
        Mask of shape (token,), true for every token that is not vision.

    Law: independent of how the video is cut into calls.
    """
    places = tokens.of_kind(SpanKind.VISION)
    counts = np.asarray(tokens.counts(places), dtype=np.int64)
    first = np.cumsum(counts) - counts
    i = np.arange(len(places)) - np.repeat(first - np.asarray(seen), counts)
    up, down = keep.numerator, keep.denominator
    mask = np.ones(len(tokens.kinds), dtype=bool)
    mask[places] = ((i + 1) * up) // down > (i * up) // down
    return mask


def whole_keep(tokens: Tokens, site: TransferSite) -> NDArray[np.bool_]:
    """Keep vision tokens spread evenly over each sequence's whole video.

    Returns:
        Mask of shape (token,), true for every token that is not vision.
    """
    places = tokens.of_kind(SpanKind.VISION)
    mask = np.ones(len(tokens.kinds), dtype=bool)
    mask[places] = False
    first = 0
    for present in tokens.counts(places):
        kept = site.kept(present)
        if kept:
            # The middle of each of `kept` equal parts: even, and free of a bias to either end.
            inside = ((2 * np.arange(kept) + 1) * present) // (2 * kept)
            mask[places[first + inside]] = True
        first += present
    return mask


def attention_keep(
    tokens: Tokens | Pile, site: TransferSite, block: Block, memory: AttentionMemory | None
) -> NDArray[np.bool_]:
    """Keep the vision tokens that the last instruction token attends to most.

    The score is its softmax row over all keys of the layer as that layer computes it, mean over
    heads. A sequence without vision keeps everything.

    Returns:
        Mask of shape (token,), true for every token that is not vision.
    """
    pile = tokens if isinstance(tokens, Pile) else Pile.of([tokens])
    outline = pile.outline
    places = outline.of_kind(SpanKind.VISION)
    mask = np.ones(len(outline.kinds), dtype=bool)
    mask[places] = False
    best: list[tuple[NDArray[np.int64], Tensor]] = []
    counts = outline.counts(places)
    for row, own in enumerate(np.split(places, np.cumsum(counts)[:-1])):
        # Only sequences with a video are ranked; others may be empty or hold no instruction.
        if len(own):
            scores = question_scores(pile, row, block, memory)
            scores = scores[on_device(own - outline.starts[row], scores)]
            # A stable sort, so that equal scores keep the earlier token on every device.
            order = scores.argsort(descending=True, stable=True)
            best.append((own, order[: site.kept(len(own))]))
    # Asked for after all sequences are on their way, so that the device is waited for once.
    for own, order in best:
        mask[own[order.cpu().numpy()]] = True
    return mask


@torch.no_grad()
def question_scores(
    pile: Pile, row: int, block: Block, memory: AttentionMemory | None
) -> Float[Tensor, " key"]:
    """Attention of a sequence's first instruction's last token to that call's tokens.

    Keys are made and let go a part at a time: nothing as long as the video is kept but scores.

    Args:
        pile: what reached the layer.
        row: the sequence; it has an instruction.
        block: the layer, an attention layer.
        memory: the layer's keys of earlier calls, which share the softmax; left as it is.

    Returns:
        Softmax weights over all keys the token sees, mean over heads, of the tokens of this call
        up to itself.

    Raises:
        ConfigError: the layer is not an attention layer.
        LayoutError: the sequence has no instruction.
    """
    mixer = block.mixer
    if not isinstance(mixer, AttentionMixer):
        raise ConfigError(want="an attention layer", got="another mixer", do="move the site")
    seen = _asking(pile.outline, row) + 1
    before = 0 if memory is None else memory.lengths[row]
    places = None
    if mixer.rope_theta is not None:
        places = torch.arange(before, before + seen, device=pile.outline.hidden.device)
    *_, last = pile.sequence(row, seen)
    q = mixer.queries(block.normed(last[-1:]), None if places is None else places[-1:])[0]
    now = _keys(block, mixer, pile.sequence(row, seen), places)
    weights = attention_row(q, now if memory is None else chain(_past(memory, row, q), now))
    return weights[:, before:].mean(0)


def _past(
    memory: AttentionMemory, row: int, like: Tensor
) -> Iterator[Float[Tensor, "token kv_head head_dim"]]:
    """A sequence's keys of earlier calls, a part at a time, wherever they lie."""
    front = memory.shared[row]
    if front is not None:
        for part in front.k[: front.length].split(AT_ONCE):
            yield part.to(like.device)
    for part in memory.k[row, : memory.own[row]].split(AT_ONCE):
        yield part.to(like.device)


def _keys(
    block: Block, mixer: AttentionMixer, parts: Iterable[Tensor], places: Tensor | None
) -> Iterator[Float[Tensor, "token kv_head head_dim"]]:
    """Keys of tokens, a part at a time."""
    done = 0
    for part in parts:
        here = None if places is None else places[done : done + len(part)]
        yield mixer.keys(block.normed(part), here)
        done += len(part)


def _asking(outline: Tokens, row: int) -> int:
    """Place within a sequence of its first instruction's last token."""
    start = outline.starts[row]
    kinds = outline.kinds[start : start + outline.lengths[row]]
    instruction = np.flatnonzero(kinds == SpanKind.INSTRUCTION.code)
    if len(instruction) == 0:
        raise LayoutError(
            want="an instruction after the video",
            got=f"sequence {row} has a video and none",
            do="ask a question, or keep encoding with `more=True`",
        )
    gaps = np.flatnonzero(np.diff(instruction) > 1)
    return int(instruction[gaps[0]] if len(gaps) else instruction[-1])
