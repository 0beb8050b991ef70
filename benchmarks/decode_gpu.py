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

from benchmarks.decode_peer_gpu import peer
from benchmarks.gpu import distance, median_ms, peak_gib, random_decoder, save
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.inference.graphs import StepRunner
from timeviper.inference.opened import OpenAnswer
from timeviper.inference.sampling import Chooser, TokenPolicy
from timeviper.inference.steps import GraphSteps, Runners
from timeviper.model.decoder import Decoder, last_of_each
from timeviper.model.keys import fresh
from timeviper.model.slots import KeySlots, ScanSlots
from timeviper.model.state import DecoderState, MambaMemory, Memory
from timeviper.model.tokens import Tokens
from timeviper.ops import few_rows_triton, norm_triton, step_triton
from timeviper.ops.step import StepWeights, mamba_step

# What rounding to bfloat16 in 56 layers leaves between two ways to compute the same.
MOST_DISTANCE = 4e-2
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


def check_graph(decoder: Decoder, state: DecoderState) -> tuple[float, float]:
    """Largest distance of captured scores from uncaptured ones, and from the usual call's."""
    captured, plain = (
        StepRunner.of(decoder, [state], steps=8, capture=capture) for capture in (True, False)
    )
    exact, worst, usual = 0.0, 0.0, DecoderState(state.memories, state.pending)
    for number in range(5):
        ids = [(17 * number + s) % 1000 for s in range(state.sequences or 0)]
        captured.step(ids)
        plain.step(ids)
        want, usual = usual_step(decoder, ids, usual)
        exact = max(exact, distance(captured.logits, plain.logits))
        worst = max(worst, distance(captured.logits, want))
    if exact > 0 or worst > MOST_DISTANCE:
        raise SystemExit(f"steps differ: captured {exact:.2e}, from the usual call {worst:.2e}")
    return exact, worst


@torch.inference_mode()
def usual_step(
    decoder: Decoder, ids: Sequence[int], state: DecoderState
) -> tuple[torch.Tensor, DecoderState]:
    """One decode step by the call that takes any length."""
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
    exact, error = check_graph(decoder, state)
    print(f"one: captured {exact:.2e} from uncaptured, {error:.2e} from usual", flush=True)
    runner = StepRunner.of(decoder, [state], steps=256)
    runner.step([1])
    ms = timed(runner, rounds=48)
    moved = step_bytes(decoder, runner)
    record = {
        "keys": keys,
        "captured_from_uncaptured": exact,
        "step_from_usual_call": error,
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


def packed_questions(decoder: Decoder, count: int, size: int = 32) -> tuple[torch.Tensor, Any]:
    """Embedded random questions and their layout."""
    layout = TokenLayout.pack([TokenLayout.of((SpanKind.INSTRUCTION, size))] * count)
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, decoder.config.vocab_size, (count * size,), generator=generator)
    return ids.to(decoder.embed_tokens.weight.device), layout


def opened(decoder: Decoder, state: DecoderState, which: Sequence[int], total: int) -> OpenAnswer:
    """The questions of those numbers, read behind a video in one pass."""
    ids, _ = packed_questions(decoder, total)
    rows = ids.view(total, -1)[list(which)]
    layout = TokenLayout.pack([TokenLayout.of((SpanKind.INSTRUCTION, rows.shape[1]))] * len(rows))
    forked = state.fork(len(rows))
    out, after = decoder.run(Tokens.of(decoder.embed(rows.flatten()), layout), forked)
    return OpenAnswer(logits=decoder.logits(last_of_each(out)), state=after)


class Clock:
    """Seconds between laps, the device waited for."""

    def __init__(self) -> None:
        self.laps: dict[str, float] = {}
        self._last = time.perf_counter()

    def lap(self, name: str) -> None:
        """Note the seconds since the last lap."""
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        now = time.perf_counter()
        self.laps[name], self._last = round(now - self._last, 4), now


def written(steps: GraphSteps, count: int, tokens: int) -> list[list[int]]:
    """Greedy answers of so many tokens."""
    choosers = [Chooser(TokenPolicy()) for _ in range(count)]
    answers: list[list[int]] = [[] for _ in range(count)]
    for number in range(tokens):
        found = steps.choose(choosers, last=number + 1 == tokens)
        for answer, token in zip(answers, found, strict=True):
            answer.append(token)
        if number + 1 < tokens:
            steps.advance(found)
    return answers


def questions(decoder: Decoder, keys: int, tokens: int, count: int = 8) -> dict[str, Any]:
    """Several questions on one video: one after the other, and at once."""
    state, runners = random_state(decoder, keys), Runners()

    def ask(which: Sequence[int]) -> list[list[int]]:
        prompt = opened(decoder, state, which, count)
        runner = runners.runner(decoder, [prompt], most=tokens)
        return written(GraphSteps(runner, [prompt]), len(which), tokens)

    def each() -> list[list[int]]:
        return [ask([number])[0] for number in range(count)]

    return _compare("questions", each, lambda: ask(range(count)), count * tokens)


def videos(decoder: Decoder, keys: int, tokens: int, count: int = 8) -> dict[str, Any]:
    """Several videos with a question each: one after the other, and in one batch."""
    states = [random_state(decoder, keys) for _ in range(count)]
    runners = Runners()

    def ask(which: Sequence[int]) -> list[list[int]]:
        clock = Clock()
        prompts = [opened(decoder, states[n], [n], count) for n in which]
        clock.lap("open")
        runner = runners.runner(decoder, prompts, most=tokens)
        clock.lap("buffers")
        answers = written(GraphSteps(runner, prompts), len(which), tokens)
        clock.lap("write")
        if len(which) > 1:
            print("videos together", clock.laps, flush=True)
        return answers

    def each() -> list[list[int]]:
        return [ask([number])[0] for number in range(count)]

    return _compare("videos", each, lambda: ask(range(count)), count * tokens)


