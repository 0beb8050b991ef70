"""Nemotron-H checkpoints (`model_type: nemotron_h`): tensor names and config, both ways."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from typing import Any

from timeviper.core.errors import ConfigError
from timeviper.model.config import DecoderConfig, MambaConfig
from timeviper.model.pattern import LayerKind
from timeviper.weights.keymap import DEPTHWISE, KeyMap, LeftOut, Rule
from timeviper.weights.settings import must_be, names_in, read, read_or

# Newer files name the layers instead of writing letters; the first name is the one to write.
_LAYER_NAMES = {
    LayerKind.MAMBA: ("linear_attention", "mamba"),
    LayerKind.ATTENTION: ("full_attention", "attention"),
    LayerKind.MLP: ("mlp",),
}
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "use_bias": (False,),
    "mamba_proj_bias": (False,),
    "residual_in_fp32": (False,),
    "mamba_hidden_act": ("silu",),
    "mlp_hidden_act": ("relu2",),
    "sliding_window": (None,),
}
_PARTS = (
    "in_proj.weight",
    "conv1d.bias",
    "A_log",
    "D",
    "dt_bias",
    "norm.weight",
    "out_proj.weight",
    "q_proj.weight",
    "k_proj.weight",
    "v_proj.weight",
    "o_proj.weight",
    "up_proj.weight",
    "down_proj.weight",
)


def keymap(keys: Iterable[str] = (), *, tied: bool = False) -> KeyMap:
    """Rules for the spelling that a checkpoint uses.

    Args:
        keys: names in the checkpoint; `model.*` where one starts so, `backbone.*` otherwise.
        tied: the head is the embedding.

    Returns:
        The rules.
    """
    root = "model" if any(key.startswith("model.") for key in keys) else "backbone"
    layer = f"{root}.layers.{{i}}"
    mixer = [Rule(f"{layer}.mixer.{part}", f"layers.{{i}}.mixer.{part}") for part in _PARTS]
    conv = "mixer.conv1d.weight"
    rules = (
        Rule(f"{root}.embeddings.weight", "embed_tokens.weight"),
        Rule(f"{layer}.norm.weight", "layers.{i}.norm.weight"),
        *mixer,
        Rule(f"{layer}.{conv}", f"layers.{{i}}.{conv}", DEPTHWISE),
        Rule(f"{root}.norm_f.weight", "norm.weight"),
    )
    extra = LeftOut("mtp.{*}", "drafts several tokens at once; the answer does not depend on it")
    if tied:
        head = LeftOut("lm_head.weight", "the embedding is the head")
        return KeyMap("nemotron_h", rules, (extra, head))
    return KeyMap("nemotron_h", (*rules, Rule("lm_head.weight", "lm_head.weight")), (extra,))


def config_to_native(data: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a Nemotron-H config.json describes.

    Args:
        data: its values; both spellings of the layers and of the Mamba sizes are read.

    Returns:
        The config.

    Raises:
        ConfigError: a missing value, a wrong pattern, or a setting that is not supported.
    """
    must_be(data, _SUPPORTED)
    heads = read(data, int, "num_attention_heads")
    return DecoderConfig(
        vocab_size=read(data, int, "vocab_size"),
        hidden_size=read(data, int, "hidden_size"),
        pattern=_pattern(data),
        intermediate_size=read(data, int, "intermediate_size"),
        num_heads=heads,
        num_kv_heads=read_or(data, heads, "num_key_value_heads"),
        head_dim=read(data, int, "head_dim", "attention_head_dim"),
        mamba=MambaConfig(
            num_heads=read(data, int, "mamba_num_heads"),
            head_dim=read(data, int, "mamba_head_dim"),
            state_size=read(data, int, "ssm_state_size"),
            n_groups=read(data, int, "n_groups", "mamba_n_groups"),
            conv_kernel=read_or(data, 4, "conv_kernel", "mamba_d_conv"),
            chunk_size=read_or(data, 128, "chunk_size", "mamba_chunk_size"),
            conv_bias=read_or(data, True, "use_conv_bias", "mamba_conv_bias"),
            time_step_limit=_limit(data),
        ),
        norm_eps=read_or(data, 1e-5, "layer_norm_epsilon", "norm_eps", "rms_norm_eps"),
        tie_word_embeddings=read_or(data, False, "tie_word_embeddings"),
        initializer_range=read_or(data, 0.02, "initializer_range"),
        max_position_embeddings=read_or(data, 131072, "max_position_embeddings"),
    )


