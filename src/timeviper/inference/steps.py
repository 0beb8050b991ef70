"""One token further for all answers that are being written: by the usual call, or by a graph."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol, final

import torch
from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import TimeviperError
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.inference.graphs import StepRunner
from timeviper.inference.opened import OpenAnswer
from timeviper.inference.sampling import Chooser, choose
from timeviper.model.decoder import Decoder, last_of_each
from timeviper.model.state import AttentionMemory, DecoderState, MambaMemory, stack
from timeviper.model.tokens import Tokens
from timeviper.model.vlm import TimeViper
from timeviper.ops.attention_parts import together
from timeviper.ops.step import best_token

# Fewer tokens than this are not worth buffers and a capture of their own.
_WORTH_A_GRAPH = 8
# A runner of at most so many bytes is kept for the next answers.
_KEPT_BYTES = 2 * 2**30


class Steps(Protocol):
    """Answers of several sequences on their way."""

    def choose(self, choosers: Sequence[Chooser], *, last: bool) -> list[int]:
        """The next token of each sequence that still goes on.

        Args:
            choosers: of these sequences, in order.
            last: no step will follow.

        Raises:
            TimeviperError: the model's scores are not finite.
        """
        ...

    def keep(self, places: Sequence[int]) -> None:
        """Go on with the sequences at these places among those that went on so far."""
        ...

    def advance(self, tokens: Sequence[int]) -> None:
        """Take the token just chosen of each sequence that goes on."""
        ...


@final
class UsualSteps:
    """Steps by the call that takes any length; states grow, rows that ended leave them.

    Args:
        model: that read the prompts.
        opened: prompts read to their end.
        taken: tokens of a single sequence that were chosen already; none for a beginning.
    """

    def __init__(
        self, model: TimeViper, opened: Sequence[OpenAnswer], *, taken: Sequence[int] = ()
    ) -> None:
        self._model = model
        self._logits, self._state = _together(opened, len(model.config.decoder.transfer.sites))
        if taken:
            layout = TokenLayout.of((SpanKind.ANSWER, len(taken)))
            self._logits, self._state = _read(model, taken, layout, self._state)

    @property
    def logits(self) -> Float[Tensor, "sequence vocab"]:
        """Scores of each sequence's next token."""
        return self._logits

    def choose(self, choosers: Sequence[Chooser], *, last: bool) -> list[int]:
        """See `Steps`."""
        del last
        check_finite(self._logits, self._state)
        return choose(self._logits, choosers)

    @torch.inference_mode()
    def keep(self, places: Sequence[int]) -> None:
        """See `Steps`."""
        self._state = self._state.select(places)

    def advance(self, tokens: Sequence[int]) -> None:
        """See `Steps`."""
        self._logits, self._state = next_logits(self._model, tokens, self._state)


@final
class GraphSteps:
    """Steps of a runner; while every answer takes the best token, one step ahead of its reader."""

    def __init__(self, runner: StepRunner, opened: Sequence[OpenAnswer]) -> None:
        self._runner = runner
        self._rows = list(range(runner.sequences))
        # Scores of the prompts' ends, until the first step.
        self._first: Tensor | None = _first_logits(opened)
        self._ahead = False

    @torch.inference_mode()
    def choose(self, choosers: Sequence[Chooser], *, last: bool) -> list[int]:
        """See `Steps`."""
        runner = self._runner
        best = runner.best if self._first is None else best_token(self._first)
        if not all(chooser.is_greedy for chooser in choosers):
            self._check(best.tolist())
            logits = runner.logits if self._first is None else self._first
            return choose(logits[torch.tensor(self._rows, device=logits.device)], choosers)
        reader = runner.read(best)
        if not last:
            # The device goes on while the host reads: what it needs never leaves it.
            runner.step(best)
            self._first, self._ahead = None, True
        ids = reader()
        self._check(ids)
        return [ids[row] for row in self._rows]

    def keep(self, places: Sequence[int]) -> None:
        """See `Steps`."""
        going = [self._rows[place] for place in places]
        self._runner.retire([row for row in self._rows if row not in going])
        self._rows = going

    def advance(self, tokens: Sequence[int]) -> None:
        """See `Steps`."""
        if self._ahead:
            self._ahead = False
            return
        ids = [0] * self._runner.sequences
        for row, token in zip(self._rows, tokens, strict=True):
            ids[row] = token
        self._runner.step(ids)
        self._first = None

    def _check(self, best: Sequence[int]) -> None:
        """Refuse rows whose scores are no numbers."""
        if any(best[row] < 0 for row in self._rows):
            raise _not_finite(None if self._first is not None else self._runner.broken_layer())


