"""Read an hour of 720p video to 10,240 frames on one GPU: each stage alone, and all at once.

    python -m benchmarks.pipeline_gpu [--model NAME[:fp8] ...] [--toy] [--out F]

The video is drawn and encoded here, and decoded alone once. Weights are random, at true dimensions.
Refuses to print figures when the same frames, looked at and read without a pipeline, give others.
"""

from __future__ import annotations

import argparse
import gc
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.gpu import distance, machine, random_model, save
from recipes.train_tokenizer import build
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.model.linear import quantize_
from timeviper.model.vision.fp8 import quantize_tower_
from timeviper.processing.image import ImageConfig
from timeviper.processing.messages import VideoPart
from timeviper.processing.processor import Processor, ProcessorConfig
from timeviper.processing.prompt import PromptPlan
from timeviper.synth import catalogue, questions
from timeviper.video.base import VideoSource
from timeviper.video.clips import available_cores
from timeviper.video.sampling import Sampling
from timeviper.video.source import open_video

FRAMES, SECONDS, SIZE, LOOP = 10_240, 3600, (720, 1280), 10
GOAL = 1.15
# One chunk of the decoder and a bit; kernels that add in another order may differ a little.
CHECK_FRAMES, CHECK_ERROR = 640, 0.05
QUESTION = "When does the cat appear?"
Found = dict[str, Any]


def processor_of(model: Any) -> Processor:
    """Tokenizer and pictures for a model with random weights."""
    config = model.config
    return Processor(
        build(questions.texts(), [thing.name for thing in catalogue.things()]),
        image=ImageConfig(size=config.vision.image_size),
        config=ProcessorConfig(template="tiny", tokens_per_frame=config.tokens_per_frame),
    )


def timed(work: Callable[[], Any]) -> tuple[float, Any]:
    """Seconds of some work, the device waited for, and its result."""
    began = time.perf_counter()
    found = work()
    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.perf_counter() - began, found


def moments(source: VideoSource, frames: int, first: int | None = None) -> Sampling:
    """So many moments, evenly over the whole video; or the first of them."""
    times = np.arange(frames) * (source.info.duration_seconds / frames)
    return Sampling(times[:first])


def decode_alone(encoder: VideoEncoder, source: VideoSource, frames: int) -> int:
    """Decode and drop."""
    with closing(encoder.clips(source, moments(source, frames))) as clips:
        return sum(len(clip.asked) for clip in clips)