def config_to_foreign(config: DecoderConfig) -> dict[str, Any]:
    """The Nemotron-H config.json of a decoder.

    Args:
        config: a hybrid without transfer sites.

    Returns:
        Its values, the layers in both spellings.

    Raises:
        ConfigError: the decoder has what Nemotron-H lacks.
    """
    mamba = config.mamba
    lacks = {
        "no mamba section": mamba is None,
        "transfer sites": bool(config.transfer.sites),
        "rotary positions": config.rope_theta is not None,
        "a gated MLP": config.gated_mlp,
        "biases": config.qkv_bias,
        "head norms": config.qk_norm,
        f"activation {config.activation}": config.activation != "relu2",
    }
    wrong = [what for what, present in lacks.items() if present]
    if wrong or mamba is None:
        raise ConfigError(
            want="a decoder that nemotron_h can describe",
            got=", ".join(wrong),
            do="keep it in timeviper's own format",
        )
    return {
        "model_type": "nemotron_h",
        "architectures": ["NemotronHForCausalLM"],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": len(config.layers),
        "hybrid_override_pattern": config.pattern,
        "layers_block_type": [_LAYER_NAMES[kind][0] for kind in config.layers],
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "mamba_num_heads": mamba.num_heads,
        "mamba_head_dim": mamba.head_dim,
        "ssm_state_size": mamba.state_size,
        "n_groups": mamba.n_groups,
        "conv_kernel": mamba.conv_kernel,
        "chunk_size": mamba.chunk_size,
        "use_conv_bias": mamba.conv_bias,
        "time_step_limit": [_number(bound) for bound in mamba.time_step_limit],
        "layer_norm_epsilon": config.norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "initializer_range": config.initializer_range,
        "max_position_embeddings": config.max_position_embeddings,
    }


def _pattern(data: Mapping[str, Any]) -> str:
    letters = data.get("hybrid_override_pattern")
    names = names_in(data, "layers_block_type", "layer_types")
    if names:
        spelled = "".join(_letter(name) for name in names)
        if letters not in (None, spelled):
            raise ConfigError(
                want=f"layers as listed, {spelled}", got=letters, do="remove one of the two"
            )
        letters = spelled
    if not isinstance(letters, str):
        raise ConfigError(
            want="hybrid_override_pattern or layers_block_type in config.json",
            got="neither",
            do="add the layers",
        )
    count = read_or(data, len(letters), "num_hidden_layers")
    if count != len(letters):
        raise ConfigError(
            want=f"{count} layers (num_hidden_layers)", got=len(letters), do="correct config.json"
        )
    return letters


def _letter(name: str) -> str:
    for kind, names in _LAYER_NAMES.items():
        if name in names:
            return kind.value
    known = [name for names in _LAYER_NAMES.values() for name in names]
    raise ConfigError(
        want=f"layers of type {', '.join(known)}",
        got=repr(name),
        do="this kind of layer is not supported; use a model without it",
    )


def _limit(data: Mapping[str, Any]) -> tuple[float, float]:
    present = [data[k] for k in ("time_step_limit", "mamba_dt_limit") if data.get(k) is not None]
    listed: Any = present[0] if present else [0.0, math.inf]
    bounds = [_bound(value) for value in listed] if isinstance(listed, (list, tuple)) else []
    if len(bounds) != 2 or not bounds[0] <= bounds[1]:
        raise ConfigError(
            want="time_step_limit of two rising numbers", got=bounds, do="correct config.json"
        )
    return bounds[0], bounds[1]


def _bound(value: Any) -> float:
    # JSON has no infinity: transformers writes an object, others a word.
    written: Any = value.get("__float__") if isinstance(value, dict) else value
    try:
        return float(written)
    except (TypeError, ValueError):
        raise ConfigError(
            want="numbers in time_step_limit", got=repr(value), do="correct config.json"
        ) from None


def _number(bound: float) -> float | dict[str, str]:
    return {"__float__": "Infinity"} if math.isinf(bound) else bound
