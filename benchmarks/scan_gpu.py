"""Time the Triton scan on a CUDA device against the chunked scan of plain torch.

    python -m benchmarks.scan_gpu [--out FILE] [--rounds 20] [--cases NAME ...] [--tune] [--layer]

First both are held against the float64 oracle at a small shape. A case whose two scans disagree,
in outputs, states or any gradient, prints the distances and no times. --tune prints the times of
other ways to launch instead; --layer those of the convolution, the scan and the gated norm of one
9B layer in turn, 163,840 tokens by chunks of 8,192 with carried memory.
"""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import median_ms, save
from timeviper.ops import ssd_reference, ssd_triton
from timeviper.ops.conv1d import causal_conv1d
from timeviper.ops.norm import gated_rms_norm
from timeviper.ops.ssd import ssd

# Relative distances; the oracle's are those of tests/tolerances.py.
SMALL = {torch.float32: (5e-6, 2e-5), torch.bfloat16: (1e-2, 3e-2)}
LARGE = 3e-2
MIB = 2**20


@dataclass(frozen=True, kw_only=True)
class Case:
    """Sizes of one scan; `backward` is left out where only answering asks for the shape."""

    lengths: tuple[int, ...]
    heads: int = 12
    head_dim: int = 64
    size: int = 64
    groups: int = 1
    backward: bool = True


def _mixed() -> tuple[int, ...]:
    """An hour, a few clips and many short ones, 98,304 tokens in all."""
    short = [100 + 37 * k % 900 for k in range(40)]
    rest = 98_304 - 61_440 - sum(short)
    return (61_440, rest // 2, rest - rest // 2, *short)


CASES = {
    "train_one_98k": Case(lengths=(98_304,)),
    "train_mixed": Case(lengths=_mixed()),
    "train_16x6144": Case(lengths=(6_144,) * 16),
    "train_256x384": Case(lengths=(384,) * 256),
    "nano9b_prefill": Case(
        lengths=(163_840,), heads=128, head_dim=80, size=128, groups=8, backward=False
    ),
    "nano9b_train_32k": Case(lengths=(32_768,), heads=128, head_dim=80, size=128, groups=8),
}


def draw(case: Case, dtype: torch.dtype = torch.bfloat16) -> dict[str, Tensor]:
    """Leaves: x, B and C side by side as the convolution leaves them; steps of a fresh model."""
    generator = torch.Generator("cuda").manual_seed(0)
    tokens = sum(case.lengths)
    width = case.heads * case.head_dim + 2 * case.groups * case.size

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, device="cuda", dtype=dtype)

    leaves = {
        "packed": normal(tokens, width),
        "dt": normal(tokens, case.heads),
        "A": -torch.linspace(1.0, 16.0, case.heads, device="cuda"),
        "D": torch.ones(case.heads, device="cuda"),
        "dt_bias": torch.full((case.heads,), -4.0, device="cuda"),
    }
    return {name: value.requires_grad_() for name, value in leaves.items()}


def operands(leaves: dict[str, Tensor], case: Case) -> dict[str, Any]:
    """Arguments of `ssd` as views of the leaves."""
    inner, group = case.heads * case.head_dim, case.groups * case.size
    x, B, C = leaves["packed"].split([inner, group, group], -1)
    return {
        "x": x.unflatten(-1, (case.heads, case.head_dim)),
        "dt": leaves["dt"],
        "A": leaves["A"],
        "B": B.unflatten(-1, (case.groups, case.size)),
        "C": C.unflatten(-1, (case.groups, case.size)),
        "D": leaves["D"],
        "dt_bias": leaves["dt_bias"],
    }


Scan = Callable[[dict[str, Tensor]], tuple[Tensor, Tensor]]


