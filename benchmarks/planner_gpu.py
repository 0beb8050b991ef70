"""Forecast memory against measured memory: the 9B decoder by chunks, and the tower, on one GPU.

python -m benchmarks.planner_gpu --out results.json       (--toy: a small model on the CPU)
"""

from __future__ import annotations

import argparse
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import GIB, random_decoder, save
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.core.precision import Precision
from timeviper.inference.graphs import StepRunner
from timeviper.inference.planning.footprint import tower_bytes, weight_bytes
from timeviper.inference.planning.live_bytes import LiveBytes
from timeviper.inference.planning.planner import Forecast, Setting, forecast
from timeviper.model.decoder import Decoder
from timeviper.model.init import init_decoder
from timeviper.model.presets import preset
from timeviper.model.state import DecoderState
from timeviper.model.tokens import Tokens
from timeviper.model.vlm import TimeViper

QUESTION, ANSWER, PREFIX, SPARE = 64, 64, 64, 1024


class Meter:
    """Highest allocated bytes since the last reset; on a CPU tensors are counted instead."""

    def __init__(self, tracker: LiveBytes | None) -> None:
        self.tracker = tracker

    def reset(self) -> None:
        """Start over."""
        if self.tracker is None:
            torch.cuda.synchronize()
            torch.cuda.reset_peak_memory_stats()
        else:
            self.tracker.restart()

    def peak(self) -> int:
        """Highest since."""
        if self.tracker is None:
            torch.cuda.synchronize()
            return torch.cuda.max_memory_allocated()
        return self.tracker.peak

    def reserved(self) -> int:
        """What the allocator holds at most."""
        return torch.cuda.max_memory_reserved() if self.tracker is None else self.tracker.peak


def run(
    decoder: Decoder, layout: TokenLayout, state: DecoderState | None, *, more: bool
) -> tuple[Tokens, DecoderState]:
    """Random embeddings through the decoder."""
    weight = decoder.norm.weight
    x = torch.randn(
        layout.total, decoder.config.hidden_size, device=weight.device, dtype=weight.dtype
    )
    return decoder.run(Tokens.of(x, layout), state, more=more, only_last=True)


@torch.inference_mode()
def measure(decoder: Decoder, clips: list[int], meter: Meter) -> dict[str, float]:
    """Peaks of a video and of a question after it."""
    meter.reset()
    began = time.perf_counter()
    began_with = run(decoder, TokenLayout.of((SpanKind.TEXT, PREFIX)), None, more=True)[1]
    state = began_with
    for number, tokens in enumerate(clips):
        state = run(decoder, TokenLayout.of((SpanKind.VISION, tokens)), state, more=True)[1]
        if number == 0:
            state = state.reserve(sum(clips) / clips[0], SPARE, since=began_with)
    prefill = meter.peak()
    seconds = time.perf_counter() - began
    meter.reset()
    began = time.perf_counter()
    question = TokenLayout.of((SpanKind.INSTRUCTION, QUESTION))
    out, after = run(decoder, question, state.fork(), more=False)
    logits = decoder.logits(out.hidden)
    answering = DecoderState(after.memories, (None,) * len(after.pending))
    if out.hidden.is_cuda:
        runner = StepRunner.of(decoder, [answering], steps=ANSWER)
        for _ in range(4):
            runner.step([0])
        logits = runner.logits
    else:
        for _ in range(2):
            step = TokenLayout.of((SpanKind.ANSWER, 1))
            out, answering = run(decoder, step, answering, more=False)
            logits = decoder.logits(out.hidden)
    if not bool(torch.isfinite(logits).all()):
        raise SystemExit("scores are not finite: nothing is told")
    found = {"prefill_peak": prefill, "question_peak": meter.peak()}
    return found | {
        "reserved": meter.reserved(),
        "prefill_seconds": seconds,
        "question_seconds": time.perf_counter() - began,
    }


