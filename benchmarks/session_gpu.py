"""A camera's frames appended one by one behind a long video of the 9B model; random weights.

    python -m benchmarks.session_gpu [--frames 10240] [--out FILE] [--toy]

What stands before the camera is random vision tokens, what the camera shows passes the tower.
Refuses to print figures when one by one differs from all at once, or a fork or a way back from
what never branched, by more than the order of sums explains.
"""

from __future__ import annotations

import argparse
import statistics
from pathlib import Path

import numpy as np
import torch

from benchmarks.gpu import distance, save
from benchmarks.state_file_gpu import MOST_ERROR, encode, encoder_of, scores, seconds
from timeviper.inference.engine import Engine
from timeviper.inference.request import AskOptions
from timeviper.inference.session import Session
from timeviper.processing.messages import VideoPart

SHOWN = 8
# In bfloat16 a cut rounds differently, and of tokens that rank alike others are kept.
MOST_CUTS_ERROR = 0.1
QUESTIONS = ("What happens?", "When does the cat appear?", "How many people are there?", "Where?")


def check(name: str, got: torch.Tensor, want: torch.Tensor, most: float) -> float:
    """Relative error, told; too large ends the run."""
    error = distance(got, want)
    print(f"{name}: relative error {error:.3g}, equal {torch.equal(got, want)}", flush=True)
    if error > most:
        raise SystemExit(f"{name} differ by {error:.2g}")
    return error


def measure(engine: Engine, frames: int) -> dict[str, object]:
    """All figures behind a video of so many frames."""
    encoder, side = engine.encoder, engine.processor.image.size
    plan = engine.processor.plan_question(QUESTIONS[0], video=VideoPart(source="video"))
    draws = np.random.default_rng(0)
    film = draws.integers(0, 256, (SHOWN, side, side, 3), dtype=np.uint8)
    session = Session.of(engine, encode(encoder, plan, frames), AskOptions(fps=1.0))
    aside = session.fork()
    times = frames + np.arange(SHOWN, dtype=np.float64)
    one_by_one = [
        seconds(lambda: session.append(film[n : n + 1], times=times[n : n + 1]))  # noqa: B023
        for n in range(SHOWN)
    ]
    aside.append(film, times=times)
    here, there = (scores(encoder, one.encoded, plan) for one in (session, aside))
    found: dict[str, object] = {
        "frames": frames,
        "append_first": one_by_one[0],
        "append_median": statistics.median(one_by_one[2:]),
        "cuts_error": check("one by one, all at once", here, there, MOST_CUTS_ERROR),
        "state_bytes": session.encoded.nbytes,
        "with_snapshots": session.nbytes,
    }
    brief = AskOptions(max_new_tokens=4)
    session.ask_many(QUESTIONS, brief)
    found["ask_four"] = seconds(lambda: session.ask_many(QUESTIONS, brief))
    found["append_after_ask"] = seconds(lambda: session.append(film[:1], times=times[-1:] + 1))
    found["rewind"] = seconds(lambda: session.rewind(1.0))
    found["back_error"] = check(
        "gone back, never gone on", scores(encoder, session.encoded, plan), here, MOST_ERROR
    )
    found["append_after_rewind"] = seconds(lambda: session.append(film[:1], times=times[-1:] + 1))
    check("the other side", scores(encoder, aside.encoded, plan), there, MOST_ERROR)
    if torch.cuda.is_available():
        found["peak_gib"] = torch.cuda.max_memory_allocated() / 2**30
    return found


def main() -> None:
    """Measure one length and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--frames", type=int, default=10_240)
    parser.add_argument("--model", default="nano-9b-v2-transv")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--toy", action="store_true", help="the tiny model, on a CPU")
    args = parser.parse_args()
    name, device = ("tiny-transv", "cpu") if args.toy else (args.model, "cuda")
    encoder = encoder_of(name, device)
    engine = Engine(encoder.model, encoder.processor)
    found = measure(engine, 96 if args.toy else args.frames)
    save({"model": name, **found}, args.out)


if __name__ == "__main__":
    main()
