"""What every GPU benchmark shares: models at true sizes, times, ceilings, and where figures go.

A benchmark checks that it is right before it prints a time, and times its peer in the same call.
"""

from __future__ import annotations

import json
import statistics
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from timeviper.model.decoder import Decoder
from timeviper.model.init import init_decoder, init_linear
from timeviper.model.presets import preset
from timeviper.model.vlm import TimeViper

GIB = 2**30


def machine() -> dict[str, str]:
    """Hardware and versions, for the record."""
    found = {"device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu"}
    for name in ("torch", "triton", "transformers"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            found[name] = "absent"
    return found


def random_decoder(name: str, *, device: str, dtype: torch.dtype = torch.bfloat16) -> Decoder:
    """The decoder of a preset with random weights, made where it runs."""
    with torch.device("meta"):
        decoder = Decoder(preset(name).decoder)
    decoder = decoder.to(dtype).to_empty(device=device).eval().requires_grad_(requires_grad=False)
    init_decoder(decoder, torch.Generator(device).manual_seed(0))
    return decoder


def random_model(name: str, *, device: str, dtype: torch.dtype = torch.bfloat16) -> TimeViper:
    """The whole model of a preset, tower and projector too, with random weights."""
    torch.manual_seed(0)
    with torch.device(device):
        model = TimeViper(preset(name)).to(dtype)
    generator = torch.Generator(device).manual_seed(0)
    init_decoder(model.decoder, generator)
    init_linear(model.projector, 0.02, generator)
    return model.eval().requires_grad_(requires_grad=False)


def median_ms(run: Callable[[], object], *, rounds: int = 10, warmup: int = 3) -> float:
    """Median milliseconds of single runs between CUDA events."""
    for _ in range(warmup):
        run()
    times: list[float] = []
    for _ in range(rounds):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        began.record()
        run()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended))
    return statistics.median(times)


def ceilings() -> dict[str, float]:
    """What this device reaches: copies (TB/s, read and write counted) and bf16 products (TF/s)."""
    source = torch.randn(2**30, device="cuda", dtype=torch.bfloat16)
    target = torch.empty_like(source)
    copied = 2 * source.nbytes / median_ms(lambda: target.copy_(source)) / 1e9
    a, b = (torch.randn(8192, 8192, device="cuda", dtype=torch.bfloat16) for _ in range(2))
    product = 2 * 8192**3 / median_ms(lambda: a @ b) / 1e9
    return {"copy_tb_s": copied, "product_tflop_s": product}


def distance(got: Tensor, want: Tensor) -> float:
    """Relative distance of two results, taken in slices of float64."""
    above = below = 0.0
    for a, b in zip(got.flatten().split(2**26), want.flatten().split(2**26), strict=True):
        high = b.double().to(got.device)
        above += float((a.double() - high).square().sum())
        below += float(high.square().sum())
    return (above / below) ** 0.5 if below else above**0.5


def peak_gib() -> float:
    """Highest memory since the last reset, as the allocator reserved for tensors."""
    return torch.cuda.max_memory_allocated() / GIB


def save(record: dict[str, Any], out: Path | None) -> None:
    """Print a record and keep it, with the machine it was measured on."""
    record = {"machine": machine(), **record}
    text = json.dumps(record, indent=1)
    print(text)
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(text + "\n")
