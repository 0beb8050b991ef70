"""Attention at the 9B model's shapes on one GPU: chunks of a prefill, steps, shared keys.

python -m benchmarks.attention_gpu [--toy] [--anyway] [--out FILE]
    Checks every path against float32 first, then times it against FlashAttention in the same
    call. `--toy` proves the script on a CPU.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import ceilings, distance, median_ms, save
from timeviper.ops import attention_pieces, attention_torch
from timeviper.ops.attention import attention, attention_step, warm_attention
from timeviper.ops.attention_parts import SharedKeys
from timeviper.ops.backend import explain
from timeviper.ops.fronts import Fronts

HEADS, KV_HEADS, HEAD_DIM = 40, 8, 128
# Largest relative distance from float32 results of the same bfloat16 operands.
RIGHT = 5e-3


class Bench:
    """Operands on a device, times that are only taken on a GPU, and the record."""

    def __init__(self, toy: bool) -> None:
        self.toy = toy
        self.device = "cpu" if toy else "cuda"
        self.dtype = torch.float32 if toy else torch.bfloat16
        self.record: dict[str, Any] = {}
        self.wrong: list[str] = []
        self.began = time.perf_counter()

    def size(self, count: int) -> int:
        """A number of tokens, small in a toy run."""
        return min(count, max(1, count // 256)) if self.toy else count

    def draw(self, *shape: int) -> Tensor:
        """Random values."""
        return torch.empty(shape, device=self.device, dtype=self.dtype).normal_()

    def keys(self, lengths: list[int], spare: int = 7) -> tuple[Tensor, Tensor]:
        """Keys and values with NaN in every slot that is not filled."""
        shape = (len(lengths), max(lengths) + spare, KV_HEADS, HEAD_DIM)
        k, v = self.draw(*shape), self.draw(*shape)
        for s, length in enumerate(lengths):
            k[s, length:] = torch.nan
            v[s, length:] = torch.nan
        return k, v

    def ms(self, run: Callable[[], object], rounds: int = 5) -> float:
        """Median milliseconds."""
        if self.toy:
            run()
            return 1.0
        return median_ms(run, rounds=rounds, warmup=1)

    def graphed_ms(self, run: Callable[[], object]) -> float:
        """Median milliseconds of a CUDA graph of it: no launches between the kernels."""
        if self.toy:
            return self.ms(run)
        run()
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            run()
        return self.ms(graph.replay, rounds=11)

    def say(self, part: str, name: str, value: Any) -> None:
        """Print at once, and keep."""
        print(f"[{time.perf_counter() - self.began:6.1f}] {part} | {name}: {value}", flush=True)
        self.record.setdefault(part, {})[name] = value


def right(bench: Bench) -> None:
    """Compare every path with float32, or stop."""
    cases = [
        ([8192], [8192], 0),
        ([8192], [8192 * 5 + 24], 0),
        ([2600], [70_000], 0),
        ([2100], [24_653], 0),
        ([2051], [10_255], 0),
        ([2051], [12_306], 0),
        ([3], [12_288], 0),
        ([300], [20_000], 0),
        ([130], [20_000], 0),
        ([40], [2_200_000], 0),
        ([300], [2_200_000], 0),
        ([20], [20_000], 0),
        ([33], [33], 0),
        ([500, 600], [500, 20_000], 0),
        ([1, 1, 1], [900, 3, 20_000], 0),
        ([5, 20, 1], [5, 30, 9], 30_000),
        ([5, 0, 1], [5, 30, 9], 1_000),
        ([700], [900], 30_000),
    ]
    for q_lengths, k_lengths, front in cases:
        shrunk = [bench.size(x) for x in q_lengths], [bench.size(x) for x in k_lengths]
        for causal in (True, False):
            one_case(bench, *shrunk, bench.size(front), causal)


def one_case(
    bench: Bench, q_lengths: list[int], k_lengths: list[int], front: int, causal: bool
) -> None:
    q = bench.draw(sum(q_lengths), HEADS, HEAD_DIM)
    k, v = bench.keys(k_lengths)
    fronts = [shared_keys(bench, front) if front else None] * len(q_lengths)
    call: dict[str, Any] = {"q_lengths": q_lengths, "k_lengths": k_lengths, "causal": causal}
    wide = [x.float() for x in (q, k, v)]
    wide_fronts = [in_float(keys) for keys in fronts]
    want = attention_torch.behind_shared(*wide, **call, scale=None, shared=wide_fronts)
    name = f"{q_lengths} x {k_lengths} + {front} {'causal' if causal else 'all'}"
    ways = {"": (q, k, v)}
    if len(q_lengths) == 1 and q_lengths[0] in (20, 300, 2100) and not bench.toy:
        ways["host "] = (q, k.cpu().pin_memory(), v.cpu())
    for way, operands in ways.items():
        check(bench, way + name, attention(*operands, **call, shared=fronts), want)


def check(bench: Bench, name: str, got: Tensor, want: Tensor) -> None:
    error = distance(got, want)
    if not error < RIGHT:
        bench.wrong.append(name)
    bench.say("relative distance from float32", name, round(error, 5))


def shared_keys(bench: Bench, length: int) -> SharedKeys:
    k, v = bench.keys([length])
    return SharedKeys(k=k[0], v=v[0], length=length)


def in_float(keys: SharedKeys | None) -> SharedKeys | None:
    return keys and SharedKeys(k=keys.k.float(), v=keys.v.float(), length=keys.length)


def tables(bench: Bench, shared: SharedKeys | None, sequences: int) -> Fronts:
    """For steps of sequences behind the same keys."""
    ratio, device = HEADS // KV_HEADS, torch.device(bench.device)
    return Fronts.of_step([shared] * sequences, ratio=ratio, device=device)


def right_steps(bench: Bench) -> None:
    """Steps against float32, also replayed from a graph after the lengths grew."""
    for lengths, front in (([3000, 1, 700], 0), ([0, 33, 900, 5, 6, 7, 8, 1, 2], 2500)):
        filled = [bench.size(x) for x in lengths]
        k, v = bench.keys(filled, spare=20)
        q = bench.draw(len(lengths), HEADS, HEAD_DIM)
        keys = shared_keys(bench, bench.size(front)) if front else None
        shared = tables(bench, keys, len(lengths))
        on_device = torch.tensor(filled, device=bench.device)
        k_now, v_now = k.nan_to_num(0.5), v.nan_to_num(0.5)
        y = attention_step(q, k_now, v_now, k_lengths=on_device, shared=shared)
        if not bench.toy:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                y = attention_step(q, k_now, v_now, k_lengths=on_device, shared=shared)
        for grown in (0, 9):
            on_device += grown
            if bench.toy:
                y = attention_step(q, k_now, v_now, k_lengths=on_device, shared=shared)
            else:
                graph.replay()
            wide = [x.float() for x in (q, k_now, v_now)]
            wide_shared = tables(bench, in_float(keys), len(lengths))
            want = attention_torch.attention_step(*wide, k_lengths=on_device, shared=wide_shared)
            check(bench, f"step, {len(lengths)} sequences + {front}, grown by {grown}", y, want)


def chunks(bench: Bench) -> None:
    """A chunk of queries behind a past of some lengths, and a whole prefill of one layer."""
    total, chunk = bench.size(163_840), bench.size(8_192)
    k, v = bench.draw(1, total, KV_HEADS, HEAD_DIM), bench.draw(1, total, KV_HEADS, HEAD_DIM)
    q = bench.draw(chunk, HEADS, HEAD_DIM)

    def run(keys: int, backend: str | None, queries: int = chunk) -> Tensor:
        call = {"q_lengths": [queries], "k_lengths": [keys], "backend": backend}
        return attention(q[:queries], k, v, **call)

    def prefill(backend: str | None) -> None:
        for end in range(chunk, total + 1, chunk):
            run(end, backend)

    for past in (0, 8_192, 24, 81_920, 90_000, 155_648):
        keys = bench.size(past) + chunk
        pairs = chunk * (keys - chunk / 2)
        found: dict[str, float] = {}
        for name, backend in (("flash", "sdpa" if bench.toy else "flash"), ("chosen", None)):
            found[name + " ms"] = ms = bench.ms(lambda b=backend, n=keys: run(n, b), 3)
            found[name + " TF/s"] = 4 * pairs * HEADS * HEAD_DIM / ms / 1e9
        bench.say("8,192 queries behind", str(past), rounded(found))
    kept = attention_pieces.CUDNN_KEYS
    for blocks in (kept, (8_192,), (131_072, *kept)):
        attention_pieces.CUDNN_KEYS = blocks
        prefill(None)
        ms = bench.ms(lambda: prefill(None), 1)
        rate = 2 * total**2 * HEADS * HEAD_DIM / ms / 1e9
        bench.say("prefill of 163,840", f"blocks of {blocks}", f"{ms:.1f} ms, {rate:.0f} TF/s")
    attention_pieces.CUDNN_KEYS = kept
    ms = bench.ms(lambda: prefill("sdpa" if bench.toy else "flash"), 1)
    bench.say("prefill of 163,840", "flash", f"{ms:.1f} ms")
    few_queries(bench, run, total)
    far(bench)
    if not bench.toy:
        host = [x.cpu().pin_memory() for x in (k, v)]
        for queries in (chunk, 20):
            call = {"q_lengths": [queries], "k_lengths": [total]}
            ms = bench.ms(lambda n=queries, c=call: attention(q[:n], *host, **c), 2)
            bench.say("keys in pinned host memory", f"{queries} queries, ms", round(ms, 2))


def far(bench: Bench) -> None:
    """At the end of 100,000 frames: a chunk, and a step."""
    keys, chunk = bench.size(1_600_000), bench.size(8_192)
    k, v = bench.draw(1, keys, KV_HEADS, HEAD_DIM), bench.draw(1, keys, KV_HEADS, HEAD_DIM)
    q = bench.draw(chunk, HEADS, HEAD_DIM)
    ms = bench.ms(lambda: attention(q, k, v, q_lengths=[chunk], k_lengths=[keys]), 1)
    rate = 4 * chunk * (keys - chunk / 2) * HEADS * HEAD_DIM / ms / 1e9
    bench.say("1,600,000 keys", "8,192 queries", rounded({"ms": ms, "TF/s": rate}))
    lengths = torch.tensor([keys], device=bench.device)
    ms = bench.graphed_ms(lambda: attention_step(q[:1], k, v, k_lengths=lengths))
    rate = 2 * k.numel() * k.element_size() / ms / 1e9
    bench.say("1,600,000 keys", "step", rounded({"ms": ms, "TB/s": rate}))


def warming(bench: Bench) -> None:
    """The first calls of a process, which plan, and the same again."""
    for name in ("first", "again"):
        began = time.perf_counter()
        warm_attention(
            heads=HEADS,
            kv_heads=KV_HEADS,
            head_dim=HEAD_DIM,
            dtype=bench.dtype,
            device=torch.device(bench.device),
        )
        if not bench.toy:
            torch.cuda.synchronize()
        bench.say("warm_attention, s", name, round(time.perf_counter() - began, 3))


def few_queries(bench: Bench, run: Callable[..., Tensor], total: int) -> None:
    for queries in (1, 20, 40, 128, 200, 384, 1_000):
        count = min(bench.size(8_192), queries)
        found = {
            name: bench.ms(lambda b=backend, n=count: run(total, b, n), 3)
            for name, backend in (("flash", "sdpa" if bench.toy else "flash"), ("chosen", None))
        }
        bench.say("queries x 163,840 keys, ms", str(queries), rounded(found))


def steps(bench: Bench, copy_tb_s: float) -> None:
    """One token a sequence, in a graph: bytes of keys and values over the time."""
    for sequences, keys in ((1, 163_840), (8, 33_000), (32, 33_000), (64, 33_000)):
        bench.say("step", f"{sequences} x {keys}", one_step(bench, sequences, keys, copy_tb_s))


def one_step(bench: Bench, sequences: int, keys: int, copy_tb_s: float) -> dict[str, float]:
    length = bench.size(keys)
    k = bench.draw(sequences, length + 8, KV_HEADS, HEAD_DIM)
    v = torch.empty_like(k).normal_()
    q = bench.draw(sequences, HEADS, HEAD_DIM)
    lengths = torch.full((sequences,), length, device=bench.device)
    ms = bench.graphed_ms(lambda: attention_step(q, k, v, k_lengths=lengths))
    rate = 2 * k[:, :length].numel() * k.element_size() / ms / 1e9
    found = {"ms": ms, "TB/s": rate, "share of copy": rate / copy_tb_s}
    if not bench.toy:
        found["flash ms"] = bench.graphed_ms(lambda: flash_step(q, k, v, length))
    return rounded(found)


def flash_step(q: Tensor, k: Tensor, v: Tensor, length: int) -> Tensor:
    """The peer: FlashAttention, which splits keys too, at lengths that the host knows."""
    k, v = k[:, :length], v[:, :length]
    call = (q[:, None], k, v, None, None, 1, length, 0.0, False, False)
    return torch.ops.aten._flash_attention_forward(*call)[0]


def sharing(bench: Bench) -> None:
    """Sequences behind one video's keys, against a copy of them for each."""
    shared = shared_keys(bench, bench.size(163_840))
    title = "8 sequences behind 163,840 shared keys, ms"
    for tokens in (1, 20):
        bench.say(title, f"{tokens} tokens", shared_and_copied(bench, shared, tokens))
    for many in (32, 64):
        k, v = bench.keys([64] * many)
        q, lengths = bench.draw(many, HEADS, HEAD_DIM), torch.full((many,), 64).to(bench.device)
        front = tables(bench, shared, many)
        step = partial(attention_step, q, k, v, k_lengths=lengths, shared=front)
        bench.say("shared step, ms", f"{many} sequences", round(bench.graphed_ms(step), 3))


