"""Our checkpoint folder: config.json and safetensors, written whole or not at all."""

from __future__ import annotations

from pathlib import Path

import torch
from torch import Tensor

from timeviper.core.config import from_dict, to_dict
from timeviper.core.errors import ConfigError
from timeviper.core.precision import Precision
from timeviper.model.config import TimeViperConfig
from timeviper.model.vlm import TimeViper
from timeviper.ops.fp8 import E4M3
from timeviper.weights.folders import CONFIG, whole_folder
from timeviper.weights.shards import is_weights, read_json, write_json, write_shards

MODEL_TYPE = "timeviper"
ARCHITECTURE = "TimeViperForConditionalGeneration"
MAX_SHARD_BYTES = 5 * 10**9

# float32 at least: exponents of the decay and gates that start at zero lose their steps in bf16.
_MASTERS = ("A_log", "dt_bias", "D", "alpha")
# What Hugging Face tools add to a config.json; nothing of ours depends on them.
_FOREIGN_KEYS = ("architectures", "model_type", "dtype", "transformers_version")


def save_model(
    model: TimeViper,
    folder: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    dtype: Precision | None = None,
) -> None:
    """Write config.json and the weights of a model; nothing is left half-written.

    Args:
        model: what to write; its values are read, on whatever device they lie.
        folder: made when missing; other files in it (tokenizer, card) stay.
        max_shard_bytes: most bytes of one safetensors file.
        dtype: number format of the stored weights, or None for the model's own; A_log, dt_bias, D
            and alpha are stored in float32 or better.

    Raises:
        ConfigError: `max_shard_bytes` is not positive, or weights in FP8.
        CheckpointError: the disk does not take what is written.
    """
    _refuse_fp8(model, dtype)
    tensors = model.state_dict()
    formats = {key: stored_dtype(key, tensor, dtype) for key, tensor in tensors.items()}
    with whole_folder(Path(folder), replaced=_ours) as draft:
        write_shards(tensors, draft, formats=formats, max_shard_bytes=max_shard_bytes)
        write_config(
            model.config, draft, dtype=dtype or precision_of(model.decoder.embed_tokens.weight)
        )


def write_config(config: TimeViperConfig, folder: Path, *, dtype: Precision) -> None:
    """Write config.json into an existing folder.

    Args:
        config: the model.
        folder: where to.
        dtype: number format that most weights beside it are stored in, for readers' information.
    """
    head = {"architectures": [ARCHITECTURE], "model_type": MODEL_TYPE, "dtype": dtype.value}
    write_json(folder / CONFIG, head | to_dict(config))


def read_config(folder: Path) -> TimeViperConfig:
    """Read the config.json of one of our folders.

    Args:
        folder: a checkpoint folder.

    Returns:
        The config.

    Raises:
        CheckpointError: no config.json, or one that is no JSON object.
        ConfigError: another model type, an unknown key or a wrong value.
    """
    data = read_json(Path(folder) / CONFIG)
    if data.get("model_type") != MODEL_TYPE:
        raise ConfigError(
            want=f"model_type {MODEL_TYPE!r} in {Path(folder) / CONFIG}",
            got=repr(data.get("model_type")),
            do="give a timeviper checkpoint; bare language models load with load_decoder",
        )
    ours = {key: value for key, value in data.items() if key not in _FOREIGN_KEYS}
    return from_dict(TimeViperConfig, ours, where=CONFIG)


def wanted_dtype(key: str, dtype: torch.dtype) -> torch.dtype:
    """Number format that a tensor has in memory and on disk when the model's is `dtype`.

    Args:
        key: full name of the tensor.
        dtype: the model's number format.

    Returns:
        `dtype`, or float32 where `dtype` would be too coarse for this tensor.
    """
    if key.rpartition(".")[2] in _MASTERS:
        return torch.promote_types(dtype, torch.float32)
    return dtype


def precision_of(weight: Tensor) -> Precision:
    """The name of a tensor's number format."""
    plain = [precision for precision in Precision if precision != Precision.FP8]
    return {precision.dtype: precision for precision in plain}[weight.dtype]


def _refuse_fp8(model: TimeViper, dtype: Precision | None) -> None:
    if dtype == Precision.FP8 or any(t.dtype == E4M3 for t in model.state_dict().values()):
        raise ConfigError(
            want="weights in a format that training can go on from",
            got="FP8",
            do="load the model in bfloat16 and save that; FP8 is made when a model is loaded",
        )


def _ours(name: str) -> bool:
    return name == CONFIG or is_weights(name)


def stored_dtype(key: str, tensor: Tensor, dtype: Precision | None) -> torch.dtype:
    """Number format to write a tensor in: its own, or `wanted_dtype` where one is asked for."""
    if dtype is None or not tensor.is_floating_point():
        return tensor.dtype
    return wanted_dtype(key, dtype.dtype)
