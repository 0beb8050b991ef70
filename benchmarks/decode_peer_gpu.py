"""The peer of `decode_gpu.py`: Qwen3-8B in transformers, 32k tokens in, one more at a time."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Any

import torch
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    PreTrainedModel,
    Qwen3Config,
    StaticCache,
)

from benchmarks.gpu import GIB, median_ms

BATCHES = (13, 12, 11, 10, 8, 6, 4)


def config_of(*, toy: bool) -> Qwen3Config:
    """Qwen3-8B's sizes."""
    sizes = {
        "hidden_size": 4096,
        "intermediate_size": 12288,
        "num_hidden_layers": 36,
        "num_attention_heads": 32,
        "num_key_value_heads": 8,
        "head_dim": 128,
        "vocab_size": 151936,
    }
    if toy:
        sizes |= {"hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2}
        sizes |= {"num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 16}
        sizes["vocab_size"] = 100
    return Qwen3Config(**sizes, max_position_embeddings=65536, attn_implementation="sdpa")


def random_peer(device: str, *, toy: bool) -> PreTrainedModel:
    """The model with random weights, made where it runs."""
    dtype = torch.float32 if toy else torch.bfloat16
    with torch.device(device):
        before = torch.get_default_dtype()
        torch.set_default_dtype(dtype)
        try:
            model = AutoModelForCausalLM.from_config(config_of(toy=toy))
        finally:
            torch.set_default_dtype(before)
    return model.eval().requires_grad_(requires_grad=False)


def peer(device: str, context: int, *, toy: bool) -> dict[str, Any]:
    """Tokens a second of each of its caches, each at the largest batch that fits."""
    model = random_peer(device, toy=toy)
    size = sum(p.numel() for p in model.parameters())
    print(f"peer: {size / 1e9:.2f} B parameters", flush=True)
    record: dict[str, Any] = {"parameters": size}
    for name, way in (("dynamic", _dynamic), ("static", _static)):
        for batch in (2,) if toy else BATCHES:
            _free(device)
            try:
                found = way(model, batch, context, device)
            except (RuntimeError, TypeError, AttributeError) as error:
                # Memory runs out in several ways; another version may name its parts otherwise.
                print(f"peer {name}: {batch} do not fit: {str(error)[:200]}", flush=True)
                continue
            record[name] = {"batch": batch, **found}
            print(f"peer {name}: {record[name]}", flush=True)
            break
    speeds = [v for r in record.values() if isinstance(r, dict) for k, v in r.items() if "_s" in k]
    record["best_tokens_per_s"] = max(speeds, default=0.0)
    return record


def _free(device: str) -> None:
    gc.collect()
    if device == "cuda":
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def _static(model: PreTrainedModel, batch: int, context: int, device: str) -> dict[str, Any]:
    """As `generate(cache_implementation="static")` without compiling, then as a CUDA graph."""
    cache = StaticCache(config=model.config, max_cache_len=context + 1024)
    ids = torch.ones(batch, 1, dtype=torch.int64, device=device)
    model(ids, past_key_values=cache, use_cache=True)
    for layer in cache.layers:
        layer.keys.normal_()
        layer.values.normal_()
    place = torch.full((1, 1), context, dtype=torch.int64, device=device)

    def fill(length: int) -> None:
        place.fill_(length)
        for layer in cache.layers:
            count = vars(layer).get("cumulative_length")
            if isinstance(count, torch.Tensor):
                count.fill_(length)
            elif count is not None:
                layer.cumulative_length = length

    def step() -> torch.Tensor:
        out = model(
            ids,
            past_key_values=cache,
            use_cache=True,
            position_ids=place,
            cache_position=place[0],
        )
        ids.copy_(out.logits[:, -1].argmax(-1, keepdim=True))
        place.add_(1)
        return out.logits

    fill(context)
    eager = _ms(step, device)
    found: dict[str, Any] = {"eager_tokens_per_s": batch * 1e3 / eager, "eager_ms": eager}
    if device == "cuda":
        try:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):
                step()
            fill(context)
            ms = _ms(graph.replay, device)
            found |= {"graph_tokens_per_s": batch * 1e3 / ms, "graph_ms": ms}
        except RuntimeError as error:
            found["graph"] = str(error)[:200]
        found["peak_gib"] = torch.cuda.max_memory_allocated() / GIB
    return found


def _dynamic(model: PreTrainedModel, batch: int, context: int, device: str) -> dict[str, Any]:
    """As `generate` does it unless told otherwise: keys are copied at each step."""
    config = model.config
    cache = DynamicCache(config=config)
    shape = (batch, config.num_key_value_heads, context, config.head_dim)
    for layer in range(config.num_hidden_layers):
        k, v = (torch.randn(shape, device=device, dtype=model.dtype) for _ in range(2))
        cache.update(k, v, layer)
        del k, v
    ids = torch.ones(batch, 1, dtype=torch.int64, device=device)

    def step() -> torch.Tensor:
        out = model(ids, past_key_values=cache, use_cache=True)
        ids.copy_(out.logits[:, -1].argmax(-1, keepdim=True))
        return out.logits

    ms = _ms(step, device)
    found: dict[str, Any] = {"eager_tokens_per_s": batch * 1e3 / ms, "eager_ms": ms}
    if device == "cuda":
        found["peak_gib"] = torch.cuda.max_memory_allocated() / GIB
    return found


def _ms(step: Callable[[], object], device: str) -> float:
    if device == "cuda":
        return median_ms(step, rounds=12, warmup=3)
    step()
    return 1.0