@final
class Runners:
    """Makes runners, and keeps the last one for questions on the same video if it is small."""

    def __init__(self) -> None:
        self._kept: StepRunner | None = None

    def clear(self) -> None:
        """Let go of what is kept, and of the keys that it shares."""
        self._kept = None

    def steps(self, model: TimeViper, opened: Sequence[OpenAnswer], *, most: int) -> Steps:
        """How to write these answers on this machine.

        Args:
            model: that read the prompts.
            opened: prompts read to their end.
            most: tokens of the longest answer.
        """
        device = model.decoder.embed_tokens.weight.device
        # A graph reads what is in front of answers where it lies, and waits for no copies.
        away = any(not _within_reach(prompt.state, device) for prompt in opened)
        if device.type != "cuda" or most < _WORTH_A_GRAPH or away:
            return UsualSteps(model, opened)
        return GraphSteps(self.runner(model.decoder, opened, most=most), opened)

    def runner(self, decoder: Decoder, opened: Sequence[OpenAnswer], *, most: int) -> StepRunner:
        """A runner loaded with what was opened."""
        sites = len(decoder.config.transfer.sites)
        states = [_answering(prompt.state, sites) for prompt in opened]
        kept, self._kept = self._kept, None
        if kept is not None and kept.fits(states, steps=most):
            kept.load(states)
        else:
            # Gone before the next one takes its place.
            del kept
            kept = StepRunner.of(decoder, states, steps=most)
        if kept.nbytes <= _KEPT_BYTES:
            self._kept = kept
        return kept


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
    return _read(model, token_ids, layout, state)


@torch.inference_mode()
def _read(
    model: TimeViper, token_ids: Sequence[int], layout: TokenLayout, state: DecoderState
) -> tuple[Tensor, DecoderState]:
    ids = torch.tensor(list(token_ids), device=model.decoder.embed_tokens.weight.device)
    out, state = model.decoder.run(Tokens.of(model.decoder.embed(ids), layout), state)
    return model.decoder.logits(last_of_each(out)), state


@torch.inference_mode()
def alone(opened: Sequence[OpenAnswer], row: int) -> OpenAnswer:
    """One of several prompts that were read together.

    Args:
        opened: of one or several sequences each.
        row: number of the sequence among all.
    """
    for prompt in opened:
        count = len(prompt.logits)
        if row < count:
            if count == 1:
                return prompt
            state = DecoderState(prompt.state.memories, (None,) * len(prompt.state.pending))
            return OpenAnswer(logits=prompt.logits[row : row + 1], state=state.select([row]))
        row -= count
    raise IndexError(row)


def check_finite(logits: Float[Tensor, "sequence vocab"], state: DecoderState) -> None:
    """Refuse to make text out of scores that are not numbers.

    Raises:
        TimeviperError: NaN or infinity, with the first layer whose memory holds one.
    """
    if bool(torch.isfinite(logits).all()):
        return
    raise _not_finite(next((i for i, m in enumerate(state.memories) if not _is_finite(m)), None))


def _not_finite(layer: int | None) -> TimeviperError:
    where = "no layer's memory" if layer is None else f"the memory of layer {layer}"
    return TimeviperError(
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
        for front, _ in together(memory.shared):
            filled += [front.k[: front.length], front.v[: front.length]]
        return all(bool(torch.isfinite(keys).all()) for keys in filled)
    return True


@torch.inference_mode()
def _first_logits(opened: Sequence[OpenAnswer]) -> Tensor:
    return torch.cat([prompt.logits for prompt in opened])


def _answering(state: DecoderState, sites: int) -> DecoderState:
    """An answer asks nothing more: what waits for questions stays behind."""
    return DecoderState(state.memories, (None,) * sites)


def _within_reach(state: DecoderState, device: torch.device) -> bool:
    keys = [memory for memory in state.memories if isinstance(memory, AttentionMemory)]
    return all(memory.within_reach(device) for memory in keys)


@torch.inference_mode()
def _together(opened: Sequence[OpenAnswer], sites: int) -> tuple[Tensor, DecoderState]:
    states = [_answering(prompt.state, sites) for prompt in opened]
    return _first_logits(opened), stack(states)
