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
from contextlib import ExitStack
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
from timeviper.model.state import DecoderState, MambaMemory, Memory, stack
from timeviper.model.tokens import Tokens
from timeviper.ops import few_rows_triton, norm_triton, pick_triton, step_triton
from timeviper.ops.attention_parts import together
from timeviper.ops.backend import names, override

# What rounding to bfloat16 in 56 layers leaves between two ways to compute the same.
MOST_DISTANCE = 4e-2
MODEL, FRAMES_KEYS, CONTEXT = "nano-9b-v2", 163_840, 32_768


def random_state(decoder: Decoder, keys: int, sequences: int = 1) -> DecoderState:
    """A state after so many tokens, its numbers drawn."""
    like, config = decoder.embed_tokens.weight, decoder.config
    memories: list[Memory] = []
    for slots in decoder.slots_for(sequences, capacity=[0] * len(config.layers)).layers:
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
            own = lengths + sum(front.length for front, _ in together(slots.fronts.shared))
            total += own * 2 * slots.k.shape[2] * slots.k.shape[3] * slots.k.itemsize
    return float(total)


def iter_lengths(runner: StepRunner) -> list[int]:
    """Own keys of all sequences together, a layer; 0 for layers without."""
    each = iter(runner.slots.lengths.sum(1).tolist())
    return [next(each) if isinstance(s, KeySlots) else 0 for s in runner.slots.layers]


# What a step runs on, each with a plain oracle.
STEP_OPS = (
    "add_rms_norm", "attention_step", "best_token", "few_rows", "few_rows_parts", "gated_rms_norm",
    "mamba_step", "settle", "write_slots",
)  # fmt: skip


def check_graph(decoder: Decoder, state: DecoderState) -> tuple[float, float]:
    """Largest distance of captured scores from uncaptured ones, and from those of the oracles."""
    captured, plain, oracle = (
        StepRunner.of(decoder, [state], steps=8, capture=number == 0) for number in range(3)
    )
    exact = worst = 0.0
    for number in range(5):
        ids = [(17 * number + s) % 1000 for s in range(state.sequences or 0)]
        captured.step(ids)
        plain.step(ids)
        with ExitStack() as stack:
            for op in STEP_OPS:
                stack.enter_context(override(op, "torch" if "torch" in names(op) else "sdpa"))
            oracle.step(ids)
        exact = max(exact, distance(captured.logits, plain.logits))
        worst = max(worst, distance(captured.logits, oracle.logits))
    if max(exact, worst) > MOST_DISTANCE:
        raise WrongStepError(f"captured {exact:.2e} from uncaptured, {worst:.2e} from the oracles")
    return exact, worst


class WrongStepError(RuntimeError):
    """Steps that are not what they should be: no times of them."""


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


def one(decoder: Decoder, keys: int, *, profile: bool) -> dict[str, Any]:
    """Batch 1 behind a long video."""
    state = random_state(decoder, keys).fork()
    exact, error = check_graph(decoder, state)
    print(f"one: captured {exact:.2e} from uncaptured, {error:.2e} from oracles", flush=True)
    runner = StepRunner.of(decoder, [state], steps=256)
    runner.step([1])
    ms = timed(runner, rounds=48)
    moved = step_bytes(decoder, runner)
    record = {
        "keys": keys,
        "captured_from_uncaptured": exact,
        "step_from_oracles": error,
        "ms": ms,
        "tokens_per_s": 1e3 / ms,
        "bytes": moved,
        "tb_s": moved / ms / 1e9,
    }
    print(json.dumps(record), flush=True)
    if profile:
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
        capacity = [context + 1024] * len(config.layers)
        slots = decoder.slots_for(sequences, capacity=capacity)
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
        del runner, slots, layer
    return record


def packed_questions(decoder: Decoder, count: int, size: int = 32) -> tuple[torch.Tensor, Any]:
    """Embedded random questions and their layout."""
    layout = TokenLayout.pack([TokenLayout.of((SpanKind.INSTRUCTION, size))] * count)
    generator = torch.Generator().manual_seed(5)
    ids = torch.randint(0, decoder.config.vocab_size, (count * size,), generator=generator)
    return ids.to(decoder.embed_tokens.weight.device), layout