def shared_and_copied(bench: Bench, shared: SharedKeys, tokens: int) -> dict[str, float]:
    sequences, own, length = 8, 64, shared.length
    k, v = bench.keys([own] * sequences)
    copies = [
        torch.cat([x[:length].expand(sequences, -1, -1, -1), y], 1)
        for x, y in ((shared.k, k), (shared.v, v))
    ]
    q = bench.draw(sequences * tokens, HEADS, HEAD_DIM)
    if tokens == 1:
        lengths = torch.full((sequences,), own, device=bench.device)
        far = lengths + length
        front = tables(bench, shared, sequences)
        near = partial(attention_step, q, k, v, k_lengths=lengths, shared=front)
        copied = partial(attention_step, q, *copies, k_lengths=far)
        return rounded({"shared": bench.graphed_ms(near), "copies": bench.graphed_ms(copied)})
    call = partial(attention, q, q_lengths=[tokens] * sequences)
    near = partial(call, k=k, v=v, k_lengths=[own] * sequences, shared=[shared] * sequences)
    copied = partial(call, k=copies[0], v=copies[1], k_lengths=[own + length] * sequences)
    return rounded({"shared": bench.ms(near), "copies": bench.ms(copied)})


def rounded(found: dict[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in found.items()}


def main() -> None:
    """Check, time, keep."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--toy", action="store_true", help="small sizes on a CPU")
    parser.add_argument("--anyway", action="store_true", help="time even what is wrong")
    parser.add_argument("--out", type=Path, help="where to keep the figures")
    given = parser.parse_args()
    bench = Bench(given.toy)
    torch.manual_seed(0)
    for choice in explain(bench.device):
        if choice.op.startswith("attention"):
            bench.say("chosen", choice.op, f"{choice.name} ({choice.why})")
    with torch.inference_mode():
        warming(bench)
        right(bench)
        right_steps(bench)
        if bench.wrong and not given.anyway:
            raise SystemExit(f"wrong: {bench.wrong}")
        found = {"copy_tb_s": 1.0} if given.toy else ceilings()
        bench.say("ceilings", "measured", rounded(found))
        steps(bench, found["copy_tb_s"])
        chunks(bench)
        sharing(bench)
    save(bench.record | {"wrong": bench.wrong}, given.out)


if __name__ == "__main__":
    main()
