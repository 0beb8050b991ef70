"""Time the 9B language model's products in bfloat16 and FP8, and the passes around them, on a GPU.

    python -m benchmarks.products_gpu [--tokens 8192] [--sweep] [--no-model] [--toy] [--out FILE]

Every pass is checked against float32 before it is timed. A product in FP8 counts with the pass that
rounds its rows. Times are those of the device: work is queued behind a pause, so that the host's
time to launch it does not show. --toy runs everything once on a CPU, in small.
"""

from __future__ import annotations

import argparse
import copy
import statistics
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from benchmarks.gpu import ceilings, distance, random_decoder, save
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.attention import AttentionMixer
from timeviper.model.block import Block, Stream
from timeviper.model.decoder import Decoder
from timeviper.model.linear import Fp8Linear, quantize_
from timeviper.model.mlp import MlpMixer
from timeviper.model.presets import preset
from timeviper.model.state import Memory, extend
from timeviper.model.tokens import Tokens
from timeviper.ops import linear_triton, norm_row_triton, norm_triton
from timeviper.ops.activation import squared_relu
from timeviper.ops.backend import override
from timeviper.ops.linear import quantize
from timeviper.ops.norm import (
    add_rms_norm,
    add_rms_norm_fp8,
    gated_rms_norm,
    gated_rms_norm_fp8,
    rms_norm,
)

# Cycles that the device pauses while the host queues what is timed: about 10 ms.
PAUSE = 20_000_000
# Relative errors above which nothing is timed: rounding to bfloat16, and to e4m3.
LIMITS = {"bf16": 1e-2, "fp8": 4e-2}
FRAMES_TOKENS = 163_840
LOW = torch.bfloat16


def on_gpu() -> bool:
    """Whether there is one; without, everything runs once and untimed."""
    return torch.cuda.is_available()


def place() -> str:
    """Where tensors are made."""
    return "cuda" if on_gpu() else "cpu"


def device_ms(run: Callable[[], object], *, rounds: int = 9, repeat: int = 1) -> float:
    """Median milliseconds of the device for one of `repeat` runs queued together."""
    for _ in range(2 if on_gpu() else 1):
        run()
    if not on_gpu():
        return float("nan")
    times: list[float] = []
    for _ in range(rounds):
        began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda._sleep(PAUSE)
        began.record()
        for _ in range(repeat):
            run()
        ended.record()
        ended.synchronize()
        times.append(began.elapsed_time(ended) / repeat)
    return statistics.median(times)


def draw(*shape: int) -> Tensor:
    """Normal bfloat16 numbers."""
    return torch.randn(*shape, device=place(), dtype=LOW)


def checked(name: str, got: Tensor, want: Tensor, kind: str) -> float:
    """Relative error, which must be small enough for a time to mean something."""
    error = distance(got, want)
    if not error < LIMITS[kind]:
        raise SystemExit(f"refused: {name} is {error:.3g} away from float32")
    return error


class Sizes:
    """Widths of the decoder's layers and how often each product runs in it."""

    def __init__(self, decoder: Decoder, tokens: int) -> None:
        config = decoder.config
        if config.mamba is None:
            raise SystemExit("refused: a hybrid is wanted")
        self.tokens = tokens
        self.hidden, self.mlp = config.hidden_size, config.intermediate_size
        self.inner, self.wide = config.mamba.inner_size, config.mamba.projection_size
        self.group = self.inner // config.mamba.n_groups
        counted: dict[tuple[str, int, int], int] = {}
        for name, part in decoder.layers.named_modules():
            if isinstance(part, (nn.Linear, Fp8Linear)):
                key = name.rpartition(".")[2], part.in_features, part.out_features
                counted[key] = counted.get(key, 0) + 1
        self.products = counted


