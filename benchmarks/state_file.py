"""Time saving, loading and asking a state file of an hour; size and error of each compression.

    python -m benchmarks.state_file [--model tiny] [--frames 3600] [--rounds 5] [--json]

Refuses to print figures when scores on the loaded state differ by a bit from those in memory.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import torch

from benchmarks.videos import make_hour
from timeviper.inference.engine import Engine
from timeviper.inference.files.compress import Compress
from timeviper.inference.identity import identify
from timeviper.inference.prefill import EncodedVideo, decode_size
from timeviper.inference.request import AskOptions
from timeviper.inference.state_file import SaveOptions, load_state, save_state
from timeviper.inference.state_info import verify_file
from timeviper.inference.viewing import forecast_bytes, key_of, view
from timeviper.processing.messages import VideoPart
from timeviper.video.clips import available_cores, iterate_clips
from timeviper.video.fingerprint import PixelChain

QUESTIONS = (
    "When does the cat appear?",
    "Does the rocket appear?",
    "What is on screen at 00:30?",
    "Which appears first, the cat or the wolf?",
)


def median(rounds: int, work: Callable[[], object]) -> float:
    """Median seconds of a piece of work.

    Args:
        rounds: how often it is done.
        work: what is done.
    """
    spent = []
    for _ in range(rounds):
        start = time.perf_counter()
        work()
        spent.append(time.perf_counter() - start)
    return statistics.median(spent)


def scores(engine: Engine, encoded: EncodedVideo) -> torch.Tensor:
    """Scores of the first answer token of each question.

    Args:
        engine: model and processor.
        encoded: what is asked.

    Returns:
        One row a question.
    """
    rows = []
    for question in QUESTIONS:
        plan = engine.processor.plan_question(question, video=VideoPart(source="video"))
        suffix = engine.encoder.suffix(
            plan, duration_seconds=encoded.duration_seconds, num_frames=encoded.frames
        )
        rows.append(engine.encoder.open_answer(encoded, suffix).logits)
    return torch.cat(rows)


def compressed(
    engine: Engine, encoded: EncodedVideo, folder: Path, rounds: int
) -> list[dict[str, object]]:
    """Size, seconds and error of each way to store a video.

    Args:
        engine: that read it.
        encoded: the video.
        folder: for the files.
        rounds: repetitions.

    Returns:
        One record a way; the first one is exact or the program ends.
    """
    want = scores(engine, encoded)
    texts = [engine.ask(encoded, question).text for question in QUESTIONS]
    found = []
    for way in Compress:
        path, options = folder / f"{way}.tvstate", SaveOptions(compress=way)
        save = median(rounds, lambda: save_state(encoded, path, engine.encoder, options))  # noqa: B023
        load = median(rounds, lambda: load_state(path, engine.encoder))  # noqa: B023
        lazy = median(rounds, lambda: load_state(path, engine.encoder, verify=False))  # noqa: B023
        loaded = load_state(path, engine.encoder)
        got = scores(engine, loaded)
        error = float((got - want).norm() / want.norm())
        if way is Compress.NONE and not torch.equal(got, want):
            raise SystemExit(f"scores on the loaded state differ by {error:.2g}: no figures")
        same = sum(engine.ask(loaded, q).text == t for q, t in zip(QUESTIONS, texts, strict=True))
        found.append(
            {
                "compress": way.value,
                "bytes": path.stat().st_size,
                "save": save,
                "load_verified": load,
                "load": lazy,
                "error": error,
                "same_answers": f"{same} of {len(QUESTIONS)}",
            }
        )
    return found


def pixel_seconds(engine: Engine, video: Path, rounds: int) -> float:
    """Seconds that the chain over pixels takes for one frame of the size the tower reads.

    Args:
        engine: its processor says the size.
        video: the file.
        rounds: repetitions.
    """
    source = view(video, engine.encoder, AskOptions()).source
    size = decode_size(source.info, engine.processor.image)
    frames = next(iterate_clips(source, [float(n) for n in range(64)], size=size)).frames
    return median(rounds, lambda: PixelChain().add(frames)) / len(frames)


def process_seconds(words: list[str]) -> float:
    """Wall-clock seconds of the program from start to end.

    Args:
        words: of its command line.
    """
    start = time.perf_counter()
    run = [sys.executable, "-m", "timeviper", *words]
    subprocess.run(run, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def measure(model: str, frames: int, rounds: int, folder: Path) -> dict[str, object]:
    """Make the video, read it, and time everything about its file.

    Args:
        model: name or folder.
        frames: how many seconds of the video are read.
        rounds: repetitions of what is short.
        folder: for the files.
    """
    video, look = folder / "hour.mp4", AskOptions(end=float(frames))
    make_hour(video, seconds=frames)
    engine = Engine.load(model, device="cpu")
    start = time.perf_counter()
    encoded = engine.encode(video, look)
    read = time.perf_counter() - start
    ways = compressed(engine, encoded, folder, rounds)
    exact = folder / "none.tvstate"
    viewing = view(video, engine.encoder, look)
    loaded = load_state(exact, engine.encoder)
    return {
        "cores": available_cores(),
        "cpu": platform.processor() or platform.machine(),
        "torch": torch.__version__,
        "load_average": os.getloadavg()[0],
        "frames": encoded.frames,
        "state_bytes": encoded.nbytes,
        "read": read,
        "forecast": forecast_bytes(viewing, engine.encoder) / exact.stat().st_size,
        "ways": ways,
        "verify": median(rounds, lambda: verify_file(exact)),
        "identity": median(rounds, lambda: identify(engine.model, engine.processor)),
        "key": median(rounds, lambda: key_of(viewing, engine.encoder)),
        "video_bytes": video.stat().st_size,
        "pixels_a_frame": pixel_seconds(engine, video, rounds),
        "question_in_memory": median(rounds, lambda: engine.ask(encoded, QUESTIONS[0])),
        "question_on_file": median(rounds, lambda: engine.ask(loaded, QUESTIONS[0])),
        "process": process_seconds(["ask", str(exact), QUESTIONS[0], "--model", model]),
    }


def report(found: dict[str, object]) -> str:
    """The figures as Markdown.

    Args:
        found: what `measure` returned.
    """
    lines = [
        f"{found['cpu']}, {found['cores']} cores, load {found['load_average']:.1f}, "
        f"torch {found['torch']}; {found['frames']:,} frames, state of "
        f"{found['state_bytes'] / 1e6:.1f} MB",
        "",
        "| stored as | file | of the exact | save | load, hashed | load, lazy | error of scores "
        "| same answers |",
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    whole = found["ways"][0]["bytes"]
    for way in found["ways"]:
        lines.append(
            f"| {way['compress']} | {way['bytes'] / 1e6:.1f} MB | {way['bytes'] / whole:.2f} "
            f"| {way['save'] * 1e3:.0f} ms | {way['load_verified'] * 1e3:.0f} ms "
            f"| {way['load'] * 1e3:.1f} ms | {way['error']:.1e} | {way['same_answers']} |"
        )
    rows = [
        ("reading the video", f"{found['read']:.1f} s"),
        ("forecast of the file over the file", f"{found['forecast']:.3f}"),
        ("hash of every byte of the file", f"{found['verify'] * 1e3:.0f} ms"),
        ("identity: hash of weights, config, processor", f"{found['identity'] * 1e3:.0f} ms"),
        (
            f"key of a video file of {found['video_bytes'] / 1e6:.0f} MB",
            f"{found['key'] * 1e3:.0f} ms",
        ),
        ("chain over pixels, a frame", f"{found['pixels_a_frame'] * 1e6:.0f} µs"),
        (
            "that, of reading the video",
            f"{found['pixels_a_frame'] * found['frames'] / found['read']:.2%}",
        ),
        ("a question on the state in memory", f"{found['question_in_memory']:.2f} s"),
        ("a question on the loaded file", f"{found['question_on_file']:.2f} s"),
        ("`timeviper ask FILE`, the whole process", f"{found['process']:.2f} s"),
    ]
    table = ["", "| | |", "|---|--:|", *(f"| {name} | {got} |" for name, got in rows)]
    return "\n".join([*lines, *table])


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="tiny")
    parser.add_argument("--frames", type=int, default=3600)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(options.model, options.frames, options.rounds, Path(name))
    print(json.dumps(found) if options.json else report(found))


if __name__ == "__main__":
    main()