def opened(
    decoder: Decoder, states: Sequence[DecoderState], which: Sequence[int], total: int
) -> OpenAnswer:
    """The questions of those numbers, each behind a video, read in one pass."""
    ids, _ = packed_questions(decoder, total)
    rows = ids.view(total, -1)[list(which)]
    layout = TokenLayout.pack([TokenLayout.of((SpanKind.INSTRUCTION, rows.shape[1]))] * len(rows))
    one = len({id(state) for state in states}) == 1
    forked = states[0].fork(len(rows)) if one else stack([state.fork() for state in states])
    tokens = Tokens.of(decoder.embed(rows.flatten()), layout)
    out, after = decoder.run(tokens, forked, only_last=True)
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
        prompt = opened(decoder, [state] * len(which), which, count)
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
        prompt = opened(decoder, [states[n] for n in which], which, count)
        clock.lap("open")
        runner = runners.runner(decoder, [prompt], most=tokens)
        clock.lap("buffers")
        answers = written(GraphSteps(runner, [prompt]), len(which), tokens)
        clock.lap("write")
        if len(which) > 1 or which[0] == 1:
            print("videos", len(which), clock.laps, flush=True)
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


def toy_decoder(device: str) -> Decoder:
    """A small hybrid of the same kind."""
    from tests.toy_engine import toy_config, toy_model

    return toy_model(toy_config("plain"), dtype=torch.float32).decoder.to(device)


def full(args: argparse.Namespace) -> Decoder:
    """The 9B decoder, random."""
    dtype = torch.float32 if args.float32 else torch.bfloat16
    return random_decoder(MODEL, device="cuda", dtype=dtype)


def measured(parts: Sequence[str], args: argparse.Namespace, decoder: Decoder) -> dict[str, Any]:
    """What the parts asked for found."""
    keys, context = (300, 40) if args.toy else (FRAMES_KEYS, CONTEXT)
    batches = [2, 3] if args.toy else [int(n) for n in args.batches.split(",")]
    tokens = 6 if args.toy else args.tokens
    ways: dict[str, Callable[[], dict[str, Any]]] = {
        "one": lambda: one_of_either(decoder, keys, profile=args.profile),
        "questions": lambda: questions(decoder, keys, tokens),
        "videos": lambda: videos(decoder, 200 if args.toy else args.video_keys, tokens),
        "many": lambda: many(decoder, context, batches),
    }
    return {part: ways[part]() for part in parts}


def one_of_either(decoder: Decoder, keys: int, *, profile: bool) -> dict[str, Any]:
    """`one`, without overlap if that is what makes it wrong; nothing if both are."""
    try:
        return one(decoder, keys, profile=profile)
    except WrongStepError as error:
        print(f"one: {error}; once more without overlap", flush=True)
        found = {"with_overlap": str(error)}
    _no_overlap()
    try:
        return found | one(decoder, keys, profile=profile)
    except WrongStepError as error:
        print(f"one: {error}", flush=True)
        return found | {"without_overlap": str(error)}


def _no_overlap() -> None:
    """Launch one kernel at a time."""
    for module in (few_rows_triton, step_triton, norm_triton, pick_triton):
        module.overlaps = lambda _: False


def main() -> None:
    """Run the parts asked for and save what they found."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--parts", default="one")
    parser.add_argument("--batches", default="32,64")
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--video-keys", type=int, default=FRAMES_KEYS)
    parser.add_argument("--no-overlap", action="store_true", help="launch one kernel at a time")
    parser.add_argument("--profile", action="store_true", help="the kernels of one step")
    parser.add_argument("--float32", action="store_true", help="are answers equal to the letter?")
    parser.add_argument("--out", type=Path)
    parser.add_argument("--toy", action="store_true", help="small sizes on a CPU: does it run?")
    args = parser.parse_args()
    if args.no_overlap:
        _no_overlap()
    parts, device = args.parts.split(","), "cpu" if args.toy else "cuda"
    record: dict[str, Any] = {"model": MODEL, "caches": "random numbers of the right length"}
    ours = [part for part in parts if part != "peer"]
    with torch.inference_mode():
        if ours:
            record |= measured(ours, args, toy_decoder(device) if args.toy else full(args))
        if "peer" in parts:
            record["peer"] = peer(device, CONTEXT if not args.toy else 40, toy=args.toy)
    save(record, args.out)


if __name__ == "__main__":
    main()
