"""Write answers token by token, several at once, each as it would be written alone."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import TimeviperError
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.inference.prefill import OpenAnswer
from timeviper.inference.sampling import Chooser, TokenPolicy, choose
from timeviper.inference.watch import SILENT, Stage, Watch
from timeviper.model.decoder import last_of_each
from timeviper.model.state import AttentionMemory, DecoderState, MambaMemory, stack
from timeviper.model.tokens import Tokens
from timeviper.model.vlm import TimeViper
from timeviper.processing.tokenizer import Tokenizer


class Ending(StrEnum):
    """Why an answer ended."""

    # A token of the model that ends answers, or a text of the request.
    STOP = "stop"
    # The most tokens allowed.
    LENGTH = "length"


@dataclass(frozen=True, kw_only=True)
class EndRule:
    """When an answer ends.

    Args:
        stop_ids: tokens that end it; they are not part of its text.
        stop: texts that end it; they are not part of it either.
        max_new_tokens: most tokens.
    """

    stop_ids: tuple[int, ...]
    stop: tuple[str, ...] = ()
    max_new_tokens: int


@final
class AnswerWriter:
    """Collects the tokens of one answer and gives out its text as soon as it is certain.

    Args:
        tokenizer: of the model.
        rule: when the answer ends.
        policy: how its tokens are chosen.

    Law: the pieces given out, one after another, are `text`.
    """

    def __init__(self, tokenizer: Tokenizer, rule: EndRule, policy: TokenPolicy) -> None:
        self.chooser = Chooser(policy)
        self.token_ids: list[int] = []
        self.text = ""
        self.ending: Ending | None = None
        self._rule = rule
        self._stream = tokenizer.stream()
        # Text that might be the beginning of a stop text.
        self._held = ""

    @property
    def most(self) -> int:
        """Most tokens that this answer may have."""
        return self._rule.max_new_tokens

    def push(self, token_id: int) -> str:
        """Take the next token.

        Returns:
            Text that is now certain; often one word, sometimes nothing, never half a character.
        """
        self.token_ids.append(token_id)
        if token_id in self._rule.stop_ids:
            return self._finish(self._stream.flush(), Ending.STOP)
        piece = self._stream.feed(token_id)
        if len(self.token_ids) >= self._rule.max_new_tokens:
            return self._finish(piece + self._stream.flush(), Ending.LENGTH)
        return self._give(piece)

    def _finish(self, piece: str, ending: Ending) -> str:
        given = self._give(piece)
        if self.ending is None:
            self.ending = ending
            self.text += self._held
            given, self._held = given + self._held, ""
        return given

    def _give(self, piece: str) -> str:
        waiting = self._held + piece
        cuts = [at for at in (waiting.find(text) for text in self._rule.stop) if at >= 0]
        if cuts:
            self.ending = Ending.STOP
            given, self._held = waiting[: min(cuts)], ""
        else:
            held = _overlap(waiting, self._rule.stop)
            given, self._held = waiting[: len(waiting) - held], waiting[len(waiting) - held :]
        self.text += given
        return given


def decode(
    model: TimeViper,
    opened: Sequence[OpenAnswer],
    writers: Sequence[AnswerWriter],
    *,
    watch: Watch = SILENT,
) -> Iterator[tuple[int, str]]:
    """Write answers together.

    Args:
        model: that read the prompts.
        opened: prompts read to their end, one sequence each.
        writers: one a prompt; they hold the answers at the end.
        watch: told and asked once a token.

    Yields:
        Number of the answer and the text that it gained.

    Raises:
        CancelledError: `watch` asked to stop.
        TimeviperError: the model's scores are not finite.

    Law: each answer equals itself written alone.
    """
    alive = list(range(len(writers)))
    logits, state = _together(opened)
    total = max(writer.most for writer in writers)
    for step in range(total):
        watch.check("the answer")
        check_finite(logits, state)
        tokens = choose(logits, [writers[row].chooser for row in alive])
        for row, token in zip(alive, tokens, strict=True):
            piece = writers[row].push(token)
            if piece:
                yield row, piece
        watch.tell(Stage.ANSWER, step + 1, total)
        going = [place for place, row in enumerate(alive) if writers[row].ending is None]
        if not going:
            return
        if len(going) < len(alive):
            alive, state = [alive[place] for place in going], _select(state, going)
        logits, state = next_logits(model, [tokens[place] for place in going], state)


@torch.inference_mode()
def _together(opened: Sequence[OpenAnswer]) -> tuple[Tensor, DecoderState]:
    logits = torch.cat([prompt.logits for prompt in opened])
    # An answer asks nothing more: what waits for questions stays behind.
    states = [
        DecoderState(prompt.state.memories, (None,) * len(prompt.state.pending))
        for prompt in opened
    ]
    return logits, stack(states)


@torch.inference_mode()
def _select(state: DecoderState, rows: Sequence[int]) -> DecoderState:
    return state.select(rows)


@torch.inference_mode()
def next_logits(
    model: TimeViper, token_ids: Sequence[int], state: DecoderState
) -> tuple[Float[Tensor, "sequence vocab"], DecoderState]:
    """One decode step.

    Args:
        model: that made the state.
        token_ids: the newest token of each sequence.
        state: what came before.

    Returns:
        Scores of each sequence's next token, and the state after these tokens.
    """
    layout = TokenLayout.pack([TokenLayout.of((SpanKind.ANSWER, 1)) for _ in token_ids])
    ids = torch.tensor(list(token_ids), device=model.decoder.embed_tokens.weight.device)
    out, state = model.decoder.run(Tokens.of(model.decoder.embed(ids), layout), state)
    return model.decoder.logits(last_of_each(out)), state


def check_finite(logits: Float[Tensor, "sequence vocab"], state: DecoderState) -> None:
    """Refuse to make text out of scores that are not numbers.

    Raises:
        TimeviperError: NaN or infinity, with the first layer whose memory holds one.
    """
    if bool(torch.isfinite(logits).all()):
        return
    layer = next((i for i, m in enumerate(state.memories) if not _is_finite(m)), None)
    where = "no layer's memory" if layer is None else f"the memory of layer {layer}"
    raise TimeviperError(
        want="finite scores of the next token",
        got=f"NaN or infinity, first seen in {where}",
        do="use precision float32, or check the weights of the model",
    )


def _is_finite(memory: AttentionMemory | MambaMemory | None) -> bool:
    if isinstance(memory, MambaMemory):
        return bool(torch.isfinite(memory.ssm).all())
    if isinstance(memory, AttentionMemory):
        # Beyond a row's length anything may lie.
        filled = [
            rows[number, :length]
            for rows in (memory.k, memory.v)
            for number, length in enumerate(memory.own)
        ]
        if memory.shared is not None:
            length = memory.shared.length
            filled += [memory.shared.k[:length], memory.shared.v[:length]]
        return all(bool(torch.isfinite(keys).all()) for keys in filled)
    return True


def _overlap(text: str, stops: Sequence[str]) -> int:
    """Length of the longest end of `text` that a stop text begins with."""
    longest = max((len(stop) - 1 for stop in stops), default=0)
    for size in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-size:]) for stop in stops):
            return size
    return 0
