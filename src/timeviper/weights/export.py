"""Write a bare decoder the way other tools read it: Nemotron-H, Llama, Qwen2 or Qwen3 folders."""

from __future__ import annotations

from pathlib import Path

from timeviper.core.precision import Precision
from timeviper.model.decoder import Decoder
from timeviper.weights import llama, nemotron_h
from timeviper.weights.folders import CONFIG, whole_folder
from timeviper.weights.native import MAX_SHARD_BYTES, precision_of, stored_dtype
from timeviper.weights.shards import is_weights, write_json, write_shards


def export_decoder(
    decoder: Decoder,
    folder: Path,
    *,
    max_shard_bytes: int = MAX_SHARD_BYTES,
    dtype: Precision | None = None,
) -> None:
    """Write config.json and safetensors of a bare decoder in its Hugging Face layout.

    Args:
        decoder: a hybrid becomes `nemotron_h`, a dense one `llama`, `qwen2` or `qwen3`.
        folder: made when missing; other files in it stay.
        max_shard_bytes: most bytes of one safetensors file.
        dtype: number format of the stored weights, or None for the decoder's own.

    Raises:
        ConfigError: the decoder has what its layout lacks, such as transfer sites.
        CheckpointError: the disk does not take what is written.

    Law: `load_decoder` of the folder gives the same decoder.
    """
    config, rules = decoder.config, nemotron_h if decoder.config.mamba else llama
    data = rules.config_to_foreign(config)
    tensors = decoder.state_dict()
    names = rules.keymap(tied=config.tie_word_embeddings).to_foreign(tensors)
    formats = {names[key].key: stored_dtype(key, t, dtype) for key, t in tensors.items()}
    there = {names[key].key: names[key].convert(t) for key, t in tensors.items()}
    own = precision_of(decoder.embed_tokens.weight)
    with whole_folder(Path(folder), replaced=lambda n: n == CONFIG or is_weights(n)) as draft:
        write_shards(there, draft, formats=formats, max_shard_bytes=max_shard_bytes)
        write_json(draft / CONFIG, data | {"dtype": (dtype or own).value})
