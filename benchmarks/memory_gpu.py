"""Whole engine against its memory on one GPU: keys in host memory, changes aloud, running out.

    python -m benchmarks.memory_gpu [--frames 10240] [--video 1280] [--parts decoder eyes engine]
        [--toy] [--out FILE]

Weights are random at true dimensions. Refuses to print figures when keys in host memory give
other scores than keys on the device. Then the allowed share of the device is made small, and the
engine has to read the video all the same, say what it changed, or refuse in numbers.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import GIB, distance, save
from benchmarks.pipeline_gpu import processor_of
from timeviper.core.errors import CapacityError
from timeviper.inference.engine import AskOptions, Degrade, Engine, Limits
from timeviper.inference.ladder import in_host as load_in_host
from timeviper.inference.ladder import rungs
from timeviper.inference.planning.advice import Load
from timeviper.inference.planning.footprint import tower_bytes
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.steps import Runners, UsualSteps
from timeviper.model.config import TransferPlan
from timeviper.model.init import init_decoder
from timeviper.model.keys import in_host
from timeviper.model.presets import preset
from timeviper.model.state import AttentionMemory
from timeviper.model.vlm import TimeViper, under_plan
from timeviper.processing.messages import VideoPart
from timeviper.processing.prompt import PromptPlan

QUESTION, BEGAN = "When does the cat appear?", time.perf_counter()
# Parts of keys are merged in another order; two cuts of the same tokens were 0.027 apart.
ROUNDING = 0.05
SHORT = AskOptions(max_new_tokens=16)


def whole_model(name: str, *, device: str, dtype: torch.dtype) -> TimeViper:
    """A preset with random weights, made in its own precision where it runs.

    Made in float32 first, each weight would lie in twice the room that it needs, and a small share
    of the device would be full of holes.
    """
    with torch.device("meta"):
        model = TimeViper(preset(name)).to(dtype)
    model = model.to_empty(device=device).eval().requires_grad_(requires_grad=False)
    generator = torch.Generator(device).manual_seed(0)
    for part in (model.vision, model.projector):
        for place, weight in part.named_parameters():
            if weight.dim() > 1:
                weight.normal_(0.0, 0.02, generator=generator)
            else:
                weight.fill_(float("norm" in place and place.endswith("weight")))
    init_decoder(model.decoder, generator)
    return model


def say(name: str, value: object) -> None:
    """Print at once, with the time."""
    print(f"{time.perf_counter() - BEGAN:7.1f} {name}: {value}", flush=True)


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of some work, the device waited for, and its result."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    began = time.perf_counter()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, found


def peak() -> float:
    """GiB since the last call."""
    if not torch.cuda.is_available():
        return 0.0
    found = torch.cuda.max_memory_allocated() / GIB
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    return found


def lying(encoded: EncodedVideo) -> dict[str, float]:
    """GiB of keys and values by where they lie."""
    found: dict[str, float] = {}
    for memory in encoded.state.memories:
        if isinstance(memory, AttentionMemory):
            place = memory.k.device.type + (" pinned" if memory.k.is_pinned() else "")
            found[place] = found.get(place, 0.0) + 2 * memory.k.nbytes / GIB
    return found


@torch.inference_mode()
def read(encoder: VideoEncoder, plan: PromptPlan, frames: int) -> EncodedVideo:
    """Random vision tokens through the decoder, in the engine's chunks and with its room."""
    config, size = encoder.model.config, encoder.chunks.chunk_frames
    shape = (size, config.tokens_per_frame, config.decoder.hidden_size)
    generator = torch.Generator(encoder.device).manual_seed(1)
    vision = torch.randn(shape, device=encoder.device, dtype=encoder.dtype, generator=generator)
    nothing = encoder.encode_nothing(plan)
    state = nothing.state
    for start in range(0, frames, size):
        count = min(size, frames - start)
        tokens = plan.clip_tokens(np.arange(count, dtype=np.float64), first_frame_index=start)
        before, state = state, encoder.read(tokens, vision[:count].roll(start // size), state)
        if start == 0:
            room = in_host if encoder.keys_in_host else None
            state = state.reserve(frames / count, 1024, since=before, room=room)
    times = np.arange(frames, dtype=np.float64)
    return replace(nothing, state=state, times=times, duration_seconds=float(frames))


@torch.inference_mode()
def scores(encoder: VideoEncoder, encoded: EncodedVideo, plan: PromptPlan) -> torch.Tensor:
    """Of the first token of an answer."""
    suffix = encoder.suffix(plan, duration_seconds=60.0, num_frames=encoded.frames)
    return encoder.open_answer(encoded, suffix).logits.float()


@torch.inference_mode()
def steps(encoder: VideoEncoder, encoded: EncodedVideo, plan: PromptPlan) -> dict[str, float]:
    """Milliseconds a token by the usual call and by a graph, and how far their scores are apart."""
    suffix = encoder.suffix(plan, duration_seconds=60.0, num_frames=encoded.frames)
    opened = encoder.open_answer(encoded, suffix)
    usual = UsualSteps(encoder.model, [opened])
    spent = [timed(lambda: usual.advance([7]))[0] for _ in range(6)]
    found = {"usual_ms": 1e3 * min(spent)}
    if encoder.device.type != "cuda":
        return found
    runner = Runners().runner(encoder.model.decoder, [opened], most=64)
    spent = [timed(lambda: runner.step([7]))[0] for _ in range(6)]
    apart = distance(runner.logits.float(), usual.logits.float())
    return found | {"graph_ms": 1e3 * min(spent), "apart": apart}


def forecast(load: Load) -> dict[str, float]:
    """GiB that the planner foresees."""
    told = load.forecast
    found = {"prefill": told.prefill_peak, "question": told.question_peak, "host": told.host_bytes}
    return {name: count / GIB for name, count in found.items()}


def decoder_alone(engine: Engine, plan: PromptPlan, frames: int) -> dict[str, Any]:
    """Keys on the device against keys in host memory: scores, seconds, peaks."""
    here = engine.encoder
    there = VideoEncoder(here.model, here.processor, chunks=here.chunks, keys_in_host=True)
    load = engine.gate.load(plan, np.arange(float(frames)))
    alone = replace(load, setting=replace(load.setting, tower=False))
    weights = alone.forecast.parts["weights"]
    every = (*here.model.parameters(), *here.model.buffers())
    chunk = here.chunks.chunk_frames * here.model.config.tokens_per_frame
    vision = 2 * chunk * here.model.config.decoder.hidden_size * here.dtype.itemsize
    # Beside the decoder lie the tower, idle modules, and this benchmark's own vision tokens.
    beside = sum(t.nbytes for t in every) - weights + vision
    found: dict[str, Any] = {"frames": frames}
    got: list[torch.Tensor] = []
    for name, encoder, told in (
        ("device", here, alone),
        ("host", there, load_in_host(alone)),
    ):
        read(encoder, plan, 2 * encoder.chunks.chunk_frames)
        peak()
        spent, encoded = timed(lambda encoder=encoder: read(encoder, plan, frames))
        row: dict[str, Any] = {"prefill_s": spent, "prefill_peak_gib": peak() - beside / GIB}
        row |= {"lies": lying(encoded), "forecast_gib": forecast(told)}
        row["question_s"] = [
            timed(lambda e=encoder, v=encoded: scores(e, v, plan))[0] for _ in range(3)
        ]
        row["question_peak_gib"] = peak() - (beside - vision) / GIB
        got.append(scores(encoder, encoded, plan).cpu())
        # An engine of its own keeps no buffers of the other's answers.
        other = Engine(engine.model, engine.processor)
        row["answer_s"] = [
            timed(lambda o=other, v=encoded: o.ask(v, QUESTION, SHORT))[0] for _ in range(3)
        ]
        row["answer_tokens"] = other.ask(encoded, QUESTION, SHORT).tokens
        row["steps"] = steps(encoder, encoded, plan)
        found[name] = row
        say(name, row)
        del encoded, other
    found["scores_differ_by"] = distance(got[1], got[0])
    say("scores differ by", found["scores_differ_by"])
    if not found["scores_differ_by"] <= ROUNDING:
        raise SystemExit("refused: keys in host memory give other scores")
    return found


def squeezed(model: TimeViper, engine: Engine, plan: PromptPlan, frames: int) -> dict[str, Any]:
    """A small share of the device: changed aloud, refused in numbers, survived."""
    pixels = np.random.default_rng(0).integers(
        0, 256, (16, *2 * (model.config.vision.image_size,), 3), dtype=np.uint8
    )
    film = [pixels[n % 16] for n in range(frames)]
    load = engine.gate.load(plan, np.arange(float(frames)))
    found: dict[str, Any] = {"frames": frames, "forecast_gib": forecast(load)}
    spent, encoded = timed(lambda: engine.encode(film))
    found |= {"as_it_is_s": spent, "peak_gib": peak()}
    say("as it is", found)
    if not torch.cuda.is_available():
        return found
    total = torch.cuda.mem_get_info()[1]
    dropping = model.config.decoder.transfer
    # Two forecasts only: each takes a second or two.
    chunked = list(rungs(load, degrade=Degrade.SAME_ANSWERS, dropping=None, host=False))
    small = chunked[-1].load.forecast.reserved
    tight = load_in_host(chunked[-1].load).forecast.reserved
    say("foreseen", {"smallest chunks": small / GIB, "and keys in host memory": tight / GIB})
    del encoded
    for degrade in (Degrade.SAME_ANSWERS, Degrade.ANY):
        limited = Engine(
            engine.model, engine.processor, limits=Limits(degrade=degrade), dropping=dropping
        )
        # A little less than the smallest chunks alone would take; or hardly more.
        share = (tight + small) // 2 if degrade is Degrade.SAME_ANSWERS else small
        peak()
        torch.cuda.set_per_process_memory_fraction((share + 2**28) / total)
        try:
            spent, encoded = timed(lambda e=limited: e.encode(film))
            answer = limited.ask(encoded, QUESTION, SHORT)
            row = {"allowed_gib": share / GIB, "seconds": spent, "peak_gib": peak()}
            row |= {"lies": lying(encoded), "notes": answer.notes, "tokens": answer.tokens}
            del encoded
        except CapacityError as error:
            row = {"allowed_gib": share / GIB, "refused": str(error)}
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        found[f"squeezed, {degrade}"] = row
        say(f"squeezed, {degrade}", row)
    return found | running_out(engine, film, total)


@torch.inference_mode()
def eyes(engine: Engine) -> list[dict[str, float]]:
    """Tower and projector by frames a batch: foreseen and measured GiB, frames a second."""
    encoder, config = engine.encoder, engine.model.config
    found: list[dict[str, float]] = []
    for batch in (64, 128):
        shape = (batch, *2 * (config.vision.image_size,), 3)
        frames = torch.randint(0, 256, shape, dtype=torch.uint8, device=encoder.device)
        encoder.look(frames)
        peak()
        held = torch.cuda.memory_allocated()
        spent = min(timed(lambda f=frames: encoder.look(f))[0] for _ in range(3))
        told = tower_bytes(config, batch, dtype=encoder.dtype, device_type="cuda")
        row = {"batch": batch, "frames_a_second": batch / spent}
        row |= {"forecast_gib": told / GIB, "measured_gib": peak() - held / GIB}
        found.append(row)
        say("eyes", row)
    return found


def running_out(engine: Engine, film: list[np.ndarray], total: int) -> dict[str, Any]:
    """Hardly any room left when a question comes: survived or told, and the video is kept."""
    encoded = engine.encode(film)
    want = engine.ask(encoded, QUESTION, SHORT)
    found: dict[str, Any] = {}
    for spare in (2**20, 2**26, 2**28, 2**29):
        # A new one keeps nothing of the answer before.
        engine = Engine(engine.model, engine.processor)
        peak()
        share = torch.cuda.memory_reserved() + spare
        torch.cuda.set_per_process_memory_fraction(share / total)
        try:
            answer = engine.ask(encoded, QUESTION, SHORT)
            row = {"tokens": answer.tokens, "same": answer.text == want.text}
            row["notes"] = [note for note in answer.notes if "memory" in note]
        except CapacityError as error:
            row = {"refused": str(error)}
        finally:
            torch.cuda.set_per_process_memory_fraction(1.0)
        found[f"{spare // 2**20} MiB spare"] = row
        say(f"{spare // 2**20} MiB spare", row)
    again = engine.ask(encoded, QUESTION, SHORT)
    found["kept"] = again.text == want.text
    say("kept", found["kept"])
    return {"running_out": found}


def main() -> None:
    """Check, measure, save."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=10_240)
    parser.add_argument("--video", type=int, default=1_280)
    parser.add_argument("--parts", nargs="+", default=["decoder", "eyes", "engine"])
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--out", type=Path)
    wishes = parser.parse_args()
    name = "tiny-transv" if wishes.toy else "nano-9b-v2-transv"
    device, dtype = ("cpu", torch.float32) if wishes.toy else ("cuda", torch.bfloat16)
    model = whole_model(name, device=device, dtype=dtype)
    model.decoder.warm()
    say("model made", name)
    # Dropping is switched off, as by --no-transv: there are more keys to move.
    plain = under_plan(model, TransferPlan())
    engine = Engine(plain, processor_of(model))
    plan = engine.processor.plan_question(QUESTION, video=VideoPart(source="video"))
    frames, video = (300, 60) if wishes.toy else (wishes.frames, wishes.video)
    record: dict[str, Any] = {"model": name}
    try:
        if "decoder" in wishes.parts:
            record["decoder"] = decoder_alone(engine, plan, frames)
        if "eyes" in wishes.parts and not wishes.toy:
            record["eyes"] = eyes(engine)
        if "engine" in wishes.parts:
            record["engine"] = squeezed(model, engine, plan, video)
    finally:
        save(record, wishes.out)


if __name__ == "__main__":
    main()
