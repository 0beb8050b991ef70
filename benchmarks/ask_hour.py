"""Time a question about an hour of video, and what memory adds for 10,240 frames, from cold start.

    python -m benchmarks.ask_hour [--json] [--model tiny] [--rounds 1]

Each run is a process of its own. Without a bundled model, one of the same size with random
weights is asked. Refuses to print figures when an answer's scores differ from one plain run.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import torch

from benchmarks.videos import make_hour
from recipes.train_tokenizer import build
from timeviper.core.inputs import ModelInputs
from timeviper.inference.engine import Engine
from timeviper.inference.prefill import VideoEncoder
from timeviper.inference.request import AskOptions
from timeviper.model.init import init_decoder, init_linear
from timeviper.model.presets import preset
from timeviper.model.vlm import TimeViper
from timeviper.processing.image import ImageConfig
from timeviper.processing.messages import VideoPart
from timeviper.processing.processor import Processor, ProcessorConfig
from timeviper.processing.prompt import TimePrompt
from timeviper.synth import catalogue, questions
from timeviper.video.clips import available_cores, iterate_clips
from timeviper.video.sampling import SamplingPolicy, sample_times
from timeviper.video.source import open_video
from timeviper.weights.folders import bundled
from timeviper.weights.native import save_model

HOUR, LONG = 3600, 10_240
GOAL_SECONDS, GOAL_BYTES, GOAL_GROWTH_BYTES = 60.0, 2 * 2**30, 300 * 2**20
QUESTIONS = ("When does the cat appear?", "Does the rocket appear?")
CHECK_FRAMES, CHECK_ERROR = 200, 1e-4


def save_stand_in(folder: Path) -> None:
    """Write a checkpoint of the shipped model's size with random weights.

    Args:
        folder: where to.
    """
    config = preset("tiny-transv")
    generator = torch.Generator().manual_seed(0)
    torch.manual_seed(0)
    model = TimeViper(config)
    for part in (model.vision, model.projector):
        init_linear(part, 0.05, generator)
    init_decoder(model.decoder, generator)
    save_model(model, folder)
    Processor(
        build(questions.texts(), [thing.name for thing in catalogue.things()]),
        image=ImageConfig(size=config.vision.image_size),
        config=ProcessorConfig(
            template="tiny",
            tokens_per_frame=config.tokens_per_frame,
            time_prompt=TimePrompt.INTERLEAVED,
        ),
    ).save(folder)


@torch.inference_mode()
def plain_scores(engine: Engine, video: Path, frames: int) -> torch.Tensor:
    """Scores of the first answer token from one call of the model over the whole prompt.

    Args:
        engine: model and processor.
        video: the file.
        frames: how many of its first seconds are shown.

    Returns:
        One row of scores.
    """
    source = open_video(video)
    sampling = sample_times(source.info.duration_seconds, SamplingPolicy(end=float(frames)))
    side = engine.processor.image.size
    clips = list(iterate_clips(source, sampling.times, size=(side, side)))
    pixels = engine.processor.pixels(np.concatenate([clip.frames for clip in clips]))
    plan = engine.processor.plan_question(QUESTIONS[0], video=VideoPart(source=str(video)))
    tokens = plan.whole(sampling.times, duration_seconds=source.info.duration_seconds)
    inputs = ModelInputs(
        token_ids=torch.from_numpy(tokens.ids),
        layout=tokens.layout,
        pixels=pixels,
        times=sampling.times,
    )
    hidden = engine.model(inputs)[0].hidden
    return engine.model.decoder.logits(hidden[-1:])


def check(model: str, video: Path) -> float:
    """Compare clip-wise reading with one plain run; end the program when they differ.

    Args:
        model: name or folder.
        video: the file.

    Returns:
        Largest difference relative to the size of the scores.
    """
    engine = Engine.load(model, device="cpu")
    encoder = VideoEncoder(engine.model, engine.processor)
    encoded = engine.encode(video, AskOptions(end=float(CHECK_FRAMES)))
    plan = engine.processor.plan_question(QUESTIONS[0], video=VideoPart(source=str(video)))
    suffix = encoder.suffix(
        plan, duration_seconds=encoded.duration_seconds, num_frames=encoded.frames
    )
    got = encoder.open_answer(encoded, suffix).logits
    want = plain_scores(engine, video, CHECK_FRAMES)
    error = float((got - want).norm() / want.norm())
    if not error <= CHECK_ERROR:
        raise SystemExit(f"scores differ from one plain run by {error:.2g}: no figures")
    return error


def ask_once(model: str, video: Path, frames: int) -> dict[str, object]:
    """What a child process does: load, ask about the file, ask once more what was encoded.

    Args:
        model: name or folder.
        video: the file.
        frames: how many of its first seconds are shown.

    Returns:
        Figures of this run; seconds of the whole process are the parent's to tell.
    """
    start = time.perf_counter()
    engine = Engine.load(model, device="cpu")
    loaded = time.perf_counter()
    options = AskOptions(end=float(frames))
    first = engine.ask(video, QUESTIONS[0], options)
    answered = time.perf_counter()
    if first.frames != frames:
        raise SystemExit(f"expected {frames} frames, got {first.frames}: no figures")
    return {
        "load": loaded - start,
        "ask": answered - loaded,
        "stages": first.timing.to_dict(),
        "peak_bytes": first.peak_bytes,
        "answer": first.text,
        "notes": list(first.notes),
    }


def ask_again(model: str, video: Path, frames: int) -> dict[str, object]:
    """What another child does: encode once, then ask twice.

    Args:
        model: name or folder.
        video: the file.
        frames: how many of its first seconds are shown.

    Returns:
        Seconds of each question, bytes of the state.
    """
    engine = Engine.load(model, device="cpu")
    encoded = engine.encode(video, AskOptions(end=float(frames)))
    seconds = [engine.ask(encoded, question).timing.answer for question in QUESTIONS]
    return {"question_seconds": seconds, "state_bytes": encoded.nbytes, "tokens": encoded.tokens}


def run_child(task: str, model: str, video: Path, frames: int) -> dict[str, object]:
    """Run one task in a fresh process.

    Args:
        task: `once` or `again`.
        model: name or folder.
        video: the file.
        frames: how many of its first seconds are shown.

    Returns:
        What it printed, with wall-clock seconds from start to end of the process.
    """
    command = [sys.executable, "-m", "benchmarks.ask_hour", "--task", task]
    command += ["--model", model, "--video", str(video), "--frames", str(frames)]
    start = time.perf_counter()
    run = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True)
    return {**json.loads(run.stdout), "process": time.perf_counter() - start}


def measure(model: str, folder: Path, rounds: int) -> dict[str, object]:
    """Make the files, check, run every case.

    Args:
        model: name or folder.
        folder: for the files.
        rounds: repetitions of the timed cases.

    Returns:
        All figures.
    """
    hour, long = folder / "hour.mp4", folder / "long.mp4"
    make_hour(hour, seconds=HOUR)
    make_hour(long, seconds=LONG)
    return {
        "machine": {
            "cpu": platform.processor() or platform.machine(),
            "cores": available_cores(),
            "torch": torch.__version__,
        },
        "error": check(model, hour),
        "hour": [run_child("once", model, hour, HOUR) for _ in range(rounds)],
        "long": [run_child("once", model, long, LONG) for _ in range(rounds)],
        "again": run_child("again", model, hour, HOUR),
        "load": os.getloadavg()[0],
    }


def report(found: dict[str, object], model: str) -> str:
    """The figures as lines of Markdown, each with its goal.

    Args:
        found: what `measure` returned.
        model: what was asked.

    Returns:
        A table.
    """
    hours, longs, again = found["hour"], found["long"], found["again"]
    best = min(hours, key=lambda run: run["process"])
    long = min(longs, key=lambda run: run["process"])
    peak = max(run["peak_bytes"] for run in hours)
    growth = max(run["peak_bytes"] for run in longs) - peak
    rows = [
        (f"{HOUR} frames, whole process", f"{best['process']:.1f} s", f"{GOAL_SECONDS:.0f} s"),
        ("of it: load, ask", f"{best['load']:.1f} s, {best['ask']:.1f} s", ""),
        *((f"of ask: {name}", f"{spent:.2f} s", "") for name, spent in best["stages"].items()),
        ("peak memory", f"{peak / 2**20:.0f} MiB", f"{GOAL_BYTES / 2**20:.0f} MiB"),
        (f"{LONG} frames, whole process", f"{long['process']:.1f} s", ""),
        ("growth of peak memory", f"{growth / 2**20:.0f} MiB", f"{GOAL_GROWTH_BYTES / 2**20:.0f}"),
        ("state of the hour", f"{again['state_bytes'] / 2**20:.1f} MiB", ""),
        *(("a question on it", f"{spent:.2f} s", "") for spent in again["question_seconds"]),
        ("scores against one plain run", f"{found['error']:.1e}", f"{CHECK_ERROR:.0e}"),
    ]
    lines = [f"| {name} | {got} | {goal} |" for name, got, goal in rows]
    head = f"model {model}, {found['machine']}, load {found['load']:.1f}"
    return "\n".join([head, "", "| | measured | at most |", "|---|--:|--:|", *lines])


def main() -> None:
    """Run the whole benchmark, or one task of it in a child."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--model", help="name or folder; the bundled tiny when not given")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--task", choices=["once", "again"], help=argparse.SUPPRESS)
    parser.add_argument("--video", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--frames", type=int, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.task:
        task = ask_once if options.task == "once" else ask_again
        print(json.dumps(task(options.model, options.video, options.frames)))
        return
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = options.model or ("tiny" if "tiny" in bundled() else str(folder / "stand-in"))
        if model == str(folder / "stand-in"):
            save_stand_in(Path(model))
        found = measure(model, folder, options.rounds)
    shown = "random weights" if model.endswith("stand-in") else model
    print(json.dumps(found) if options.json else report(found, shown))


if __name__ == "__main__":
    main()