def compare(name: str, told: Forecast, got: dict[str, float]) -> dict[str, Any]:
    """A row, printed at once."""
    row: dict[str, Any] = {"what": name, "frames": told.frames, "chunk": told.chunk}
    for stage in ("prefill", "question"):
        forecast_bytes, measured = getattr(told, f"{stage}_peak"), got[f"{stage}_peak"]
        row |= {
            f"{stage}_forecast_gib": round(forecast_bytes / GIB, 3),
            f"{stage}_measured_gib": round(measured / GIB, 3),
            f"{stage}_ratio": round(forecast_bytes / measured, 4),
        }
    row |= {
        "reserved_gib": round(got["reserved"] / GIB, 3),
        "reserved_forecast_gib": round(told.reserved / GIB, 3),
        "prefill_seconds": round(got["prefill_seconds"], 3),
        "question_seconds": round(got["question_seconds"], 3),
    }
    print(row, flush=True)
    return row


def eyes(device: str, name: str, frames: int, dtype: torch.dtype) -> dict[str, Any]:
    """The tower and the projector, forecast and measured."""
    config = preset(name)
    alone = replace(config, decoder=replace(preset("tiny").decoder, hidden_size=4480))
    with torch.device(device):
        model = TimeViper(alone if "nano" in name else config).to(dtype).eval()
    told = tower_bytes(config, frames, dtype=dtype, device_type=torch.device(device).type)
    side = config.vision.image_size
    before = torch.cuda.memory_allocated() if device == "cuda" else 0
    tracker = LiveBytes(ignore=(*model.parameters(), *model.buffers()))
    with torch.inference_mode():
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
            pixels = torch.rand(frames, 3, side, side, device=device)
            model.encode_frames(pixels.to(dtype))
            got = torch.cuda.max_memory_allocated() - before
        else:
            with tracker:
                model.encode_frames(torch.rand(frames, 3, side, side).to(dtype))
            got = tracker.peak
    row = {"what": f"tower, {frames} frames", "forecast_gib": told / GIB, "measured_gib": got / GIB}
    print(row, flush=True)
    return row


def main() -> None:
    """Models with and without TransV, two lengths, two chunk sizes."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--out", type=Path)
    wishes = parser.parse_args()
    device, dtype = ("cpu", torch.float32) if wishes.toy else ("cuda", torch.bfloat16)
    names = ("tiny-transv", "tiny") if wishes.toy else ("nano-9b-v2-transv", "nano-9b-v2")
    lengths = ((64, 512),) if wishes.toy else ((1024, 1024), (1024, 4096), (10240, 4096))
    precision = Precision.FLOAT32 if wishes.toy else Precision.BFLOAT16
    rows: list[dict[str, Any]] = []
    for name in names:
        config = preset(name)
        decoder = random_decoder(name, device=device, dtype=dtype)
        if wishes.toy:
            init_decoder(decoder, torch.Generator().manual_seed(0))
        weights = weight_bytes(config, precision, tower=False)
        for frames, chunk in lengths:
            tokens, most = frames * config.tokens_per_frame, chunk
            clips = [most] * (tokens // most) + ([tokens % most] if tokens % most else [])
            setting = Setting(
                device_type=device, tower=False, prefix=PREFIX, question=QUESTION, spare=SPARE
            )
            told = forecast(
                config, frames=frames, chunk=chunk, precision=precision, setting=setting
            )
            if device == "cuda":
                got = measure(decoder, clips, Meter(None))
                torch.cuda.empty_cache()
            else:
                tracker = LiveBytes(ignore=decoder.parameters())
                with tracker:
                    got = measure(decoder, clips, Meter(tracker))
                got = {k: v + weights * k.endswith("_peak") for k, v in got.items()}
            rows.append(compare(name, told, got))
        del decoder
        if device == "cuda":
            torch.cuda.empty_cache()
    rows.append(eyes(device, names[0], 4 if wishes.toy else 64, dtype))
    used: dict[str, float] = {}
    if device == "cuda":
        free, total = torch.cuda.mem_get_info()
        used["outside_allocator_gib"] = (total - free - torch.cuda.memory_reserved()) / GIB
        used["total_gib"] = total / GIB
    save({"rows": rows, **used}, wishes.out)


if __name__ == "__main__":
    main()
