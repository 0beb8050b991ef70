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
from timeviper.inference.prefill import OpenAnswer
from timeviper.inference.sampling import Chooser, TokenPolicy
from timeviper.inference.steps import GraphSteps, Runners
from timeviper.model.decoder import Decoder, last_of_each
from timeviper.model.keys import fresh
from timeviper.model.slots import KeySlots, ScanSlots
from timeviper.model.state import DecoderState, MambaMemory, Memory
from timeviper.model.tokens import Tokens

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
        prompts = [opened(decoder, states[n], [n], count) for n in which]
        runner = runners.runner(decoder, prompts, most=tokens)
        return written(GraphSteps(runner, prompts), len(which), tokens)

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


def chain(device: str, *, toy: bool) -> dict[str, Any]:
    """Twenty-five MLP layers in a row: torch's products, ours, and ours that overlap."""
    from timeviper.ops.few_rows_triton import Cut, few_rows, settle
    from timeviper.ops.norm import add_rms_norm

    hidden, inner, layers = (96, 160, 2) if toy else (4480, 15680, 25)
    dtype = torch.float32 if toy else torch.bfloat16
    ups = [torch.randn(inner, hidden, device=device, dtype=dtype).mul_(0.02) for _ in range(layers)]
    downs = [
        torch.randn(hidden, inner, device=device, dtype=dtype).mul_(0.002) for _ in range(layers)
    ]
    scale = torch.randn(hidden, device=device, dtype=dtype)
    pairs = list(zip(ups, downs, strict=True))

    def usual(x: torch.Tensor) -> torch.Tensor:
        more = None
        for up, down in pairs:
            x, y = add_rms_norm(x, more, scale, 1e-5)
            y = torch.nn.functional.linear(y, up).relu()
            more = torch.nn.functional.linear(y * y, down)
        return add_rms_norm(x, more, scale, 1e-5)[1]

    def ours(x: torch.Tensor, up_cut: Cut, down_cut: Cut, overlap: bool) -> torch.Tensor:
        more = None
        for up, down in pairs:
            x, y = settle(x, more, scale, 1e-5, overlap=overlap)
            y = few_rows(y, up, cut=up_cut, relu2=True, overlap=overlap)
            more = few_rows(y, down, cut=down_cut, overlap=overlap)
        return settle(x, more, scale, 1e-5, overlap=overlap)[1]

    up_cuts = [(64, 128, 4, 4, 1), (64, 128, 4, 3, 1), (128, 64, 4, 4, 1)]
    down_cuts = [
        (64, 128, 4, 4, 4), (64, 128, 4, 4, 2), (32, 128, 4, 5, 2), (64, 64, 4, 6, 5),
        (64, 128, 4, 4, 3), (128, 64, 4, 4, 7),
    ]  # fmt: skip
    runs = [(up_cuts[0], down) for down in down_cuts] + [(up, down_cuts[0]) for up in up_cuts[1:]]
    record: dict[str, Any] = {}
    moved = layers * 2 * hidden * inner * 2
    for rows in (1, 8):
        x = torch.randn(rows, hidden, device=device, dtype=dtype)
        want = usual(x)
        us = 0.0 if toy else _graph_us(lambda w, x=x: usual(x), [x])
        print(
            f"chain rows={rows} torch {us:.0f} us, {moved / max(us, 1) / 1e6:.3f} TB/s", flush=True
        )
        for a, b in runs[: 2 if toy else None]:
            for overlap in (False, True):
                way = lambda w, x=x, a=_cut(a), b=_cut(b), o=overlap: ours(x, a, b, o)
                error = distance(way(x), want)
                us = 0.0 if toy else _graph_us(way, [x])
                name = f"rows={rows} {a} {b} overlap={overlap}"
                speed = moved / max(us, 1) / 1e6
                print(f"chain {name} {us:.0f} us {speed:.3f} TB/s error {error:.1e}", flush=True)
                record[name] = (us, error)
    return record


def _cut(numbers: tuple[int, ...]) -> Any:
    from timeviper.ops.few_rows_triton import Cut

    c, w, n, s, p = numbers
    return Cut(channels=c, width=w, warps=n, stages=s, splits=p)


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
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--video-keys", type=int, default=FRAMES_KEYS)
    parser.add_argument("--float32", action="store_true", help="are answers equal to the letter?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--toy", action="store_true", help="small sizes on a CPU: does it run?")
    args = parser.parse_args()
    parts, device = args.parts.split(","), "cpu" if args.toy else "cuda"
    keys, context = (300, 40) if args.toy else (FRAMES_KEYS, CONTEXT)
    batches = [2, 3] if args.toy else [int(n) for n in args.batches.split(",")]
    record: dict[str, Any] = {"model": MODEL, "caches": "random numbers of the right length"}
    with torch.inference_mode():
        if "chain" in parts:
            record["chain"] = chain(device, toy=args.toy)
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
