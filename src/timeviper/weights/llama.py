"""Llama, Qwen2 / 2.5 and Qwen3 checkpoints: tensor names and config, both ways."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from timeviper.core.errors import ConfigError
from timeviper.model.config import DecoderConfig
from timeviper.weights.keymap import KeyMap, LeftOut, Rule
from timeviper.weights.settings import must_be, names_in, read, read_or, section

MODEL_TYPES = ("llama", "qwen2", "qwen3")
_CLASSES = {
    "llama": "LlamaForCausalLM",
    "qwen2": "Qwen2ForCausalLM",
    "qwen3": "Qwen3ForCausalLM",
}
_SUPPORTED: dict[str, tuple[Any, ...]] = {
    # In these families the switch adds a bias to o_proj too; Qwen2's biases need no switch.
    "attention_bias": (False,),
    "mlp_bias": (False,),
    "hidden_act": ("silu",),
    "use_sliding_window": (False, None),
    "partial_rotary_factor": (1, None),
}
_ATTENTION = (
    *(f"{name}_proj.{kind}" for name in "qkv" for kind in ("weight", "bias")),
    "o_proj.weight",
    "q_norm.weight",
    "k_norm.weight",
)
_MLP = ("gate_proj.weight", "up_proj.weight", "down_proj.weight")


def keymap(keys: Iterable[str] = (), *, tied: bool = False) -> KeyMap:
    """Rules for the family: their layer i is our layers 2i (attention) and 2i + 1 (MLP).

    Args:
        keys: names in the checkpoint; a bare `LlamaModel` has no `model.` before them.
        tied: the head is the embedding.

    Returns:
        The rules.
    """
    names = tuple(keys)
    root = "model." if not names or any(key.startswith("model.") for key in names) else ""
    layer = f"{root}layers.{{i}}"
    rules = (
        Rule(f"{root}embed_tokens.weight", "embed_tokens.weight"),
        Rule(f"{layer}.input_layernorm.weight", "layers.{2i}.norm.weight"),
        Rule(f"{layer}.post_attention_layernorm.weight", "layers.{2i+1}.norm.weight"),
        *(Rule(f"{layer}.self_attn.{part}", f"layers.{{2i}}.mixer.{part}") for part in _ATTENTION),
        *(Rule(f"{layer}.mlp.{part}", f"layers.{{2i+1}}.mixer.{part}") for part in _MLP),
        Rule(f"{root}norm.weight", "norm.weight"),
    )
    angles = LeftOut(f"{layer}.self_attn.rotary_emb.inv_freq", "computed from rope_theta")
    if tied:
        head = LeftOut("lm_head.weight", "the embedding is the head")
        return KeyMap("llama", rules, (angles, head))
    return KeyMap("llama", (*rules, Rule("lm_head.weight", "lm_head.weight")), (angles,))


def config_to_native(data: Mapping[str, Any]) -> DecoderConfig:
    """The decoder that a Llama, Qwen2 or Qwen3 config.json describes.

    Args:
        data: its values.

    Returns:
        The config: every layer is two letters, `*-`.

    Raises:
        ConfigError: a missing value, or a setting that is not supported.
    """
    must_be(data, _SUPPORTED)
    family = read(data, str, "model_type")
    hidden, heads = read(data, int, "hidden_size"), read(data, int, "num_attention_heads")
    layers = read(data, int, "num_hidden_layers")
    for kind in set(names_in(data, "layer_types")):
        must_be({"layer_types": kind}, {"layer_types": ("full_attention",)})
    return DecoderConfig(
        vocab_size=read(data, int, "vocab_size"),
        hidden_size=hidden,
        pattern="*-" * layers,
        intermediate_size=read(data, int, "intermediate_size"),
        num_heads=heads,
        num_kv_heads=read_or(data, heads, "num_key_value_heads"),
        head_dim=read_or(data, 128 if family == "qwen3" else hidden // heads, "head_dim"),
        activation="silu",
        gated_mlp=True,
        qkv_bias=family == "qwen2",
        qk_norm=family == "qwen3",
        rope_theta=_theta(data),
        norm_eps=read_or(data, 1e-6, "rms_norm_eps"),
        tie_word_embeddings=read_or(data, False, "tie_word_embeddings"),
        initializer_range=read_or(data, 0.02, "initializer_range"),
        max_position_embeddings=read(data, int, "max_position_embeddings"),
    )


def config_to_foreign(config: DecoderConfig) -> dict[str, Any]:
    """The config.json of a dense decoder, in the plainest family that can describe it.

    Args:
        config: a dense decoder without transfer sites.

    Returns:
        Its values; qwen3 with head norms, qwen2 with biases, llama otherwise.

    Raises:
        ConfigError: the decoder has what these families lack.
    """
    layers = len(config.layers) // 2
    lacks = {
        f"pattern {config.pattern}": config.pattern != "*-" * layers,
        "transfer sites": bool(config.transfer.sites),
        "no rotary positions": config.rope_theta is None,
        "an MLP that is not SwiGLU": not config.gated_mlp or config.activation != "silu",
        "biases and head norms": config.qkv_bias and config.qk_norm,
    }
    wrong = [what for what, present in lacks.items() if present]
    if wrong:
        raise ConfigError(
            want="a decoder that llama, qwen2 or qwen3 can describe",
            got=", ".join(wrong),
            do="keep it in timeviper's own format",
        )
    family = "qwen3" if config.qk_norm else "qwen2" if config.qkv_bias else "llama"
    return {
        "model_type": family,
        "architectures": [_CLASSES[family]],
        "vocab_size": config.vocab_size,
        "hidden_size": config.hidden_size,
        "num_hidden_layers": layers,
        "intermediate_size": config.intermediate_size,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "hidden_act": "silu",
        "rope_theta": config.rope_theta,
        "rms_norm_eps": config.norm_eps,
        "tie_word_embeddings": config.tie_word_embeddings,
        "initializer_range": config.initializer_range,
        "max_position_embeddings": config.max_position_embeddings,
    }


def _theta(data: Mapping[str, Any]) -> float:
    # Newer files keep the base inside rope_parameters, older ones beside rope_scaling.
    rope = section(data, "rope_parameters")
    for part in (rope, section(data, "rope_scaling")):
        kind = {"rope_type": part.get("rope_type", part.get("type", "default"))}
        must_be(kind, {"rope_type": ("default", None)})
        must_be(part, {"partial_rotary_factor": (1, None)})
    # A base of its own for each kind of layer would be nested deeper, and must not be passed over.
    values = {**data, **rope}
    return read(values, float, "rope_theta") if rope else read_or(values, 10000.0, "rope_theta")