def by_name(name: str, case: Case) -> Scan:
    """The public scan on a named backend."""

    def run(leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        return ssd(**operands(leaves, case), lengths=case.lengths, dt_softplus=True, backend=name)

    return run


def tuned(tuning: ssd_triton.Tuning, case: Case) -> Scan:
    """The Triton scan launched in another way."""
    options = ssd_triton.Options(lengths=case.lengths, softplus=True, tuning=tuning)

    def run(leaves: dict[str, Tensor]) -> tuple[Tensor, Tensor]:
        o = operands(leaves, case)
        named = (o["x"], o["dt"], o["A"], o["B"], o["C"], o["D"], o["dt_bias"], None)
        return ssd_triton.scan(named, options)

    return run


def gradients(outputs: tuple[Tensor, Tensor], leaves: dict[str, Tensor]) -> list[Tensor]:
    """Gradients of the leaves under fixed random weights of outputs and states."""
    generator = torch.Generator("cpu").manual_seed(1)
    weights = [torch.randn(1, *y.shape[1:], generator=generator) for y in outputs]
    grads = [w.to(y.device, y.dtype).expand_as(y) for w, y in zip(weights, outputs, strict=True)]
    return list(torch.autograd.grad(outputs, list(leaves.values()), grads))


def gap(got: Tensor, want: Tensor) -> float:
    """Relative distance of two results, on the device where one is there."""
    got, want = got.detach(), want.detach().to(got.device)
    # In slices: float64 copies of the largest case would not fit.
    above = below = 0.0
    for a, b in zip(got.flatten().split(2**26), want.flatten().split(2**26), strict=True):
        above += float((a.double() - b.double()).square().sum())
        below += float(b.double().square().sum())
    return (above / below) ** 0.5 if below else above**0.5


def distances(scan: Scan, other: Scan, leaves: dict[str, Tensor], case: Case) -> dict[str, float]:
    """How far two scans are apart, for each result."""
    if not case.backward:
        with torch.no_grad():
            got, want = scan(leaves), other(leaves)
        return {n: gap(a, b) for n, a, b in zip(("y", "state"), got, want, strict=True)}
    got = scan(leaves)
    found = [*(y.detach() for y in got), *gradients(got, leaves)]
    del got
    want = other(leaves)
    wanted = [*(y.detach() for y in want), *gradients(want, leaves)]
    names = ("y", "state", *(f"gradient of {name}" for name in leaves))
    return {n: gap(a, b) for n, a, b in zip(names, found, wanted, strict=True)}


def check_small(name: str, dtype: torch.dtype) -> dict[str, float]:
    """Hold a backend against the float64 oracle, gradients too; stop when it is wrong."""
    case = Case(lengths=(200, 64, 0, 17, 333), heads=4, head_dim=80, size=32, groups=2)
    leaves = draw(case, dtype)
    high = {n: v.detach().cpu().double().requires_grad_() for n, v in leaves.items()}
    got = by_name(name, case)(leaves)
    want = ssd_reference.ssd(**operands(high, case), lengths=case.lengths, dt_softplus=True)
    found = dict(
        zip(("y", "state"), (gap(a, b) for a, b in zip(got, want, strict=True)), strict=True)
    )
    pairs = zip(leaves, gradients(got, leaves), gradients(want, high), strict=True)
    found |= {f"gradient of {n}": gap(a, b) for n, a, b in pairs}
    outputs, grads = SMALL[dtype]
    wrong = {n: e for n, e in found.items() if not e <= (grads if "gradient" in n else outputs)}
    if wrong:
        raise SystemExit(f"refused: {name} in {dtype} is not the oracle: {wrong}")
    return found


def measure(scan: Scan, leaves: dict[str, Tensor], case: Case, rounds: int) -> dict[str, float]:
    """Milliseconds of forward and of both ways, and MiB added at the peak."""

    def forward() -> None:
        with torch.no_grad():
            scan(leaves)

    outputs = [y.detach() for y in scan(leaves)] if case.backward else []
    seeds = [torch.randn_like(y) for y in outputs]
    del outputs

    def both() -> None:
        torch.autograd.grad(scan(leaves), list(leaves.values()), seeds)

    found: dict[str, float] = {}
    for name, run in (("forward", forward), ("both", both))[: 2 if case.backward else 1]:
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        found[f"{name}_mib"] = (torch.cuda.max_memory_allocated() - before) / MIB
        found[f"{name}_ms"] = median_ms(run, rounds=rounds)
        found[f"{name}_tokens_per_second"] = 1000 * sum(case.lengths) / found[f"{name}_ms"]
    return found


def by_kernel(scan: Scan, leaves: dict[str, Tensor], case: Case) -> dict[str, float]:
    """Milliseconds of each kernel in one call, both ways where the case has two."""
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as profile:
        with torch.set_grad_enabled(case.backward):
            outputs = scan(leaves)
            if case.backward:
                gradients(outputs, leaves)
        torch.cuda.synchronize()
    spent = {event.key[:60]: event.device_time_total / 1000 for event in profile.key_averages()}
    return {key: ms for key, ms in spent.items() if ms > 0}


def compare(name: str, case: Case, rounds: int) -> dict[str, Any]:
    """Distances first; times only of scans that agree."""
    leaves = draw(case)
    ours, theirs = by_name("triton", case), by_name("chunked", case)
    apart = distances(ours, theirs, leaves, case)
    report: dict[str, Any] = {"case": name, "tokens": sum(case.lengths), "distances": apart}
    wrong = {n: e for n, e in apart.items() if not e <= LARGE}
    if wrong:
        return {**report, "refused": wrong}
    torch.cuda.empty_cache()
    report["triton"] = measure(ours, leaves, case, rounds)
    report["kernels_ms"] = by_kernel(ours, leaves, case)
    torch.cuda.empty_cache()
    report["chunked"] = measure(theirs, leaves, case, max(3, rounds // 4))
    keys = [key for key in report["triton"] if key.endswith("_ms")]
    report["speedup"] = {k[:-3]: report["chunked"][k] / report["triton"][k] for k in keys}
    return report


def candidates() -> dict[str, ssd_triton.Tuning]:
    """Ways to launch, one change from the defaults at a time."""
    plain = ssd_triton.Tuning()
    found = {"default": plain}
    pairs = [(w, s) for w in (4, 8) for s in (1, 2, 3, 4)]
    found |= {f"walk warps {w} stages {s}": replace(plain, walk=(w, s)) for w, s in pairs}
    found |= {f"gradients warps {w} stages {s}": replace(plain, gradients=(w, s)) for w, s in pairs}
    found |= {f"programs {p}": replace(plain, programs=p) for p in (1, 2, 8, 16)}
    return found | {f"shortest {s}": replace(plain, shortest=s) for s in (4, 16, 32)}


def tune(name: str, case: Case, rounds: int) -> dict[str, Any]:
    """Times of every way to launch; one that fails says why and the next goes on."""
    leaves, report = draw(case), {}
    for label, tuning in candidates().items():
        try:
            found = measure(tuned(tuning, case), leaves, case, rounds)
        except Exception as error:  # a launch the chip cannot hold is a result here
            found = {"failed": str(error)[:200]}
        report[label] = found
        shown = ", ".join(f"{k} {v:.3f}" for k, v in found.items() if k.endswith("_ms"))
        print(f"{name:18s} {label:28s} {shown or found}", flush=True)
    return {"case": name, "tuning": report}


@dataclass(frozen=True, kw_only=True)
class Layer:
    """What lies between the projections of one 9B layer, for tokens that were projected already."""

    case: Case = CASES["nano9b_prefill"]
    chunk: int = 8_192

    @property
    def inner(self) -> int:
        """Channels of the scan's inputs."""
        return self.case.heads * self.case.head_dim

    @property
    def wide(self) -> int:
        """Channels of the convolution."""
        return self.inner + 2 * self.case.groups * self.case.size

    def draw(self) -> dict[str, Tensor]:
        """Projected tokens (gate, convolution, steps side by side) and weights."""
        generator = torch.Generator("cuda").manual_seed(0)
        kind: dict[str, Any] = {"generator": generator, "device": "cuda", "dtype": torch.bfloat16}
        heads = self.case.heads
        return {
            "rows": torch.randn(sum(self.case.lengths), self.inner + self.wide + heads, **kind),
            "conv": torch.randn(self.wide, 4, **kind),
            "conv_bias": torch.randn(self.wide, **kind),
            "norm": torch.ones(self.inner, device="cuda", dtype=torch.bfloat16),
            "A": -torch.linspace(1.0, 16.0, heads, device="cuda"),
            "D": torch.ones(heads, device="cuda"),
            "dt_bias": torch.full((heads,), -4.0, device="cuda"),
        }

    def convolve(self, w: dict[str, Tensor], rows: Tensor, tail: Tensor | None) -> Any:
        """Convolution and SiLU of a chunk; with the tail for the next."""
        conv_in = rows[:, self.inner : self.inner + self.wide]
        return causal_conv1d(conv_in, w["conv"], w["conv_bias"], tail, lengths=(len(rows),))

    def scan(self, w: dict[str, Tensor], rows: Tensor, mixed: Tensor, state: Tensor | None) -> Any:
        """Scan of a chunk; with the state for the next."""
        leaves = {**w, "packed": mixed, "dt": rows[:, self.inner + self.wide :]}
        given = operands(leaves, self.case)
        return ssd(**given, state=state, lengths=(len(rows),), dt_softplus=True)

    def gate(self, w: dict[str, Tensor], rows: Tensor, y: Tensor) -> Tensor:
        """Gate and group norm of a chunk."""
        size = self.inner // self.case.groups
        z = rows[:, : self.inner]
        return gated_rms_norm(y.flatten(1), z, w["norm"], eps=1e-5, group_size=size)

    def run(self, w: dict[str, Tensor], chunk: int, parts: str = "csg") -> Tensor:
        """The last chunk's output; parts that are left out take what was there before the first."""
        tail = state = None
        pieces = w["rows"].split(chunk)
        mixed, _ = self.convolve(w, pieces[0], None)
        out = y = self.scan(w, pieces[0], mixed, None)[0]
        for rows in pieces:
            if "c" in parts:
                mixed, tail = self.convolve(w, rows, tail)
            if "s" in parts:
                y, state = self.scan(w, rows, mixed, state)
            if "g" in parts:
                out = self.gate(w, rows, y)
        return out


def layer(rounds: int) -> dict[str, Any]:
    """Milliseconds of the layer and of its parts alone; chunks are held against one call first."""
    case = Layer()
    with torch.no_grad():
        w = case.draw()
        tokens = len(w["rows"])
        few = {**w, "rows": w["rows"][: 4 * case.chunk]}
        apart = gap(case.run(few, case.chunk), case.run(few, 4 * case.chunk)[-case.chunk :])
        if not apart <= LARGE:
            return {"refused": apart}
        # What runs before the loop, once, is taken off.
        once = median_ms(lambda: case.run(w, case.chunk, ""), rounds=rounds)
        found = {
            parts: median_ms(lambda p=parts: case.run(w, case.chunk, p), rounds=rounds) - once
            for parts in ("csg", "c", "s", "g")
        }
    names = {"csg": "whole", "c": "convolution", "s": "scan", "g": "gate and norm"}
    values = {"c": 2 * case.wide, "s": case.wide + case.inner, "g": 3 * case.inner}
    values["csg"] = sum(values.values())
    return {
        "tokens": tokens,
        "chunk": case.chunk,
        "chunks_apart": apart,
        "ms": {names[p]: ms for p, ms in found.items()},
        "gigabytes": {names[p]: 2 * v * tokens / 1e9 for p, v in values.items()},
    }


def main() -> None:
    """Check, time, print, file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="JSON file for the figures")
    parser.add_argument("--rounds", type=int, default=20)
    parser.add_argument("--cases", nargs="+", choices=list(CASES), default=list(CASES))
    parser.add_argument("--tune", action="store_true", help="time other ways to launch")
    parser.add_argument("--layer", action="store_true", help="time a 9B layer's parts in turn")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("this benchmark needs a CUDA device; benchmarks/scan_cpu.py does not")
    if options.layer:
        save({"layer": layer(options.rounds)}, options.out)
        return
    report: dict[str, Any] = {
        "device": torch.cuda.get_device_name(),
        "versions": {name: version(name) for name in ("torch", "triton")},
        "oracle": {},
        "results": [],
    }
    for name in ("triton", "chunked"):
        for dtype in SMALL:
            try:
                found: object = check_small(name, dtype)
            except (Exception, SystemExit) as error:  # the other precision is still of use
                traceback.print_exc()
                found = {"failed": str(error)[:400]}
            report["oracle"][f"{name} {dtype}"] = found
            print(f"oracle: {name} {dtype}: {found}", flush=True)
    for name in options.cases:
        try:
            run = tune if options.tune else compare
            result = run(name, CASES[name], options.rounds)
        except Exception as error:  # one case too large must not lose the others
            traceback.print_exc()
            result = {"case": name, "failed": str(error)[:400]}
        report["results"].append(result)
        print(json.dumps(result) if not options.tune else "", flush=True)
        torch.cuda.empty_cache()
        if options.out:
            options.out.write_text(json.dumps(report, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