def look_alone(encoder: VideoEncoder, frames: int) -> None:
    """The tower over frames that lie on the device."""
    side, batch = encoder.processor.image.size, encoder.chunks.batch_frames
    shape = (batch, side, side, 3)
    there = torch.randint(0, 256, shape, dtype=torch.uint8, device=encoder.device)
    for _ in range(-(-frames // batch)):
        encoder.look(there)


def read_alone(encoder: VideoEncoder, plan: PromptPlan, frames: int) -> None:
    """The decoder over vision tokens that lie on the device."""
    config, size = encoder.model.config, encoder.chunks.chunk_frames
    shape = (size, config.tokens_per_frame, config.decoder.hidden_size)
    vision = torch.randn(shape, device=encoder.device, dtype=encoder.dtype)
    state = encoder.read(plan.prefix, None, None)
    for start in range(0, frames, size):
        count = min(size, frames - start)
        tokens = plan.clip_tokens(np.arange(count, dtype=np.float64), first_frame_index=start)
        before, state = state, encoder.read(tokens, vision[:count], state)
        if start == 0:
            with torch.inference_mode():
                state = state.reserve(frames / count, 1024, since=before)


def scores(encoder: VideoEncoder, encoded: EncodedVideo, plan: PromptPlan) -> torch.Tensor:
    """Of the first token of an answer."""
    suffix = encoder.suffix(
        plan, duration_seconds=encoded.duration_seconds, num_frames=encoded.frames
    )
    return encoder.open_answer(encoded, suffix).logits.float()


def check(encoder: VideoEncoder, source: VideoSource, plan: PromptPlan, frames: int) -> float:
    """The same first frames without a pipeline give the same scores; ends the program when not.

    It also warms up: kernels are compiled.
    """
    sampling = moments(source, frames, first=CHECK_FRAMES)
    frames = len(sampling.times)
    encoded = encoder.encode(source, plan, sampling)
    with closing(encoder.clips(source, sampling)) as clips:
        pixels = np.concatenate([clip.frames for clip in clips])
    vision = encoder.look(encoder.processor.squares(pixels).to(encoder.device))
    state = encoder.read(plan.prefix, None, None)
    for start in range(0, frames, encoder.chunks.chunk_frames):
        part = slice(start, min(frames, start + encoder.chunks.chunk_frames))
        tokens = plan.clip_tokens(sampling.times[part], first_frame_index=start)
        state = encoder.read(tokens, vision[part], state)
    plain = scores(encoder, replace(encoded, state=state), plan)
    error = distance(scores(encoder, encoded, plan), plain)
    if not error <= CHECK_ERROR:
        raise SystemExit(f"scores differ by {error:.2g} from those without a pipeline: no figures")
    return error


def measure(encoder: VideoEncoder, path: Path, frames: int, decode_s: float | None) -> Found:
    """Each stage alone, then everything; prints as it goes."""
    plan = encoder.processor.plan_question(QUESTION, video=VideoPart(source=str(path)))
    found: Found = {}

    def tell(name: str, value: object) -> None:
        found[name] = value
        print(f"{time.perf_counter() - BEGAN:7.1f} {name}: {value}", flush=True)

    spent, source = timed(lambda: open_video(path))
    tell("open_s", spent)
    tell("file", {"bytes": path.stat().st_size, "frames": source.info.num_frames})
    tell("error", check(encoder, source, plan, frames))
    if encoder.device.type == "cuda":
        torch.cuda.reset_peak_memory_stats()
    spent, encoded = timed(lambda: encoder.encode(source, plan, moments(source, frames)))
    tell("whole_s", spent)
    tell("of_it", encoded.timing.to_dict())
    if encoder.device.type == "cuda":
        tell("peak_gib", torch.cuda.max_memory_allocated() / 2**30)
    tell("decode_s", decode_s or timed(lambda: decode_alone(encoder, source, frames))[0])
    tell("tower_s", timed(lambda: look_alone(encoder, frames // 4))[0] * 4)
    tell("decoder_s", timed(lambda: read_alone(encoder, plan, frames))[0])
    slowest = max(found["tower_s"], found["decoder_s"], found["decode_s"])
    gpu = found["tower_s"] + found["decoder_s"]
    tell("over_slowest_stage", spent / slowest)
    # Tower and decoder share one GPU: no order of work is faster than both after each other.
    tell("over_slowest_resource", spent / max(gpu, found["decode_s"]))
    tell("question_s", [timed(lambda: scores(encoder, encoded, plan))[0] for _ in range(3)])
    return found


BEGAN = time.perf_counter()


def main() -> None:
    """Make the video and the models, measure, keep the record."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", default=["nano-9b-v2", "nano-9b-v2-transv"])
    parser.add_argument("--frames", type=int, default=FRAMES)
    parser.add_argument("--seconds", type=int, default=SECONDS, help="length of the video")
    parser.add_argument("--toy", action="store_true", help="a small model and video, on a CPU")
    parser.add_argument("--out", type=Path)
    options = parser.parse_args()
    frames, seconds = (300, 120) if options.toy else (options.frames, options.seconds)
    size = (90, 160) if options.toy else SIZE
    record: Found = {"frames": frames, "seconds": seconds, "size": size, "goal": GOAL}
    record |= {"cores": available_cores(), "runs": []}
    decode_s: float | None = None
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "hour.mp4"
        # In a process of its own, while the first model is made.
        task = (
            f"make_hour(Path({str(path)!r}), seconds={seconds}, size={size}, loop_seconds={LOOP})"
        )
        head = "from pathlib import Path; from benchmarks.videos import make_hour; "
        drawing = subprocess.Popen([sys.executable, "-c", head + task])
        for name in ["tiny-transv"] if options.toy else options.model:
            encoder = make_encoder(name, device="cpu" if options.toy else "cuda")
            if drawing.wait():
                raise SystemExit("no video could be made: no figures")
            print(f"{time.perf_counter() - BEGAN:7.1f} reading with {name}", flush=True)
            found = measure(encoder, path, frames, decode_s)
            decode_s = found["decode_s"]
            record["runs"].append({"model": name, **found})
            del encoder
            gc.collect()
    save(record, options.out)


def make_encoder(name: str, *, device: str) -> VideoEncoder:
    """A model with random weights, ready to read videos; `NAME:fp8` has FP8 products."""
    preset, _, precision = name.partition(":")
    dtype = torch.float32 if device == "cpu" else torch.bfloat16
    model = random_model(preset, device=device, dtype=dtype)
    if precision == "fp8":
        quantize_(model.decoder.layers)
        quantize_tower_(model.vision)
    encoder = VideoEncoder(model, processor_of(model))
    print(f"{time.perf_counter() - BEGAN:7.1f} {name} made: {machine()}", flush=True)
    return encoder


if __name__ == "__main__":
    main()