def products(sizes: Sizes) -> list[dict[str, Any]]:
    """Each product alone: bfloat16, FP8 by rows (also exact sums), FP8 by tensor."""
    found: list[dict[str, Any]] = []
    for (name, width, out), count in sizes.products.items():
        if width % 16 or out % 16:
            continue
        x, weight = draw(sizes.tokens, width), draw(out, width) * width**-0.5
        rows, columns = quantize(x), quantize(weight)
        one = torch.ones((), device=x.device)
        product = partial(torch._scaled_mm, rows.values, columns.values.t(), out_dtype=LOW)
        by_row = partial(product, rows.scales, columns.scales.t())
        by_tensor = partial(product, one, one, use_fast_accum=True)
        ms = {"bf16": device_ms(partial(nn.functional.linear, x, weight))}
        row: dict[str, Any] = {"product": name, "in": width, "out": out, "times": count}
        if on_gpu():
            ms["fp8"] = device_ms(partial(by_row, use_fast_accum=True))
            ms["fp8_exact_sums"] = device_ms(partial(by_row, use_fast_accum=False))
            ms["fp8_by_tensor"] = device_ms(by_tensor)
            exact = x[:256].float() @ weight.float().t()
            stands = rows.dequantized()[:256] @ columns.dequantized().t()
            got = by_row(use_fast_accum=True)[:256]
            row["fp8_error"], row["fp8_sum_error"] = distance(got, exact), distance(got, stands)
        flop = 2 * sizes.tokens * width * out
        row |= {f"{kind}_ms": t for kind, t in ms.items()}
        row |= {f"{kind}_tflop_s": flop / t / 1e9 for kind, t in ms.items()}
        found.append(row)
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()}, flush=True)
    return found


def passes(sizes: Sizes, copy_tb_s: float) -> list[dict[str, Any]]:
    """Each pass around the products: its error, its time, and what a copy of its bytes takes."""
    t, hidden, inner = sizes.tokens, sizes.hidden, sizes.inner
    x, more, weight = draw(t, hidden), draw(t, hidden), draw(hidden)
    up, y, scale = draw(t, sizes.mlp), draw(t, inner), draw(inner)
    gate = draw(t, sizes.wide)[:, :inner]
    groups = {"eps": 1e-5, "group_size": sizes.group}
    total = x + more
    normed = rms_norm(total.float(), weight.float(), 1e-5, backend="torch")
    gated = gated_rms_norm(y.float(), gate.float(), scale.float(), **groups, backend="torch")
    squared = up.float().clamp(min=0).square()
    runs: list[tuple[str, str, int, Tensor, Callable[[], Any]]] = [
        ("add", "bf16", 6 * t * hidden, total.float(), lambda: x + more),
        ("norm", "bf16", 4 * t * hidden, normed, lambda: rms_norm(total, weight, 1e-5)),
        ("add + norm", "bf16", 8 * t * hidden, normed, lambda: _add_norm(x, more, weight)),
        ("norm", "fp8", 3 * t * hidden, normed, lambda: _norm_fp8(total, None, weight)),
        ("add + norm", "fp8", 7 * t * hidden, normed, lambda: _norm_fp8(x, more, weight)),
        (
            "gate + norm",
            "bf16",
            6 * t * inner,
            gated,
            lambda: gated_rms_norm(y, gate, scale, **groups),
        ),
        (
            "gate + norm",
            "fp8",
            5 * t * inner,
            gated,
            lambda: gated_rms_norm_fp8(y, gate, scale, **groups),
        ),
        ("relu2", "bf16", 4 * t * sizes.mlp, squared, lambda: squared_relu(up)),
        ("relu2", "fp8", 3 * t * sizes.mlp, squared, lambda: quantize(up, activation="relu2")),
        ("rounding", "fp8", 3 * t * inner, y.float(), lambda: quantize(y)),
    ]
    found: list[dict[str, Any]] = []
    for name, kind, size, want, run in runs:
        result = run()
        got = result if isinstance(result, Tensor) else result.dequantized()
        error = checked(f"{name} {kind}", got, want, kind)
        ms = device_ms(run, repeat=4)
        floor = size / copy_tb_s / 1e9
        row = {"pass": name, "to": kind, "us": 1e3 * ms, "floor_us": 1e3 * floor}
        found.append(row | {"of_copy": floor / ms, "error": error})
        print(
            {k: round(v, 3) if isinstance(v, float) else v for k, v in found[-1].items()},
            flush=True,
        )
    return found


def _add_norm(x: Tensor, more: Tensor, weight: Tensor) -> Tensor:
    return add_rms_norm(x, more, weight, 1e-5)[1]


def _norm_fp8(x: Tensor, more: Tensor | None, weight: Tensor) -> Any:
    return add_rms_norm_fp8(x, more, weight, 1e-5)[1]


