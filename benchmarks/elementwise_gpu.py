"""Time the fused Triton kernels of a training step's elementwise passes against plain torch.

    python -m benchmarks.elementwise_gpu [--out FILE] [--rounds 30] [--shapes small 9b] [--sweep]

Checks outputs and gradients against float32 first and refuses to time what is wrong. Medians of
CUDA events; the floor is what must be read and written, at the speed of a copy in the same run.
"""

from __future__ import annotations

import argparse
import json
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from pathlib import Path
from statistics import median
from time import perf_counter
from typing import Any

import torch
from torch import Tensor

from timeviper.ops.activation import squared_relu
from timeviper.ops.conv1d import causal_conv1d
from timeviper.ops.norm import gated_rms_norm, rms_norm

TOLERANCE = 1e-2
VARIANTS = ("triton", "torch")
# Other ways to spread the work, tried by --sweep: module, constants.
SWEEP: tuple[tuple[str, dict[str, int]], ...] = (
    *(
        ("conv1d_triton", {"_BLOCK_CHANNELS": block, "_WARPS": warps, "_UNROLL": unroll})
        for block, warps in ((128, 1), (128, 2), (256, 2), (256, 4))
        for unroll in (2, 4, 8)
    ),
    *(
        ("conv1d_triton", {"_FORWARD_ROWS": rows, "_BACKWARD_ROWS": 2 * rows})
        for rows in (16, 32, 128)
    ),
    *(
        ("norm_triton", {"_FORWARD_ELEMENTS": forward, "_BACKWARD_ELEMENTS": backward})
        for forward, backward in ((16, 16), (64, 16), (32, 8), (32, 32))
    ),
    *(
        ("activation_triton", {"_BLOCK": block, "_WARPS": warps})
        for block, warps in ((1024, 4), (2048, 4), (4096, 4), (8192, 8))
    ),
    *(("norm_triton", {"_WARPS_WANTED": wanted}) for wanted in (2048, 8192, 16384)),
)


@dataclass(frozen=True)
class Case:
    """One op at one shape: leaves that need gradients, the call, and the passes it must make.

    `forward` and `backward` count passes over `elements` in the dtype of the op.
    """

    name: str
    leaves: dict[str, Tensor]
    call: Callable[..., Tensor]
    elements: int
    forward: int
    backward: int

    @property
    def module(self) -> str:
        """Where its kernels live."""
        if "norm" in self.name:
            return "norm_triton"
        return "conv1d_triton" if "conv" in self.name else "activation_triton"

    def floor_bytes(self, *, both: bool) -> int:
        size = next(iter(self.leaves.values())).element_size()
        return (self.forward + self.backward * both) * self.elements * size


@dataclass(frozen=True)
class Shape:
    """Sizes of one model and how many tokens a step packs."""

    sequences: int
    length: int
    hidden: int
    inner: int
    group: int
    conv: int
    heads: int
    mlp: int

    @property
    def tokens(self) -> int:
        return self.sequences * self.length

    @property
    def projection(self) -> int:
        return self.inner + self.conv + self.heads


SHAPES = {
    "small": Shape(96, 1024, hidden=384, inner=768, group=768, conv=896, heads=12, mlp=1024),
    "9b": Shape(8, 2048, hidden=4480, inner=10240, group=1280, conv=12288, heads=128, mlp=15680),
}


