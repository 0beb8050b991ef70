"""Time the 9B language model reading a long video on one GPU: seconds, memory, the next question.

    python -m benchmarks.prefill_gpu [--model nano-9b-v2] [--frames 10240 ...] [--chunk 8192]
        [--precision bf16|fp8] [--peer] [--marks] [--toy] [--out FILE]

Weights and vision tokens are random; sizes are the preset's own. First the same tokens are read
under two cuts and must give the same scores of the next token. --peer also times Qwen2.5-7B of
transformers, one shot, in the same call. --marks tells seconds and milliseconds a frame at 1k, 10k,
30k, ... frames on the way. --at times two chunks behind so many frames whose keys are random
numbers instead of having been read: what a chunk and a question cost there, and that it fits.
--profile prints the kernels of chunks and of a question there.
"""

from __future__ import annotations

import argparse
import gc
import time
from fractions import Fraction
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.gpu import GIB, ceilings, distance, peak_gib, random_decoder, save
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.core.precision import Precision
from timeviper.inference.planning.planner import Setting, forecast
from timeviper.model.decoder import Decoder
from timeviper.model.keys import AttentionMemory, fresh
from timeviper.model.linear import quantize_
from timeviper.model.pile import AT_ONCE
from timeviper.model.presets import preset
from timeviper.model.state import DecoderState, PendingTransfer
from timeviper.model.tokens import Tokens

TOKENS_A_FRAME = 16
QUESTION = 32
MARKS = (1_000, 3_000, 10_000, 30_000, 100_000)
# Other sums round otherwise, and 56 random layers make much of it: relative change of the scores
# under another cut. Two cuts of the right thing were 0.027 apart in bf16; a scan that lost a short
# chunk's state moved them by 0.077.
ROUNDING = {"bf16": 5e-2, "fp8": 3e-1}


def device() -> str:
    """CUDA, or the CPU for a rehearsal."""
    return "cuda" if torch.cuda.is_available() else "cpu"


def wait() -> None:
    """Until the device has done all it was given."""
    if torch.cuda.is_available():
        torch.cuda.synchronize()


def vision(decoder: Decoder, count: int, seed: int) -> Tensor:
    """Random vision tokens as a projector gives them."""
    generator = torch.Generator(device()).manual_seed(seed)
    like = decoder.embed_tokens.weight
    shape = count, decoder.config.hidden_size
    return torch.randn(shape, generator=generator, device=like.device, dtype=like.dtype)


def vision_tokens(hidden: Tensor) -> Tokens:
    """Hidden states of one sequence of vision tokens."""
    return Tokens.of(hidden, TokenLayout.of((SpanKind.VISION, len(hidden))))


def read(
    decoder: Decoder, frames: int, chunk: int, marks: dict[int, dict[str, float]] | None = None
) -> DecoderState:
    """Read frames in chunks as the engine does; where `marks` are wanted, times at each."""
    began, state = time.perf_counter(), None
    total = frames * TOKENS_A_FRAME
    whole = total // chunk * chunk
    for start in range(0, total, chunk):
        count = min(chunk, total - start)
        # In a whole chunk: a short one at the end would tell of shapes that are new to the device.
        ends = ((m, min(m * TOKENS_A_FRAME, whole)) for m in MARKS if m <= frames)
        passed = [m for m, end in ends if start < end <= start + count]
        if marks is not None and passed:
            wait()
        here = time.perf_counter()
        # The same few blocks again and again: what is read does not change the work.
        tokens = vision_tokens(vision(decoder, count, seed=start % 7))
        _, state = decoder.run(tokens, state, more=True, only_last=True)
        if start == 0:
            state = state.reserve(total / count, 1024)
        if marks is not None and passed:
            wait()
            now = time.perf_counter()
            each = (now - here) * 1e3 * TOKENS_A_FRAME / count
            marks |= {mark: {"seconds": now - began, "ms_a_frame": each} for mark in passed}
            print(marks[passed[-1]], "at", passed[-1], "frames", flush=True)
    wait()
    return state


def question(decoder: Decoder, state: DecoderState, seed: int = 0) -> Tensor:
    """Scores of the first token of an answer."""
    generator = torch.Generator().manual_seed(seed)
    ids = torch.randint(0, decoder.config.vocab_size, (QUESTION,), generator=generator)
    layout = TokenLayout.pack([TokenLayout.of((SpanKind.INSTRUCTION, QUESTION))])
    tokens = Tokens.of(decoder.embed(ids.to(device())), layout)
    return decoder.logits(decoder.run(tokens, state.fork(), only_last=True)[0].hidden)