def sweep(sizes: Sizes, copy_tb_s: float) -> list[dict[str, Any]]:
    """The passes with their work spread in other ways."""
    found: list[dict[str, Any]] = []
    for module, settings in (
        *((norm_row_triton, {"_MOST_TILES": tiles}) for tiles in (1, 2, 8)),
        *((linear_triton, {"_ELEMENTS": each}) for each in (8, 32)),
        *((norm_triton, {"_FORWARD_ELEMENTS": each}) for each in (8, 16, 64)),
    ):
        before = {name: getattr(module, name) for name in settings}
        for name, value in settings.items():
            setattr(module, name, value)
        print(module.__name__.rpartition(".")[2], settings, flush=True)
        found.append({"setting": settings, "passes": passes(sizes, copy_tb_s)})
        for name, value in before.items():
            setattr(module, name, value)
    return found


def sustained(decoder: Decoder, tokens: int) -> dict[str, float]:
    """All products of a long prefill without a pause: what clocks and power leave of short runs."""
    layers = [m for m in decoder.layers.modules() if isinstance(m, (nn.Linear, Fp8Linear))]
    inputs: dict[int, Any] = {}
    for layer in layers:
        x = draw(tokens, layer.in_features)
        inputs.setdefault(layer.in_features, quantize(x) if isinstance(layer, Fp8Linear) else x)
    rounds = FRAMES_TOKENS // tokens if on_gpu() else 1

    def all_layers() -> None:
        for layer in layers:
            x = inputs[layer.in_features]
            layer(
                x if isinstance(layer, Fp8Linear) or isinstance(x, Tensor) else x.dequantized(LOW)
            )

    all_layers()
    if not on_gpu():
        return {}
    began, ended = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    began.record()
    for _ in range(rounds):
        all_layers()
    ended.record()
    ended.synchronize()
    return {"products_of_163840_tokens_s": began.elapsed_time(ended) / 1e3}


class Runner:
    """One block on one chunk after another, its memory growing as in a prefill."""

    def __init__(self, block: Block, x: Tensor, past: int) -> None:
        self.block, self.x = block, x
        self.memory: Memory = None
        if past and isinstance(block.mixer, AttentionMixer):
            shape = past, block.mixer.k_proj.out_features // block.mixer.head_dim
            keys = [draw(*shape, block.mixer.head_dim) for _ in range(2)]
            memory = extend(None, keys[0], keys[1], lengths=(past,))
            self.memory = memory.reserve(past + 10 * len(x))

    def __call__(self) -> None:
        stream = Stream(self.x, self.x)
        _, self.memory = self.block(stream, self.memory, lengths=(len(self.x),))


def blocks(decoder: Decoder, tokens: int, past: int) -> dict[str, Any]:
    """One block of each kind on one chunk, and the kernels that all three run."""
    config, found = decoder.config, dict[str, Any]()
    x = draw(tokens, config.hidden_size)
    kinds = [str(kind.value) for kind in config.layers]
    for kind in dict.fromkeys(kinds):
        block = decoder.layers[kinds.index(kind)]
        if not isinstance(block, Block):
            raise TypeError("decoder layers are Blocks")
        run = Runner(block, x, past if kind == "*" else 0)
        found[kind] = {"ms": device_ms(run, rounds=5), "kernels": kernels(run)}
        print(kind, found[kind]["ms"], flush=True)
        for name, us in found[kind]["kernels"]:
            print(f"   {us:8.1f} us  {name[:90]}", flush=True)
    return found


def kernels(run: Callable[[], object], most: int = 12) -> list[tuple[str, float]]:
    """The kernels of one run and their microseconds, longest first."""
    if not on_gpu():
        return []
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CUDA]) as seen:
        run()
        torch.cuda.synchronize()
    rows = [(event.key, event.self_device_time_total) for event in seen.key_averages()]
    return sorted(((n, t) for n, t in rows if t > 0), key=lambda row: -row[1])[:most]


def last_hidden(decoder: Decoder, tokens: int, *, part: int | None = None) -> Tensor:
    """Hidden states after the final norm, of the same random tokens in any precision and cut."""
    generator = torch.Generator(place()).manual_seed(5)
    shape = tokens, decoder.config.hidden_size
    x = torch.randn(shape, generator=generator, device=place(), dtype=LOW)
    found, state = list[Tensor](), None
    for piece in x.to(decoder.embed_tokens.weight.dtype).split(part or tokens):
        layout = TokenLayout.pack([TokenLayout.of((SpanKind.VISION, len(piece)))])
        out, state = decoder.run(Tokens.of(piece, layout), state, more=True)
        found.append(out.hidden.cpu())
    return torch.cat(found)