def cases(shape: Shape) -> Iterator[Case]:
    """The ops of a training step under bfloat16 autocast: weights stay float32."""
    generator = torch.Generator("cuda").manual_seed(0)

    def normal(*sizes: int, dtype: torch.dtype = torch.float32) -> Tensor:
        drawn = torch.randn(sizes, generator=generator, device="cuda", dtype=dtype)
        return drawn.requires_grad_()

    low = torch.bfloat16
    lengths = [shape.length] * shape.sequences
    # Slices of one wide projection, as in the model; leaves, so that no gradient is padded to it.
    wide = normal(shape.tokens, shape.projection, dtype=low).detach()
    gate, x, _ = wide.split([shape.inner, shape.conv, shape.heads], dim=1)

    def conv(x: Tensor, weight: Tensor, bias: Tensor, backend: str) -> Tensor:
        return causal_conv1d(x, weight, bias, lengths=lengths, backend=backend)[0]

    def gated(gate: Tensor, y: Tensor, weight: Tensor, backend: str) -> Tensor:
        return gated_rms_norm(y, gate, weight, eps=1e-5, group_size=shape.group, backend=backend)

    def norm(x: Tensor, weight: Tensor, backend: str) -> Tensor:
        return rms_norm(x, weight, 1e-5, backend=backend)

    tokens = shape.tokens
    leaves = {"x": x.requires_grad_(), "weight": normal(shape.conv, 4), "bias": normal(shape.conv)}
    yield Case("causal_conv1d", leaves, conv, tokens * shape.conv, 2, 3)
    leaves = {"gate": gate.requires_grad_(), "y": normal(tokens, shape.inner, dtype=low)}
    leaves["weight"] = normal(shape.inner)
    yield Case("gated_rms_norm", leaves, gated, tokens * shape.inner, 3, 5)
    for dtype in (torch.float32, low):
        leaves = {"x": normal(tokens, shape.hidden, dtype=dtype), "weight": normal(shape.hidden)}
        name = f"rms_norm {str(dtype).removeprefix('torch.')}"
        yield Case(name, leaves, norm, tokens * shape.hidden, 2, 3)
    leaves = {"x": normal(tokens, shape.mlp, dtype=low)}
    yield Case("squared_relu", leaves, squared_relu, tokens * shape.mlp, 2, 3)


def results(case: Case, variant: str, leaves: dict[str, Tensor], dy: Tensor) -> list[Tensor]:
    """Output and all gradients."""
    y = case.call(**leaves, backend=variant)
    return [y.detach(), *torch.autograd.grad(y, list(leaves.values()), dy.to(y.dtype))]


def check(case: Case, variant: str, dy: Tensor) -> dict[str, float]:
    """Distances from plain torch in float32; stop when one is too large."""
    exact = {n: v.detach().float().requires_grad_() for n, v in case.leaves.items()}
    wanted = results(case, "torch", exact, dy)
    found = results(case, variant, case.leaves, dy)
    errors = {
        name: float((a.float() - b).norm() / b.norm())
        for name, a, b in zip(("y", *case.leaves), found, wanted, strict=True)
    }
    if not all(error <= TOLERANCE for error in errors.values()):
        raise SystemExit(f"refused: {variant} {case.name} is off by {errors}")
    return errors


def median_ms(call: Callable[[], Any], rounds: int) -> float:
    """Median of CUDA events around single calls."""
    for _ in range(5):
        call()
    # The device waits while calls are queued: what is timed then is its work, not Python's.
    torch.cuda._sleep(200_000_000)
    pairs = [[torch.cuda.Event(enable_timing=True) for _ in range(2)] for _ in range(rounds)]
    for start, stop in pairs:
        start.record()
        call()
        stop.record()
    torch.cuda.synchronize()
    return median(start.elapsed_time(stop) for start, stop in pairs)


def host_ms(call: Callable[[], Any], rounds: int) -> float:
    """Median of the time that Python takes to queue a call."""
    spent: list[float] = []
    for _ in range(rounds):
        began = perf_counter()
        call()
        spent.append(perf_counter() - began)
    torch.cuda.synchronize()
    return median(spent) * 1e3


def copy_speed(rounds: int) -> float:
    """Bytes a second of a device copy, read and written bytes counted."""
    source = torch.empty(2**28, dtype=torch.uint8, device="cuda")
    target = torch.empty_like(source)
    return 2 * source.numel() / median_ms(lambda: target.copy_(source), rounds) * 1e3


