"""Run a decoder over a video without data, to learn what it holds and what it takes meanwhile.

The layers, the transfer sites and the state are the real ones, on tensors that have a shape and
no memory: whatever they come to do, the rehearsal does. Only the clips in the middle of the video,
each like the one before, are skipped.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from fractions import Fraction
from typing import final

import numpy as np
import torch
from torch import Tensor

from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.inference.graphs import StepRunner
from timeviper.inference.planning.live_bytes import LiveBytes
from timeviper.model.config import DecoderConfig, DropPolicy
from timeviper.model.decoder import Decoder
from timeviper.model.linear import quantize_
from timeviper.model.pile import AT_ONCE, put_by
from timeviper.model.state import (
    AttentionMemory,
    DecoderState,
    MambaMemory,
    Memory,
    PendingTransfer,
    extend,
    stack,
)
from timeviper.model.tokens import Tokens
from timeviper.ops import backend, hollow

# CUDA's caching allocator hands out whole blocks of so many bytes.
CUDA_BLOCK = 512
# Without data torch cannot choose its own fused attention.
_FUSED = frozenset({"attention", "attention_step"})
# Growth of a cache that nobody reserved room for, see `model.state`.
_GROWTH = 1.25


@dataclass(frozen=True, kw_only=True)
class Course:
    """How a video goes through the decoder.

    Args:
        clips: vision tokens of each call, in order.
        text_per_vision: tokens of text among the vision tokens, for each of them.
        mark: tokens of text before the first vision token.
        prefix: tokens before the video.
        question: tokens of the question.
        answer: most tokens of its answer.
        spare: slots of keys that are set aside beyond the video's; None reserves nothing, so that
            caches grow by copies.
        videos: like this one, encoded one after another and then asked together.
        keys_in_host: whether long keys and values are moved to host memory after the first clip.
    """

    clips: tuple[int, ...]
    text_per_vision: Fraction = Fraction(0)
    mark: int = 0
    prefix: int = 32
    question: int = 64
    answer: int = 64
    spare: int | None = 1024
    videos: int = 1
    keys_in_host: bool = False


@dataclass(frozen=True, kw_only=True)
class Held:
    """Bytes that a state holds, spare room included, by what they are.

    Args:
        keys_values: of attention layers, on the device.
        mamba_state: of Mamba layers.
        waiting: keys and values of dropped tokens, on the device.
        parked: tokens that wait for a question.
        in_host: keys and values in host memory instead, as page-locked memory is handed out.
    """

    keys_values: int
    mamba_state: int
    waiting: int
    parked: int
    in_host: int = 0

    @property
    def total(self) -> int:
        """All that is on the device."""
        return self.keys_values + self.mamba_state + self.waiting + self.parked


@dataclass(frozen=True, kw_only=True)
class Rehearsed:
    """What one video and one question took, in bytes, weights not counted.

    Args:
        held: by the state at the end of the video.
        prefill_peak: most at any time while the video was read.
        question_peak: most while the question was read and answering began.
    """

    held: Held
    prefill_peak: int
    question_peak: int


def rehearse(
    config: DecoderConfig,
    course: Course,
    *,
    dtype: torch.dtype,
    device_type: str,
    fp8: bool = False,
) -> Rehearsed:
    """Take a video and a question through a decoder without data.

    Args:
        config: of the decoder, with its transfer sites.
        course: the calls.
        dtype: of weights and hidden states.
        device_type: "cuda" takes memory as the fused kernels do, "cpu" as plain torch does.
        fp8: whether products are FP8.

    Returns:
        Bytes; exact for what the operations return, without what they take inside.
    """
    with torch.device("meta"):
        decoder = Decoder(config).to(dtype).eval().requires_grad_(requires_grad=False)
    if fp8:
        quantize_(decoder.layers)
    block = CUDA_BLOCK if device_type == "cuda" else 1
    weights = (*decoder.parameters(), *decoder.buffers())
    tracker = LiveBytes(block=block, host=False, ignore=weights)
    with torch.inference_mode(), ops_of(device_type, streams=course.keys_in_host), tracker:
        return _Stage(decoder, course, tracker, device_type).play()


def pinned_bytes(count: int) -> int:
    """What page-locked memory of so many bytes takes: torch hands it out in powers of two."""
    return 1 << max(0, count - 1).bit_length()


@contextmanager
def ops_of(device_type: str, *, streams: bool = False) -> Generator[None, None, None]:
    """On a CPU plain torch takes what it takes; for a GPU's kernels `ops.hollow` stands in."""
    with ExitStack() as stack:
        stack.enter_context(hollow.rehearsing(device_type, streams=streams))
        if device_type == "cpu":
            # Some ops no CPU has.
            for choice in backend.explain("cpu"):
                if choice.op not in _FUSED and choice.name in backend.names(choice.op):
                    stack.enter_context(backend.override(choice.op, choice.name))
        yield


