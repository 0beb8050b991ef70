"""Run a decoder over a video as the engine does, and count the bytes that are alive meanwhile."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.inference.planning.live_bytes import LiveBytes
from timeviper.inference.planning.planner import Setting
from timeviper.model.config import DecoderConfig
from timeviper.model.decoder import Decoder
from timeviper.model.init import init_decoder
from timeviper.model.state import DecoderState, stack
from timeviper.model.tokens import Tokens


@dataclass(frozen=True)
class Measured:
    """Highest bytes while reading and while answering, weights included."""

    prefill: int
    question: int


def random_decoder(config: DecoderConfig, dtype: torch.dtype = torch.float32) -> Decoder:
    """A decoder of random weights."""
    decoder = Decoder(config)
    init_decoder(decoder, torch.Generator().manual_seed(0))
    return decoder.to(dtype).eval().requires_grad_(requires_grad=False)


def step(
    decoder: Decoder, layout: TokenLayout, state: DecoderState | None, *, more: bool
) -> tuple[Tokens, DecoderState]:
    """Random embeddings through the decoder."""
    weight = decoder.norm.weight
    x = torch.randn(layout.total, decoder.config.hidden_size, dtype=weight.dtype)
    return decoder.run(Tokens.of(x, layout), state, more=more, only_last=True)


def clip_layout(frames: int, per_frame: int, mark: int) -> TokenLayout:
    """A clip with a mark in front of each frame."""
    spans = [(SpanKind.TIMESTAMP, mark), (SpanKind.VISION, per_frame)] * frames
    return TokenLayout.of(*spans)


@torch.inference_mode()
def measure(
    decoder: Decoder, clips: Sequence[int], setting: Setting, *, per_frame: int, batch: int = 1
) -> Measured:
    """Read `batch` videos of these clips one after another, then ask them all together.

    Args:
        decoder: with weights.
        clips: vision tokens of each call.
        setting: prefix, question, room and marks.
        per_frame: vision tokens of a frame.
        batch: videos.
    """
    weights = [*decoder.parameters(), *decoder.buffers()]
    tracker = LiveBytes(ignore=weights)
    own = sum(tensor.nbytes for tensor in weights)
    with tracker:
        states = [_read(decoder, clips, setting, per_frame) for _ in range(batch)]
        prefill = tracker.peak
        tracker.restart()
        _ask(decoder, states, setting)
    return Measured(prefill + own, tracker.peak + own)


def _read(decoder: Decoder, clips: Sequence[int], setting: Setting, per_frame: int) -> DecoderState:
    prefix = TokenLayout.of((SpanKind.TEXT, setting.prefix))
    began = state = step(decoder, prefix, None, more=True)[1]
    for number, vision in enumerate(clips):
        layout = clip_layout(vision // per_frame, per_frame, int(setting.text_per_frame))
        state = step(decoder, layout, state, more=True)[1]
        if number == 0 and setting.spare is not None:
            state = state.reserve(sum(clips) / vision, setting.spare, since=began)
            began = None
    return state


def _ask(decoder: Decoder, states: Sequence[DecoderState], setting: Setting) -> None:
    opened: list[DecoderState] = []
    question = TokenLayout.of((SpanKind.INSTRUCTION, setting.question))
    for state in states:
        out, after = step(decoder, question, state.fork(), more=False)
        decoder.logits(out.hidden)
        opened.append(DecoderState(after.memories, (None,) * len(after.pending)))
    going = stack(opened)
    answers = TokenLayout.pack([TokenLayout.of((SpanKind.ANSWER, 1)) for _ in states])
    for _ in range(2):
        out, going = step(decoder, answers, going, more=False)
        decoder.logits(out.hidden)
