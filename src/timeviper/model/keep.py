"""Which vision tokens stay at a transfer site: chosen evenly, or ranked by the question."""

from __future__ import annotations

from fractions import Fraction

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
from timeviper.model.pile import Pile
from timeviper.model.state import AttentionMemory, extend
from timeviper.model.tokens import Tokens, on_device
from timeviper.ops.attention import attention_weights

# Tokens whose keys are made at once for ranking.
_AT_ONCE = 4096


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
    tokens = pile.outline
    places = tokens.of_kind(SpanKind.VISION)
    mask = np.ones(len(tokens.kinds), dtype=bool)
    if len(places) == 0:
        return mask
    present = np.asarray(tokens.counts(places), dtype=np.int64)
    # Only sequences with a video are ranked; others may be empty or hold no instruction.
    ranked = np.flatnonzero(present)
    counts, starts = present[ranked], tokens.starts[ranked]
    keys = None if memory is None else memory.select(ranked.tolist())
    scores = last_instruction_scores(pile.only(ranked), block, keys)
    kept = np.array([site.kept(n) for n in counts.tolist()], dtype=np.int64)
    row = np.repeat(np.arange(len(counts)), counts)
    slot = np.arange(len(places)) - np.repeat(np.cumsum(counts) - counts, counts)
    inside = places - starts[row]
    grid = scores.new_full((len(counts), int(counts.max())), float("-inf"))
    on = [on_device(a, scores) for a in (row, slot, inside)]
    grid[on[0], on[1]] = scores[on[0], on[2]]
    # A stable sort, so that equal scores keep the earlier token on every device.
    rank = grid.argsort(dim=1, descending=True, stable=True).argsort(dim=1).cpu().numpy()
    mask[places] = rank[row, slot] < kept[row]
    return mask


@torch.no_grad()
def last_instruction_scores(
    tokens: Tokens | Pile, block: Block, memory: AttentionMemory | None
) -> Float[Tensor, "sequence key"]:
    """Attention of each sequence's first instruction's last token to that call's tokens.

    Args:
        tokens: what reached the layer; an instruction in every sequence.
        block: the layer, an attention layer.
        memory: the layer's keys of earlier calls, which share the softmax; left as it is.

    Returns:
        Softmax weights over all keys the token sees, mean over heads, of the tokens of this call;
        places past a sequence's length hold nothing of meaning.

    Raises:
        ConfigError: the layer is not an attention layer.
        LayoutError: a sequence has no instruction.
    """
    mixer = block.mixer
    if not isinstance(mixer, AttentionMixer):
        raise ConfigError(want="an attention layer", got="another mixer", do="move the site")
    pile = tokens if isinstance(tokens, Pile) else Pile.of([tokens])
    tokens, like = pile.outline, pile.parts[0].hidden
    asking = _asking(tokens)
    positions = mixer.places(memory, tokens.lengths, like)
    k = _keys(block, mixer, pile, positions)
    before = (0,) * len(tokens.lengths) if memory is None else memory.lengths
    # A copy, so that ranking leaves the layer's own cache untouched.
    rows = None if memory is None else memory.select(range(len(before))).whole()
    keys = extend(rows, k, k, lengths=tokens.lengths)
    places = tokens.starts + asking
    at = None if positions is None else positions[on_device(places, like)]
    q = mixer.queries(block.normed(pile.take(places).hidden), at).unsqueeze(1)
    place = torch.tensor([[b + a] for b, a in zip(before, asking, strict=True)], device=q.device)
    weights = attention_weights(q, keys.k, positions=place, k_lengths=keys.lengths)
    scores = weights[:, 0].mean(1)
    longest = max(tokens.lengths)
    reach = torch.arange(longest, device=q.device) + torch.tensor(before, device=q.device)[:, None]
    return scores.gather(1, reach.clamp(max=scores.shape[1] - 1))


def _keys(
    block: Block, mixer: AttentionMixer, pile: Pile, positions: Tensor | None
) -> Float[Tensor, "token kv_head head_dim"]:
    """Keys of all tokens, a part at a time: everything that waited comes at once."""
    parts = [some for part in pile.parts for some in part.hidden.split(_AT_ONCE)]
    sizes = [len(part) for part in parts]
    places = [None] * len(parts) if positions is None else positions.split(sizes)
    keys = [
        mixer.keys_values(block.normed(part), place)[0]
        for part, place in zip(parts, places, strict=True)
    ]
    return torch.cat(keys)


def _asking(tokens: Tokens) -> NDArray[np.int64]:
    """Place within each sequence of its first instruction's last token."""
    asking = np.zeros(len(tokens.lengths), dtype=np.int64)
    for number, (start, length) in enumerate(zip(tokens.starts, tokens.lengths, strict=True)):
        kinds = tokens.kinds[start : start + length]
        instruction = np.flatnonzero(kinds == SpanKind.INSTRUCTION.code)
        if len(instruction) == 0:
            raise LayoutError(
                want="an instruction after the video",
                got=f"sequence {number} of those with a video has none",
                do="ask a question, or keep encoding with `more=True`",
            )
        gaps = np.flatnonzero(np.diff(instruction) > 1)
        asking[number] = instruction[gaps[0]] if len(gaps) else instruction[-1]
    return asking
