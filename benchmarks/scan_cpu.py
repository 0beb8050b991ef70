"""Time the chunked scan on a CPU against the torch fallback of transformers in the same run.

    python -m benchmarks.scan_cpu [--json] [--rounds 5] [--threads N] [--tokens 4096 16384]

Same inputs, Nemotron Nano v2 shapes at a quarter of its heads. Refuses to print figures when the
two disagree, when ours is not the float64 oracle, or when its memory is not linear in tokens.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path

import torch
from torch import Tensor
from transformers.models.nemotron_h.modeling_nemotron_h import mamba2_chunk_scan

from timeviper.ops import ssd_reference
from timeviper.ops.ssd import ssd

HEADS, HEAD_DIM, STATE_SIZE, GROUPS = 32, 80, 128, 2
# 128 is what the checkpoints' config says; the other shows whether it could do better.
THEIR_CHUNKS = (128, 64)
GOAL, TOLERANCE = 5.0, 1e-5
MIB = 2**20

Scan = Callable[[], tuple[Tensor, Tensor]]


def draw(tokens: int) -> dict[str, Tensor]:
    """Inputs of one sequence, steps and decays as in an initialised model."""
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator)

    return {
        "x": normal(tokens, HEADS, HEAD_DIM),
        "dt": normal(tokens, HEADS),
        "A": -torch.arange(1.0, HEADS + 1),
        "B": normal(tokens, GROUPS, STATE_SIZE),
        "C": normal(tokens, GROUPS, STATE_SIZE),
        "D": torch.ones(HEADS),
        "dt_bias": torch.full((HEADS,), -4.0),
    }


def ours(inputs: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
    """Our scan as the model calls it."""
    return ssd(**inputs, lengths=[len(inputs["x"])], dt_softplus=True)


def theirs(inputs: dict[str, Tensor], chunk_size: int) -> tuple[Tensor, Tensor]:
    """The fallback of transformers; limits (0, inf), since its mixer would clamp small steps."""
    batched = {n: inputs[n][None] for n in ("x", "dt", "B", "C")}
    y, state = mamba2_chunk_scan(
        batched["x"],
        batched["dt"],
        inputs["A"],
        batched["B"],
        batched["C"],
        chunk_size=chunk_size,
        D=inputs["D"],
        dt_bias=inputs["dt_bias"],
        dt_softplus=True,
        dt_limit=(0.0, float("inf")),
        return_final_states=True,
    )
    return y[0], state


def gap(got: Tensor, want: Tensor) -> float:
    """Relative distance of two results."""
    return float((got.double() - want.double()).norm() / want.double().norm())


def check(got: tuple[Tensor, Tensor], want: tuple[Tensor, Tensor], what: str) -> float:
    """Stop when outputs or states differ; return the larger distance."""
    error = max(gap(a, b) for a, b in zip(got, want, strict=True))
    if not error <= TOLERANCE:
        raise SystemExit(f"refused: {what} differ by {error:.2e}, allowed {TOLERANCE:.0e}")
    return error


def best_seconds(scans: dict[str, Scan], rounds: int) -> dict[str, tuple[float, float]]:
    """Least (wall, processor) seconds; turns alternate so that all meet the same machine."""
    best = dict.fromkeys(scans, (float("inf"), float("inf")))
    for _ in range(rounds):
        for name, scan in scans.items():
            began, worked = time.perf_counter(), time.process_time()
            scan()
            spent = time.perf_counter() - began, time.process_time() - worked
            best[name] = min(best[name][0], spent[0]), min(best[name][1], spent[1])
    return best


def peak_growth(name: str, tokens: int) -> int:
    """Bytes that one call adds to the peak of a fresh process (outputs and temporaries)."""
    command = [sys.executable, "-m", "benchmarks.scan_cpu", "--measure", name]
    command += ["--tokens", str(tokens), "--threads", str(torch.get_num_threads())]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return int(done.stdout.split()[-1])


def measure(name: str, tokens: int) -> int:
    """What `peak_growth` runs in its process."""
    run = ours if name == "ours" else lambda inputs: theirs(inputs, THEIR_CHUNKS[0])
    run(draw(256))
    inputs = draw(tokens)
    # Forget the peak of the imports: Linux starts the high-water mark again from here.
    Path("/proc/self/clear_refs").write_text("5")
    before = resident("VmRSS")
    run(inputs)
    return resident("VmHWM") - before


def resident(field: str) -> int:
    """Bytes of this process as Linux counts them: now (VmRSS) or at most (VmHWM)."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field))


def compare(tokens: int, rounds: int) -> dict[str, float]:
    """All figures at one length."""
    inputs = draw(tokens)
    scans: dict[str, Scan] = {"ours": lambda: ours(inputs)}
    for chunk in THEIR_CHUNKS:
        scans[f"transformers, chunks of {chunk}"] = lambda chunk=chunk: theirs(inputs, chunk)
    error = check(scans["ours"](), theirs(inputs, THEIR_CHUNKS[0]), f"scans of {tokens} tokens")
    times = best_seconds(scans, rounds)
    own, *others = times.values()
    wall, processor = zip(*others, strict=True)
    return {
        "tokens": tokens,
        "relative_error": error,
        **{f"wall seconds, {name}": value for name, (value, _) in times.items()},
        **{f"processor seconds, {name}": value for name, (_, value) in times.items()},
        "speedup": wall[0] / own[0],
        "speedup_over_their_best": min(wall) / own[0],
        "processor_speedup": processor[0] / own[1],
        "processor_speedup_over_their_best": min(processor) / own[1],
        "mib_ours": peak_growth("ours", tokens) / MIB,
        "mib_transformers": peak_growth("transformers", tokens) / MIB,
    }


def check_linear(results: list[dict[str, float]]) -> None:
    """Stop when memory grows faster than the tokens."""
    first, last = results[0], results[-1]
    growth, allowed = last["mib_ours"] / first["mib_ours"], last["tokens"] / first["tokens"]
    if growth > 1.1 * allowed:
        raise SystemExit(f"refused: {allowed:.1f} times the tokens took {growth:.1f} times memory")


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--tokens", type=int, nargs="+", default=[4096, 16384])
    parser.add_argument("--measure", choices=["ours", "transformers"], help=argparse.SUPPRESS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    with torch.inference_mode():
        if options.measure:
            print(measure(options.measure, options.tokens[0]))
            return
        short = draw(300)
        oracle = ssd_reference.ssd(**short, lengths=[300], dt_softplus=True)
        check(ours(short), oracle, "our scan and the float64 oracle")
        results = [compare(tokens, options.rounds) for tokens in options.tokens]
    check_linear(results)
    report = {
        "shape": f"{HEADS} heads x {HEAD_DIM}, state {STATE_SIZE}, {GROUPS} groups, float32",
        "machine": f"{platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} "
        f"threads, load {os.getloadavg()[0]:.1f}",
        "versions": {name: version(name) for name in ("torch", "transformers")},
        "goal_speedup": GOAL,
        "results": results,
    }
    if options.json:
        print(json.dumps(report))
        return
    for key in ("shape", "machine", "versions"):
        print(f"{key}: {report[key]}")
    for result in results:
        print(", ".join(f"{key}: {value:.3g}" for key, value in result.items()))
    reached = all(result["speedup"] >= GOAL for result in results)
    print(f"goal of {GOAL:.0f} times: {'reached' if reached else 'MISSED'}")


if __name__ == "__main__":
    main()
