"""The table of foreign layouts; a new one is a line here and a file of rules."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, Protocol, TypeVar

from timeviper.core.errors import ConfigError
from timeviper.model.config import DecoderConfig, VisionConfig
from timeviper.weights import llama, nemotron_h, siglip
from timeviper.weights.keymap import KeyMap

C = TypeVar("C", DecoderConfig, VisionConfig)


@dataclass(frozen=True)
class Layout(Generic[C]):
    """A foreign checkpoint as we read it.

    Args:
        config: what it describes.
        keymap: chooses the rules by the tensor names that are present.
    """

    config: C
    keymap: Callable[[Iterable[str]], KeyMap]


class _DecoderRules(Protocol):
    def __call__(self, keys: Iterable[str] = (), *, tied: bool = False) -> KeyMap: ...


@dataclass(frozen=True)
class _Family:
    read: Callable[[Mapping[str, Any]], DecoderConfig]
    rules: _DecoderRules


_LLAMA = _Family(llama.config_to_native, llama.keymap)
DECODERS = {
    "nemotron_h": _Family(nemotron_h.config_to_native, nemotron_h.keymap),
    **dict.fromkeys(llama.MODEL_TYPES, _LLAMA),
}


def decoder_layout(data: Mapping[str, Any]) -> Layout[DecoderConfig]:
    """How to read a foreign language model.

    Args:
        data: its config.json.

    Returns:
        Its config and rules.

    Raises:
        ConfigError: a model type or a setting that is not supported.
    """
    family = DECODERS.get(str(data.get("model_type")))
    if family is None:
        raise ConfigError(
            want=f"model_type timeviper, {', '.join(DECODERS)}",
            got=repr(data.get("model_type")),
            do="use a checkpoint of one of these types",
        )
    config = family.read(data)
    return Layout(config, partial(family.rules, tied=config.tie_word_embeddings))


def tower_layout(
    data: Mapping[str, Any], *, feature_layer: int = -2, image_size: int | None = None
) -> Layout[VisionConfig]:
    """How to read a foreign vision tower.

    Args:
        data: its config.json.
        feature_layer: which block's output is used, see `VisionConfig`.
        image_size: side of the frames in pixels, or None for the checkpoint's own.

    Returns:
        Its config and rules.

    Raises:
        ConfigError: a model type or a setting that is not supported.
    """
    config = siglip.config_to_native(data, feature_layer=feature_layer, image_size=image_size)
    return Layout(config, partial(siglip.keymap, used_layers=config.used_layers))