def blocks_error(decoder: Decoder, rounded: Decoder, tokens: int) -> dict[str, float]:
    """What FP8 changes in what one block of each kind adds."""
    x = draw(tokens, decoder.config.hidden_size)
    kinds = [str(kind.value) for kind in decoder.config.layers]
    errors: dict[str, float] = {}
    for kind in dict.fromkeys(kinds):
        index = kinds.index(kind)
        added = [what_it_adds(d.layers[index], x) for d in (rounded, decoder)]
        errors[kind] = distance(added[0], added[1])
    return errors


def what_it_adds(block: nn.Module, x: Tensor) -> Tensor:
    """The mixer's output alone: in the sum with the stream its last bits are lost."""
    if not isinstance(block, Block):
        raise TypeError("decoder layers are Blocks")
    _, normed = block.enter(Stream(x))
    if isinstance(block.mixer, MlpMixer):
        return block.mixer(normed)
    return block.mixer(normed, None, lengths=(len(x),))[0]


def model(name: str, tokens: int, *, past: int, short: int) -> dict[str, Any]:
    """The whole decoder in bfloat16, float32 and FP8, one after the other."""
    decoder = random_decoder(name, device=place())
    hidden = {"bf16": last_hidden(decoder, short)}
    hidden["bf16 cut"] = last_hidden(decoder, short, part=short // 4 + 3)
    record: dict[str, Any] = {"bf16": {"blocks": blocks(decoder, tokens, past)}}
    record["bf16"] |= sustained(decoder, tokens)
    print(record["bf16"].get("products_of_163840_tokens_s"), flush=True)
    few = copy.copy(decoder)
    kinds = list(dict.fromkeys(decoder.config.layers))
    first = [decoder.config.layers.index(kind) for kind in kinds]
    kept = {index: copy.deepcopy(decoder.layers[index]) for index in first}
    decoder.float()
    hidden["float32"] = last_hidden(decoder, short)
    decoder.to(LOW)
    quantize_(decoder.layers)
    hidden["fp8"] = last_hidden(decoder, short)
    hidden["fp8 cut"] = last_hidden(decoder, short, part=short // 4 + 3)
    record["fp8"] = {"blocks": blocks(decoder, tokens, past)} | sustained(decoder, tokens)
    print(record["fp8"].get("products_of_163840_tokens_s"), flush=True)
    pairs = ("bf16", "float32"), ("fp8", "float32"), ("fp8", "bf16")
    cuts = ("bf16 cut", "bf16"), ("fp8 cut", "fp8")
    errors = {f"{a} to {b}": distance(hidden[a], hidden[b]) for a, b in (*pairs, *cuts)}
    before = nn.ModuleList(kept.get(i, nn.Identity()) for i in range(len(decoder.layers)))
    few._modules = {**few._modules, "layers": before}
    record["last_hidden_error"], record["tokens"] = errors, short
    record["block_error"] = blocks_error(few, decoder, short)
    print(errors, record["block_error"], flush=True)
    return record


def arguments() -> argparse.Namespace:
    """What the caller wants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--tokens", type=int, default=8192)
    parser.add_argument("--sweep", action="store_true")
    parser.add_argument("--no-model", action="store_true")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


@torch.inference_mode()
def main() -> None:
    """Check, time, save."""
    args = arguments()
    name, tokens = ("tiny", 64) if args.toy else ("nano-9b-v2", args.tokens)
    record: dict[str, Any] = {"tokens": tokens}
    if not args.toy:
        record["ceilings"] = ceilings()
    copy_tb_s = record.get("ceilings", {}).get("copy_tb_s", 1.0)
    print(record, flush=True)
    with torch.device("meta"):
        sizes = Sizes(Decoder(preset(name).decoder), tokens)
    record["passes"] = passes(sizes, copy_tb_s)
    if args.sweep:
        record["sweep"] = sweep(sizes, copy_tb_s)
    record["products"] = products(sizes)
    if not args.no_model:
        with override("fp8_linear", "emulated" if args.toy else "scaled_mm"):
            past, short = (96, 48) if args.toy else (81_920, 4096)
            record["model"] = model(name, tokens, past=past, short=short)
    save(record, args.out)


if __name__ == "__main__":
    main()