def time_case(case: Case, variant: str, rounds: int) -> dict[str, Any]:
    """Check, then time one variant of one op."""
    dy = torch.randn_like(case.call(**case.leaves, backend="torch").detach())
    errors = check(case, variant, dy)
    leaves = list(case.leaves.values())
    forward = partial(case.call, **case.leaves, backend=variant)

    def both() -> None:
        torch.autograd.grad(forward(), leaves, dy)

    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    both()
    peak = torch.cuda.max_memory_allocated() - before
    return {
        "forward_ms": median_ms(forward, rounds),
        "both_ms": median_ms(both, rounds),
        "both_host_ms": host_ms(both, rounds),
        "peak_mib": peak / 2**20,
        "errors": errors,
    }


def attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """The work's record, or what went wrong: one broken variant must not hide the others."""
    try:
        return work()
    except (Exception, SystemExit) as error:
        traceback.print_exc()
        return {"failed": f"{type(error).__name__}: {error}"[:2000]}


def measure(name: str, options: argparse.Namespace, speed: float) -> list[dict[str, Any]]:
    """All ops of one shape on all variants."""
    records: list[dict[str, Any]] = []
    for case in cases(SHAPES[name]):
        floors = {
            f"floor_{part}_ms": case.floor_bytes(both=both) / speed * 1e3
            for part, both in (("forward", False), ("both", True))
        }
        for variant in VARIANTS:
            record = {"shape": name, "op": case.name, "variant": variant, **floors}
            record |= attempt(partial(time_case, case, variant, options.rounds))
            records.append(record)
            show(record)
        if options.sweep:
            records += sweep(name, case, options.rounds)
    return records


def sweep(name: str, case: Case, rounds: int) -> list[dict[str, Any]]:
    """The kernels of one op under other ways to spread the work."""
    records: list[dict[str, Any]] = []
    for module, constants in SWEEP:
        if module == case.module:
            with changed(module, constants):
                record = {"shape": name, "op": case.name, "variant": f"triton {constants}"}
                record |= attempt(partial(time_case, case, "triton", rounds))
            records.append(record)
            show(record)
    return records


@contextmanager
def changed(module: str, constants: dict[str, int]) -> Iterator[None]:
    """A kernel module with other constants inside the block."""
    home = vars(import_module(f"timeviper.ops.{module}"))
    before = {key: home[key] for key in constants}
    home.update(constants)
    try:
        yield
    finally:
        home.update(before)


def show(record: dict[str, Any]) -> None:
    """One line a variant."""
    head = f"{record['shape']:6s} {record['op']:18s} {record['variant']:16s}"
    if "failed" in record:
        print(f"{head} FAILED {record['failed'].splitlines()[0]}", flush=True)
        return
    floors = [f"{record.get(f'floor_{part}_ms', 0):.3f}" for part in ("forward", "both")]
    print(
        f"{head} forward {record['forward_ms']:.3f} ms (floor {floors[0]})  "
        f"with backward {record['both_ms']:.3f} ms (floor {floors[1]}, "
        f"queued in {record['both_host_ms']:.3f})  "
        f"peak {record['peak_mib']:.0f} MiB  worst error {max(record['errors'].values()):.1e}",
        flush=True,
    )


def main() -> None:
    """Check, time, print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, help="write one JSON object here")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--shapes", nargs="+", choices=list(SHAPES), default=list(SHAPES))
    parser.add_argument("--sweep", action="store_true", help="try other block sizes as well")
    options = parser.parse_args()
    if not torch.cuda.is_available():
        raise SystemExit("needs a CUDA device: these kernels run nowhere else")
    speed = copy_speed(options.rounds)
    print(
        f"{torch.cuda.get_device_name()}, torch {torch.__version__}, copy {speed / 1e12:.2f} TB/s"
    )
    records = [r for name in options.shapes for r in measure(name, options, speed)]
    report = {
        "device": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "copy_bytes_per_second": speed,
        "shapes": {name: vars(SHAPES[name]) for name in options.shapes},
        "results": records,
    }
    if options.out:
        options.out.write_text(json.dumps(report, indent=1) + "\n")
    if any("failed" in record for record in records):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