def planted(decoder: Decoder, frames: int, chunk: int) -> DecoderState:
    """A state as after so many frames, but of random keys and random tokens that wait."""
    state, room = read(decoder, chunk // TOKENS_A_FRAME, chunk), 3 * chunk + 1024
    longer = Fraction(frames * TOKENS_A_FRAME, chunk)

    def filled(memory: AttentionMemory) -> AttentionMemory:
        length = int(memory.own[0] * longer)
        shape = (1, length + room, *memory.k.shape[2:])
        k, v = (memory.k.new_empty(shape).normal_() for _ in range(2))
        return fresh(k, v, (length,))

    def waiting(site: PendingTransfer) -> PendingTransfer:
        left = int(sum(len(part.kinds) for part in site.parked) * longer)
        sizes = [min(AT_ONCE, left - done) for done in range(0, left, AT_ONCE)]
        return PendingTransfer(
            tuple(int(seen * longer) for seen in site.seen),
            filled(site.dropped) if site.dropped else None,
            tuple(vision_tokens(vision(decoder, size, seed=n)) for n, size in enumerate(sizes)),
        )

    return DecoderState(
        tuple(filled(m) if isinstance(m, AttentionMemory) else m for m in state.memories),
        tuple(waiting(site) if site else None for site in state.pending),
    )


def behind(decoder: Decoder, frames: int, chunk: int) -> dict[str, Any]:
    """Milliseconds a frame and of a question behind so many frames, and peaks in GiB."""
    state = planted(decoder, frames, chunk)
    if torch.cuda.is_available():
        torch.cuda.reset_peak_memory_stats()
    tokens, spent = vision_tokens(vision(decoder, chunk, seed=0)), []
    for _ in range(2):
        wait()
        began = time.perf_counter()
        _, state = decoder.run(tokens, state, more=True, only_last=True)
        wait()
        spent.append(time.perf_counter() - began)
    record = {"behind_frames": frames, "ms_a_frame": spent[-1] * 1e3 * TOKENS_A_FRAME / chunk}
    record["state_gib"] = state.nbytes / GIB
    if torch.cuda.is_available():
        record["prefill_peak_gib"] = peak_gib()
        torch.cuda.reset_peak_memory_stats()
    for name in ("question_s", "next_question_s"):
        began = time.perf_counter()
        question(decoder, state, seed=len(name))
        wait()
        record[name] = time.perf_counter() - began
    if torch.cuda.is_available():
        record["question_peak_gib"] = peak_gib()
    return record


def told(name: str, frames: int, chunk: int, precision: str) -> dict[str, float]:
    """What the planner forecasts for the decoder alone, GiB."""
    setting = Setting(tower=False, prefix=0, question=QUESTION, fp8=precision == "fp8")
    plan = forecast(
        preset(name), frames=frames, chunk=chunk, precision=Precision.BFLOAT16, setting=setting
    )
    return {
        "forecast_prefill_gib": plan.prefill_peak / GIB,
        "forecast_question_gib": plan.question_peak / GIB,
    }


def check(decoder: Decoder, chunk: int, precision: str) -> dict[str, float]:
    """Other cuts of the same tokens must lead to the same scores."""
    x = vision(decoder, 3 * chunk // 2, seed=1)
    found: list[Tensor] = []
    for size in (chunk, chunk // 2, chunk // 4 + 3):
        state = None
        for part in x.split(size):
            _, state = decoder.run(vision_tokens(part), state, more=True, only_last=True)
        found.append(question(decoder, state).float())
    even, odd = (distance(other, found[0]) for other in found[1:])
    if not max(odd, even) < ROUNDING[precision]:
        raise SystemExit(
            f"refused: an odd cut moves scores by {odd:.3g}, an even one by {even:.3g}"
        )
    return {"even_cut": even, "odd_cut": odd}


def measure(decoder: Decoder, frames: int, chunk: int, *, marks: bool) -> dict[str, Any]:
    """Seconds of reading, of the first question and of the next, and peaks of memory in GiB."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()
    on_the_way: dict[int, dict[str, float]] | None = {} if marks else None
    began = time.perf_counter()
    state = read(decoder, frames, chunk, on_the_way)
    record: dict[str, Any] = {"frames": frames, "prefill_s": time.perf_counter() - began}
    record["state_gib"] = state.nbytes / GIB
    if torch.cuda.is_available():
        record["prefill_peak_gib"] = peak_gib()
        torch.cuda.reset_peak_memory_stats()
    for name in ("question_s", "next_question_s", "third_question_s"):
        began = time.perf_counter()
        scores = question(decoder, state, seed=len(name))
        wait()
        record[name] = time.perf_counter() - began
        if not bool(torch.isfinite(scores).all()):
            raise SystemExit("refused: scores are not finite")
    if torch.cuda.is_available():
        record["question_peak_gib"] = peak_gib()
    if on_the_way is not None:
        record["on_the_way"] = on_the_way
    return record


def peer(frames: int) -> dict[str, Any]:
    """Qwen2.5-7B of transformers reading as many tokens in one shot."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    config = Qwen2Config(
        vocab_size=152064,
        hidden_size=3584,
        intermediate_size=18944,
        num_hidden_layers=28,
        num_attention_heads=28,
        num_key_value_heads=4,
        max_position_embeddings=262144,
    )
    torch.set_default_dtype(torch.bfloat16)
    with torch.device("cuda"):
        model = Qwen2ForCausalLM._from_config(config, attn_implementation="sdpa").eval()
    torch.set_default_dtype(torch.float32)
    ids = torch.randint(0, 1000, (1, frames * TOKENS_A_FRAME), device="cuda")
    torch.cuda.reset_peak_memory_stats()
    model(ids[:, :1024], logits_to_keep=1)
    wait()
    began = time.perf_counter()
    model(ids, logits_to_keep=1, use_cache=True)
    wait()
    return {"name": "Qwen2.5-7B", "prefill_s": time.perf_counter() - began, "peak": peak_gib()}


def arguments() -> argparse.Namespace:
    """What the caller wants."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", default=["nano-9b-v2", "nano-9b-v2-transv"])
    parser.add_argument("--frames", nargs="+", type=int, default=[1024, 10_240])
    parser.add_argument("--chunk", type=int, default=8192)
    parser.add_argument("--precision", choices=["bf16", "fp8"], default="bf16")
    parser.add_argument("--peer", action="store_true")
    parser.add_argument("--at", nargs="+", type=int, default=[])
    parser.add_argument("--marks", action="store_true")
    parser.add_argument("--profile", action="store_true")
    parser.add_argument("--toy", action="store_true")
    parser.add_argument("--out", type=Path)
    return parser.parse_args()


@torch.inference_mode()
def main() -> None:
    """Check, measure, save."""
    args = arguments()
    record: dict[str, Any] = {"chunk": args.chunk, "precision": args.precision, "runs": []}
    if not args.toy:
        record["ceilings"] = ceilings()
    for name in args.model:
        decoder = random_decoder(name, device=device())
        if args.precision == "fp8":
            quantize_(decoder.layers)
        decoder.warm()
        gap = check(decoder, args.chunk, args.precision)
        read(decoder, 2 * args.chunk // TOKENS_A_FRAME, args.chunk)
        for frames in args.frames:
            run = {"model": name, "scores_move_by": gap}
            run |= measure(decoder, frames, args.chunk, marks=args.marks)
            print(run, flush=True)
            record["runs"].append(run | told(name, frames, args.chunk, args.precision))
        for frames in args.at:
            run = {"model": name, **behind(decoder, frames, args.chunk)}
            print(run, flush=True)
            record["runs"].append(run | told(name, frames, args.chunk, args.precision))
        if args.profile:
            for frames in args.at or [2048]:
                profile(decoder, frames, args.chunk)
        del decoder
    if args.peer:
        gc.collect()
        torch.cuda.empty_cache()
        record["peer"] = peer(max(args.frames))
    save(record, args.out)


def profile(decoder: Decoder, frames: int, chunk: int) -> None:
    """Kernels of two chunks and of a question behind so many frames, the heaviest first."""
    state = planted(decoder, frames, chunk)
    tokens = vision_tokens(vision(decoder, chunk, seed=0))

    def chunks() -> None:
        nonlocal state
        for _ in range(2):
            _, state = decoder.run(tokens, state, more=True, only_last=True)

    for name, work in (("two chunks", chunks), ("a question", lambda: question(decoder, state))):
        with torch.profiler.profile() as found:
            work()
            wait()
        print(f"{name} behind {frames} frames", flush=True)
        table = found.key_averages().table(
            sort_by="self_cuda_time_total", row_limit=24, max_name_column_width=60
        )
        print(table, flush=True)


if __name__ == "__main__":
    main()
