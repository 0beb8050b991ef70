"""Decode of the 9B preset on one GPU: alone, in batches, many questions on one video, many videos.

Weights are random at true dimensions. Caches are filled with random keys and states of the right
length instead of a real prefill: what a step costs does not depend on what they hold.

    python benchmarks/decode_gpu.py --parts one,many,questions,videos,peer --out record.json
"""

from __future__ import annotations

import argparse
import json
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from benchmarks.gpu import GIB, distance, median_ms, peak_gib, random_decoder, save
from timeviper.inference.graphs import StepRunner
from timeviper.model.decoder import Decoder
from timeviper.model.keys import fresh
from timeviper.model.slots import KeySlots, ScanSlots
from timeviper.model.state import AttentionMemory, DecoderState, MambaMemory, Memory

MODEL, FRAMES_KEYS, CONTEXT = "nano-9b-v2", 163_840, 32_768


def random_state(decoder: Decoder, keys: int, sequences: int = 1) -> DecoderState:
    """A state after so many tokens, its numbers drawn."""
    like, config = decoder.embed_tokens.weight, decoder.config
    memories: list[Memory] = []
    for slots in decoder.slots_for(
        sequences, capacity=[0] * len(config.layers), shared=[None] * len(config.layers)
    ).layers:
        if isinstance(slots, KeySlots):
            shape = (sequences, keys, config.num_kv_heads, config.head_dim)
            k, v = (torch.randn(shape, device=like.device, dtype=like.dtype) for _ in range(2))
            memories.append(fresh(k, v, (keys,) * sequences))
        elif isinstance(slots, ScanSlots):
            tail, ssm = torch.randn_like(slots.ring[:, 1:]), torch.randn_like(slots.ssm)
            memories.append(MambaMemory(tail, ssm * 0.1))
        else:
            memories.append(None)
    return DecoderState(tuple(memories), (None,) * len(config.transfer.sites))


def step_bytes(decoder: Decoder, runner: StepRunner) -> float:
    """Bytes that a step has to move: weights, keys, states read and written."""
    embedding = decoder.embed_tokens.weight.nbytes
    total = sum(p.nbytes for p in decoder.parameters()) - embedding
    for slots, lengths in zip(runner.slots.layers, iter_lengths(runner), strict=True):
        if isinstance(slots, ScanSlots):
            total += 2 * slots.ssm.nbytes
        elif isinstance(slots, KeySlots):
            own = lengths + (0 if slots.shared is None else slots.shared.length)
            total += own * 2 * slots.k.shape[2] * slots.k.shape[3] * slots.k.itemsize
    return float(total)


def iter_lengths(runner: StepRunner) -> list[int]:
    """Own keys of all sequences together, a layer; 0 for layers without."""
    each = iter(runner.slots.lengths.sum(1).tolist())
    return [next(each) if isinstance(s, KeySlots) else 0 for s in runner.slots.layers]


def check_graph(decoder: Decoder, state: DecoderState) -> float:
    """Largest distance of captured scores from those of the decoder's usual call."""
    runner = StepRunner.of(decoder, [state], steps=8)
    worst, sequences = 0.0, state.sequences or 0
    plain = DecoderState(state.memories, state.pending)
    for number in range(4):
        ids = [(17 * number + s) % 1000 for s in range(sequences)]
        runner.step(ids)
        want, plain = usual_step(decoder, ids, plain)
        worst = max(worst, distance(runner.logits, want))
    return worst


@torch.inference_mode()
def usual_step(
    decoder: Decoder, ids: Sequence[int], state: DecoderState
) -> tuple[torch.Tensor, DecoderState]:
    """One decode step by the call that takes any length."""
    from timeviper.core.layout import SpanKind, TokenLayout
    from timeviper.model.tokens import Tokens

    layout = TokenLayout.pack([TokenLayout.of((SpanKind.ANSWER, 1)) for _ in ids])
    tokens = torch.tensor(list(ids), device=decoder.embed_tokens.weight.device)
    out, state = decoder.run(Tokens.of(decoder.embed(tokens), layout), state)
    return decoder.logits(out.hidden), state


def timed(runner: StepRunner, *, rounds: int) -> float:
    """Milliseconds of a step, the next token chosen on the device."""
    for _ in range(3):
        runner.step()
    if runner.device.type != "cuda":
        began = time.perf_counter()
        for _ in range(rounds):
            runner.step()
        return (time.perf_counter() - began) / rounds * 1e3
    return median_ms(runner.step, rounds=rounds, warmup=2)


def kernels(runner: StepRunner) -> list[tuple[str, float, int]]:
    """Microseconds and launches of each kernel of one step, longest first."""
    from torch.profiler import ProfilerActivity, profile

    with profile(activities=[ProfilerActivity.CUDA]) as found:
        runner.step()
        torch.cuda.synchronize()
    rows = [(e.key[:70], e.self_device_time_total, e.count) for e in found.key_averages()]
    return sorted(rows, key=lambda row: -row[1])[:16]


def one(decoder: Decoder, keys: int) -> dict[str, Any]:
    """Batch 1 behind a long video."""
    state = random_state(decoder, keys).fork()
    error = check_graph(decoder, state)
    print(f"one: captured against usual, distance {error:.2e}", flush=True)
    runner = StepRunner.of(decoder, [state], steps=256)
    runner.step([1])
    ms = timed(runner, rounds=48)
    moved = step_bytes(decoder, runner)
    record = {
        "keys": keys,
        "graph_distance": error,
        "ms": ms,
        "tokens_per_s": 1e3 / ms,
        "bytes": moved,
        "tb_s": moved / ms / 1e9,
    }
    print(json.dumps(record), flush=True)
    if runner.device.type == "cuda":
        record["kernels"] = kernels(runner)
        for row in record["kernels"]:
            print(row, flush=True)
    return record