@final
class _Stage:
    """One rehearsal; its tracker is switched on."""

    def __init__(
        self, decoder: Decoder, course: Course, tracker: LiveBytes, device_type: str
    ) -> None:
        self._decoder, self._course, self._tracker = decoder, course, tracker
        self._device_type = device_type
        self._sites = decoder.config.transfer.sites

    def play(self) -> Rehearsed:
        """Prefix, the clips that matter, question, two steps of an answer."""
        began = state = self._read(TokenLayout.of((SpanKind.TEXT, self._course.prefix)), None)
        peak = self._tracker.peak
        clips = list(self._course.clips)
        done = 0
        for stop in _stops(self._course):
            if skipped := sum(clips[done:stop]):
                state = self._skip(state, skipped)
                self._tracker.restart()
            state = self._read(self._clip(clips[stop]), state)
            if stop == 0 and self._course.spare is not None:
                state = state.reserve(
                    sum(clips) / clips[0], self._course.spare, since=began, room=self._room
                )
            done = stop + 1
            peak = max(peak, self._tracker.peak)
        others = [self._another(state, number + 1) for number in range(self._course.videos - 1)]
        # The last video is read while all before it are held already.
        peak += len(others) * self._held(state).total
        held = self._held(state, *others)
        self._tracker.restart()
        self._ask([state, *others])
        return Rehearsed(held=held, prefill_peak=peak, question_peak=self._tracker.peak)

    def _read(self, layout: TokenLayout, state: DecoderState | None) -> DecoderState:
        """One call of the encoder; what it holds meanwhile is held here as well."""
        return self._run(layout, state, more=True)[1]

    def _run(
        self, layout: TokenLayout, state: DecoderState | None, *, more: bool
    ) -> tuple[Tokens, DecoderState]:
        x = self._hidden(layout.total)
        return self._decoder.run(Tokens.of(x, layout), state, more=more, only_last=True)

    def _another(self, state: DecoderState, number: int) -> DecoderState:
        """A state of its own, as of another video; a little longer, so that none is the same."""
        other = state.select([0]).reserve(1.0, (self._course.spare or 0) + number, room=self._room)
        waits = tuple(None if p is None else self._waits(p) for p in other.pending)
        return DecoderState(tuple(self._longer(m, number) for m in other.memories), waits)

    def _waits(self, pending: PendingTransfer) -> PendingTransfer:
        """With parked tokens of its own, of as many as another's."""
        parked = (part.with_hidden(self._hidden(len(part.kinds))) for part in pending.parked)
        return replace(pending, parked=tuple(parked))

    def _ask(self, states: Sequence[DecoderState]) -> None:
        """Questions one after another on forks, then the first steps of all answers together."""
        question = TokenLayout.of((SpanKind.INSTRUCTION, self._course.question))
        opened: list[DecoderState] = []
        for state in states:
            out, after = self._run(question, state.fork(), more=False)
            self._decoder.logits(out.hidden)
            opened.append(DecoderState(after.memories, (None,) * len(after.pending)))
        if self._device_type == "cuda":
            runner = StepRunner.of(self._decoder, opened, steps=self._course.answer)
            for _ in range(2):
                runner.step([0] * len(states))
            return
        going = stack(opened)
        step = TokenLayout.pack([TokenLayout.of((SpanKind.ANSWER, 1)) for _ in states])
        for _ in range(2):
            out, going = self._run(step, going, more=False)
            self._decoder.logits(out.hidden)

    def _clip(self, vision: int) -> TokenLayout:
        text = self._text(vision)
        mark = min(self._course.mark, text)
        kinds = (SpanKind.TIMESTAMP, SpanKind.VISION, SpanKind.TIMESTAMP)
        return TokenLayout.of(*zip(kinds, (mark, vision, text - mark), strict=True))

    def _text(self, vision: int) -> int:
        return -int(-vision * self._course.text_per_vision // 1)

    def _hidden(self, tokens: int) -> Tensor:
        return self._decoder.norm.weight.new_empty(tokens, self._decoder.config.hidden_size)

    def _skip(self, state: DecoderState, vision: int) -> DecoderState:
        """The state after so many vision tokens more, without running them."""
        memories, pending = list(state.memories), list(state.pending)
        text, numbers = self._text(vision), {s.layer: n for n, s in enumerate(self._sites)}
        for index in range(len(memories)):
            if index in numbers and vision + text:
                number = numbers[index]
                pending[number], vision, text = self._skip_site(
                    number, pending[number], vision, text
                )
            memories[index] = self._longer(memories[index], vision + text)
        return DecoderState(tuple(memories), tuple(pending))

    def _skip_site(
        self, number: int, pending: PendingTransfer | None, vision: int, text: int
    ) -> tuple[PendingTransfer | None, int, int]:
        site = self._sites[number]
        if pending is None:
            return None, vision, text
        if site.policy is not DropPolicy.UNIFORM_STREAM:
            parked = Tokens(self._hidden(vision + text), _kinds(vision, text), (vision + text,))
            queue = put_by(pending.parked, parked, most=AT_ONCE)
            return replace(pending, parked=queue), 0, 0
        seen = pending.seen[0]
        kept = int((seen + vision) * site.keep) - int(seen * site.keep)
        dropped = self._longer(pending.dropped, vision - kept)
        if not isinstance(dropped, AttentionMemory):
            dropped = None
        return PendingTransfer((seen + vision,), dropped, pending.parked), kept, text

    def _room(self, shape: tuple[int, ...], like: Tensor) -> Tensor:
        """Rows of long keys, where the course wants them."""
        if not self._course.keys_in_host:
            return like.new_empty(shape)
        with self._tracker.elsewhere():
            return like.new_empty(shape)

    def _held(self, *states: DecoderState) -> Held:
        """What states hold, by where and what it is."""
        memories = [memory for state in states for memory in state.memories]
        sites = [p for state in states for p in state.pending if p is not None]
        keys = [t for m in memories if isinstance(m, AttentionMemory) for t in (m.k, m.v)]
        waiting = [t for p in sites if p.dropped is not None for t in (p.dropped.k, p.dropped.v)]
        away = [t for t in (*keys, *waiting) if self._tracker.is_elsewhere(t)]
        return Held(
            keys_values=sum(t.nbytes for t in keys if not self._tracker.is_elsewhere(t)),
            mamba_state=sum(m.nbytes for m in memories if isinstance(m, MambaMemory)),
            waiting=sum(t.nbytes for t in waiting if not self._tracker.is_elsewhere(t)),
            parked=sum(part.hidden.nbytes for site in sites for part in site.parked),
            in_host=sum(pinned_bytes(t.nbytes) for t in away),
        )

    def _longer(self, memory: Memory, tokens: int) -> Memory:
        if not isinstance(memory, AttentionMemory) or not tokens:
            return memory
        # One slot seen as many: only the room that is written to counts.
        rows = memory.k.new_empty(1, *memory.k.shape[2:]).expand(tokens, -1, -1)
        return extend(memory, rows, rows, lengths=(tokens,))


def _stops(course: Course) -> Iterator[int]:
    """Clips that are run: the first, the last, the last of the longest, and where caches grow."""
    clips = course.clips
    if not clips:
        return iter(())
    longest = len(clips) - 1 - clips[::-1].index(max(clips))
    wanted = {0, longest, len(clips) - 1}
    return iter(sorted(wanted if course.spare is not None else wanted | _growths(course)))


def _growths(course: Course) -> set[int]:
    capacity, length, found = 0, course.prefix, set[int]()
    for number, clip in enumerate(course.clips):
        length += clip
        if length > capacity:
            capacity = int(length * _GROWTH)
            found.add(number)
    return found


def _kinds(vision: int, text: int) -> np.ndarray:
    codes = (SpanKind.TIMESTAMP.code, SpanKind.VISION.code)
    return np.repeat(np.array(codes, dtype=np.int8), (text, vision))