def _compare(
    name: str,
    each: Callable[[], list[list[int]]],
    together: Callable[[], list[list[int]]],
    total: int,
) -> dict[str, Any]:
    """Seconds of both, twice, and how far the answers agree."""
    record: dict[str, Any] = {"tokens": total}
    answers: dict[str, list[list[int]]] = {}
    for label, run in (("together", together), ("alone", each)):
        for turn in ("first", "again"):
            began = time.perf_counter()
            answers[label] = run()
            record[f"{label}_{turn}_s"] = time.perf_counter() - began
    pairs = list(zip(answers["alone"], answers["together"], strict=True))
    record["identical_answers"] = sum(a == b for a, b in pairs)
    record["same_first_tokens"] = sum(
        next((n for n, (x, y) in enumerate(zip(a, b, strict=True)) if x != y), len(a))
        for a, b in pairs
    )
    record["gain"] = record["alone_again_s"] / record["together_again_s"]
    print(name, json.dumps(record), flush=True)
    return record


def scan_step(device: str, *, toy: bool) -> dict[str, Any]:
    """One layer's convolution and scan at the 9B model's sizes, cut in several ways."""
    heads, head_dim, size, groups = (4, 20, 16, 2) if toy else (128, 80, 128, 8)
    channels, dtype = heads * head_dim + 2 * groups * size, torch.float32
    low = torch.float32 if toy else torch.bfloat16
    weights = StepWeights(
        torch.randn(channels, 4, device=device, dtype=low),
        torch.randn(channels, device=device, dtype=low),
        -torch.rand(heads, device=device) - 0.1,
        torch.ones(heads, device=device, dtype=low),
        torch.randn(heads, device=device, dtype=low),
    )
    record: dict[str, Any] = {}
    for sequences in (1, 2) if toy else (1, 8, 32, 64):
        xbc = torch.randn(sequences, channels, device=device, dtype=low)
        dt = torch.randn(sequences, heads, device=device, dtype=low)
        # Several layers in turn, so that no state is found in a cache.
        layers = [
            (
                torch.randn(sequences, 4, channels, device=device, dtype=low),
                torch.randn(sequences, heads, head_dim, size, device=device, dtype=dtype),
            )
            for _ in range(2 if toy else max(4, 64 // sequences))
        ]
        place = torch.full((sequences,), 5, device=device, dtype=torch.int64)

        def way(which: int) -> None:
            ring, ssm = layers[which]
            mamba_step(xbc, dt, weights, ring=ring, ssm=ssm, place=place)

        for rows, warps in ((16, 4), (16, 2), (32, 4), (32, 8), (8, 2), (128, 8)):
            step_triton._BLOCK_ROWS, step_triton._WARPS = rows, warps
            us = 0.0 if toy else _graph_us(way, list(range(len(layers))))
            speed = 2 * layers[0][1].nbytes / max(us, 1) / 1e6
            print(f"step {sequences} {rows}x{warps} {us:.1f} us {speed:.3f} TB/s", flush=True)
            record[f"{sequences} {rows}x{warps}"] = (us, speed)
    return record


def _graph_us(way: Callable[[int], object], turns: Sequence[int]) -> float:
    for turn in turns:
        way(turn)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        for turn in turns:
            way(turn)
    return median_ms(graph.replay, rounds=5, warmup=1) / len(turns) * 1e3


def toy_decoder(device: str) -> Decoder:
    """A small hybrid of the same kind."""
    from tests.toy_engine import toy_config, toy_model

    return toy_model(toy_config("plain"), dtype=torch.float32).decoder.to(device)


def main() -> None:
    """Run the parts asked for and save what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="one")
    parser.add_argument("--batches", default="32,64")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--video-keys", type=int, default=FRAMES_KEYS)
    parser.add_argument("--no-overlap", action="store_true", help="launch one kernel at a time")
    parser.add_argument("--float32", action="store_true", help="are answers equal to the letter?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--toy", action="store_true", help="small sizes on a CPU: does it run?")
    args = parser.parse_args()
    if args.no_overlap:
        for module in (few_rows_triton, step_triton, norm_triton):
            module.overlaps = lambda _: False
    parts, device = args.parts.split(","), "cpu" if args.toy else "cuda"
    keys, context = (300, 40) if args.toy else (FRAMES_KEYS, CONTEXT)
    batches = [2, 3] if args.toy else [int(n) for n in args.batches.split(",")]
    record: dict[str, Any] = {"model": MODEL, "caches": "random numbers of the right length"}
    with torch.inference_mode():
        if "step" in parts:
            record["step"] = scan_step(device, toy=args.toy)
        if {"one", "many", "questions", "videos"} & set(parts):
            began = time.perf_counter()
            if args.toy:
                decoder = toy_decoder(device)
            else:
                dtype = torch.float32 if args.float32 else torch.bfloat16
                decoder = random_decoder(MODEL, device=device, dtype=dtype)
                torch.cuda.synchronize()
            print(f"decoder made in {time.perf_counter() - began:.1f} s", flush=True)
            if "one" in parts:
                record["one"] = one(decoder, keys)
            tokens = 6 if args.toy else args.tokens
            if "questions" in parts:
                record["questions"] = questions(decoder, keys, tokens)
            if "videos" in parts:
                record["videos"] = videos(decoder, 200 if args.toy else args.video_keys, tokens)
            if "many" in parts:
                record["many"] = many(decoder, context, batches)
            del decoder
        if "peer" in parts:
            record["peer"] = peer(device, context, toy=args.toy)
    save(record, args.out)


if __name__ == "__main__":
    main()