def many(decoder: Decoder, context: int, batches: Sequence[int]) -> dict[str, Any]:
    """Batches of long prompts, buffers filled in place."""
    record: dict[str, Any] = {}
    config = decoder.config
    for sequences in batches:
        torch.cuda.empty_cache()
        nothing = [None] * len(config.layers)
        capacity = [context + 1024] * len(config.layers)
        slots = decoder.slots_for(sequences, capacity=capacity, shared=nothing)
        for layer in slots.layers:
            if isinstance(layer, KeySlots):
                layer.k.normal_()
                layer.v.normal_()
            elif isinstance(layer, ScanSlots):
                layer.ring.normal_()
                layer.ssm.normal_(std=0.1)
        runner = StepRunner(decoder, slots)
        times: dict[int, float] = {}
        for done in (0, 512, 960):
            slots.lengths.fill_(context + done)
            slots.place.fill_(2)
            runner.step([1] * sequences)
            times[done] = timed(runner, rounds=16)
        ms = sum(times.values()) / len(times)
        moved = step_bytes(decoder, runner)
        record[str(sequences)] = {
            "ms": times,
            "tokens_per_s": sequences * 1e3 / ms,
            "tb_s": moved / ms / 1e9,
            "peak_gib": peak_gib() if runner.device.type == "cuda" else 0.0,
        }
        print(sequences, json.dumps(record[str(sequences)]), flush=True)
        if runner.device.type == "cuda":
            for row in kernels(runner):
                print(row, flush=True)
        del runner, slots, layer
    return record


def products(device: str, *, toy: bool) -> dict[str, Any]:
    """Weights of a decode step read by cuBLAS and by our kernel."""
    from timeviper.ops.few_rows_triton import Cut, few_rows

    shapes = {
        "in_proj": (22656, 4480),
        "out_proj": (4480, 10240),
        "up": (15680, 4480),
        "down": (4480, 15680),
        "lm_head": (131072, 4480),
    }
    cuts = [
        Cut(channels=c, width=w, warps=n, stages=s)
        for c, w, n, s in (
            (64, 128, 4, 4), (64, 64, 4, 6), (32, 128, 4, 5), (16, 256, 4, 5), (32, 64, 2, 8),
        )
    ]  # fmt: skip
    if toy:
        shapes, cuts = {"toy": (96, 160)}, cuts[:2]
    # The interpreter has no products of bfloat16.
    dtype = torch.float32 if toy else torch.bfloat16
    record: dict[str, Any] = {}
    for name, (channels, width) in shapes.items():
        copies = 2 if toy else max(2, int(1.2e9 / (2 * channels * width)))
        weights = [
            torch.randn(channels, width, device=device, dtype=dtype) / width**0.5
            for _ in range(copies)
        ]
        for rows in (1, 8):
            x = torch.randn(rows, width, device=device, dtype=dtype)
            ways: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
                "cublas": lambda w, x=x: torch.nn.functional.linear(x, w)
            }
            for cut in cuts:
                label = f"{cut.channels}x{cut.width}w{cut.warps}s{cut.stages}"
                ways[label] = lambda w, x=x, cut=cut: few_rows(x, w, cut)
            want = weights[0].double() @ x.double().t()
            for label, way in ways.items():
                error = distance(way(weights[0]).t(), want)
                if error > 1e-2:
                    raise SystemExit(f"{name} {label}: distance {error}")
                us = 0.0 if toy else _graph_us(way, weights)
                speed = 0.0 if toy else 2 * channels * width / us / 1e6
                record[f"{name} {rows} {label}"] = (round(us, 2), round(speed, 3))
                print(f"{name} rows={rows} {label} {us:.1f} us {speed:.3f} TB/s", flush=True)
    return record


def _graph_us(way: Callable[[torch.Tensor], torch.Tensor], weights: list[torch.Tensor]) -> float:
    for weight in weights:
        way(weight)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for _ in range(2):
            for weight in weights:
                way(weight)
    return median_ms(graph.replay, rounds=5, warmup=1) / (2 * len(weights)) * 1e3


def toy_decoder(device: str) -> Decoder:
    """A small hybrid of the same kind."""
    from tests.toy_engine import toy_config, toy_model

    return toy_model(toy_config("plain"), dtype=torch.float32).decoder.to(device)


def main() -> None:
    """Run the parts asked for and save what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="one")
    parser.add_argument("--batches", default="32,64")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--toy", action="store_true", help="small sizes on a CPU: does it run?")
    args = parser.parse_args()
    parts, device = args.parts.split(","), "cpu" if args.toy else "cuda"
    keys, context = (300, 40) if args.toy else (FRAMES_KEYS, CONTEXT)
    batches = [2, 3] if args.toy else [int(n) for n in args.batches.split(",")]
    record: dict[str, Any] = {"model": MODEL, "caches": "random numbers of the right length"}
    with torch.inference_mode():
        if "products" in parts:
            record["products"] = products(device, toy=args.toy)
        if {"one", "many", "questions", "videos"} & set(parts):
            began = time.perf_counter()
            if args.toy:
                decoder = toy_decoder(device)
            else:
                decoder = random_decoder(MODEL, device=device)
                torch.cuda.synchronize()
            print(f"decoder made in {time.perf_counter() - began:.1f} s", flush=True)
            if "one" in parts:
                record["one"] = one(decoder, keys)
            if "many" in parts:
                record["many"] = many(decoder, context, batches)
    save(record, args.out)


if __name__ == "__main__":
    main()
