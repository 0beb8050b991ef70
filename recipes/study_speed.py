"""Time and memory of variants alone on a device; their weights do not matter."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import torch

from recipes.study_models import HIDDEN, Learner, variants
from timeviper.core.layout import SpanKind
from timeviper.model.state import DecoderState
from timeviper.model.tokens import Tokens

NAMES = ("hybrid", "attention", "mamba", "transv-0.9", "attention-0.9", "tokens-16")
# Tokens of a mark, of a question, of an answer.
MARK, QUESTION, ANSWER = 2, 24, 16


@torch.no_grad()
def measure(
    device: torch.device,
    vocab_size: int,
    vision: tuple[int, int],
    lengths: tuple[int, ...],
    seconds: float,
) -> list[dict[str, Any]]:
    """Encode a video, read a question, write an answer.

    Args:
        device: nothing else may run there.
        vocab_size: of the language model.
        vision: width of features and heads they were merged by.
        lengths: frames of the video.
        seconds: after which no further measurement starts.

    Returns:
        One row a variant and length.
    """
    found: list[dict[str, Any]] = []
    began = time.monotonic()
    for frames in lengths:
        for name in NAMES:
            if time.monotonic() - began > seconds:
                return found
            learner = Learner(variants()[name], vocab_size, vision).to(device)
            learner.start(0)
            found.append({"variant": name, "frames": frames} | _one(learner, frames, device))
    return found


def _one(learner: Learner, frames: int, device: torch.device) -> dict[str, Any]:
    per_frame = learner.projector.config.tokens_per_frame or 1
    kinds = np.array(
        [SpanKind.TIMESTAMP.code] * MARK + [SpanKind.VISION.code] * per_frame, dtype=np.int8
    )
    kinds = np.tile(kinds, frames)
    hidden = torch.randn(len(kinds), HIDDEN, device=device) * 0.02
    asked = np.full(QUESTION, SpanKind.INSTRUCTION.code, dtype=np.int8)
    decoder = learner.decoder

    def video() -> DecoderState:
        return decoder.run(Tokens(hidden, kinds, (len(kinds),)), None, more=True)[1]

    def question(state: DecoderState) -> DecoderState:
        return decoder.run(Tokens(hidden[:QUESTION], asked, (QUESTION,)), state)[1]

    def answer(state: DecoderState) -> DecoderState:
        kind = np.array([SpanKind.ANSWER.code], dtype=np.int8)
        for place in range(ANSWER):
            state = decoder.run(Tokens(hidden[place : place + 1], kind, (1,)), state)[1]
        return state

    with torch.autocast(device.type, torch.bfloat16, enabled=device.type == "cuda"):
        # Once to build kernels, then measured.
        answer(question(video()))
        if device.type == "cuda":
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        times = [time.perf_counter()]
        state: Any = None
        for part in (lambda _: video(), question, answer):
            state = part(state)
            if device.type == "cuda":
                torch.cuda.synchronize()
            times.append(time.perf_counter())
    encode, ask, write = np.diff(times)
    peak = torch.cuda.max_memory_allocated() if device.type == "cuda" else None
    return {
        "tokens": len(kinds),
        "encode_seconds": round(float(encode), 4),
        "encode_tokens_per_second": round(len(kinds) / encode),
        "question_seconds": round(float(ask), 4),
        "answer_tokens_per_second": round(ANSWER / write, 1),
        "state_bytes": state.nbytes,
        "peak_bytes": peak,
    }
