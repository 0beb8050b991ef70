"""Small transformers models with every weight drawn, saved and loaded by ours."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    NemotronHConfig,
    NemotronHForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.models.nemotron_h.modeling_nemotron_h import NemotronHMamba2Mixer

from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.core.precision import Precision
from timeviper.model.decoder import Decoder
from timeviper.weights.loader import load_decoder

VOCAB = 64
PATTERNS = ("M", "*-", "M-M*-M-", "M-M-MM-*-M*-M", "**-MM--M")
_LAYER_NAMES = {"M": "linear_attention", "*": "full_attention", "-": "mlp"}
_DENSE: dict[str, tuple[type, type, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {"head_dim": 16}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "qwen2-tied": (Qwen2Config, Qwen2ForCausalLM, {"tie_word_embeddings": True}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {"head_dim": 16}),
}
MODELS = (*PATTERNS, *_DENSE)


@dataclass(frozen=True)
class Pair:
    """One model twice: as transformers computes it, and as ours does from the saved folder."""

    oracle: nn.Module
    ours: Decoder
    folder: Path


def make_pair(name: str, folder: Path) -> Pair:
    """The pair of a name in `MODELS`; its folder is written by transformers."""
    oracle = _dense(name) if name in _DENSE else hybrid(name)
    draw(oracle)
    oracle.save_pretrained(folder)
    return Pair(oracle, load_decoder(folder, device="cpu", precision=Precision.FLOAT32), folder)


def hybrid(pattern: str) -> nn.Module:
    """A Nemotron-H with the layers of `pattern`; attention and Mamba are wider than the stream."""
    config = NemotronHConfig(
        vocab_size=VOCAB,
        hidden_size=32,
        layers_block_type=[_LAYER_NAMES[letter] for letter in pattern],
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=12,
        intermediate_size=48,
        ssm_state_size=16,
        mamba_num_heads=8,
        mamba_head_dim=6,
        n_groups=2,
        chunk_size=16,
    )
    return unclamped(NemotronHForCausalLM(config).eval())


def unclamped(oracle: nn.Module, *, limit: tuple[float, float] = (0.0, math.inf)) -> nn.Module:
    """The same model, its time steps limited as its config says.

    transformers' chunked path clamps dt at 1e-3 although the config says (0, inf); its step path
    does not.
    """
    for part in oracle.modules():
        if isinstance(part, NemotronHMamba2Mixer):
            part.time_step_limit = limit
    return oracle


def _dense(name: str) -> nn.Module:
    config, model, more = _DENSE[name]
    sizes = {
        "vocab_size": VOCAB,
        "hidden_size": 32,
        "num_hidden_layers": 3,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "intermediate_size": 48,
        "max_position_embeddings": 256,
        "attn_implementation": "eager",
        "bos_token_id": None,
        "eos_token_id": None,
    }
    return model(config(**sizes, **more)).eval()


@torch.no_grad()
def draw(model: nn.Module, seed: int = 0) -> None:
    """Draw every weight so that each matters: no ones, no zeros, outputs of order one."""
    generator = torch.Generator().manual_seed(seed)
    for name, weight in model.named_parameters():
        noise = torch.randn(weight.shape, generator=generator)
        if weight.ndim > 1:
            weight.copy_(noise / math.sqrt(weight[0].numel()))
        elif name.endswith("A_log"):
            weight.copy_(noise * 0.5 + 0.5)
        elif name.endswith("dt_bias"):
            weight.copy_(noise * 3 - 4)
        elif name.endswith("bias"):
            weight.copy_(noise * 0.3)
        else:
            weight.copy_(1 + noise * 0.3)


def draw_ids(*lengths: int, seed: int = 1) -> list[Tensor]:
    """Token ids of sequences of these lengths."""
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(0, VOCAB, (n,), generator=generator) for n in lengths]


def text(*lengths: int) -> TokenLayout:
    """Layout of sequences of plain text."""
    return TokenLayout.pack(TokenLayout.of((SpanKind.TEXT, n)) for n in lengths)


@torch.no_grad()
def packed_logits(ours: Decoder, ids: Sequence[Tensor]) -> list[Tensor]:
    """Our logits of several sequences in one packed call, a tensor a sequence."""
    lengths = [len(row) for row in ids]
    hidden, _ = ours(ours.embed(torch.cat(list(ids))), layout=text(*lengths))
    return list(ours.logits(hidden).split(lengths))


@torch.no_grad()
def oracle_logits(oracle: nn.Module, ids: Tensor) -> Tensor:
    """Transformers' logits of one sequence."""
    return oracle(input_ids=ids[None], use_cache=False).logits[0]


@torch.no_grad()
def padded_logits(oracle: nn.Module, ids: Sequence[Tensor], *, side: str) -> list[Tensor]:
    """Transformers' logits of a padded batch, without the padding, a tensor a sequence."""
    longest = max(len(row) for row in ids)
    batch = torch.zeros(len(ids), longest, dtype=torch.long)
    mask = torch.zeros_like(batch)
    for number, row in enumerate(ids):
        place = slice(longest - len(row), None) if side == "left" else slice(len(row))
        batch[number, place], mask[number, place] = row, 1
    logits = oracle(input_ids=batch, attention_mask=mask, use_cache=False).logits
    return [part[keep.bool()] for part, keep in zip(logits, mask, strict=True)]
