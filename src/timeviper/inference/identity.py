"""Which model a state belongs to: hashes of its weights, its config and its processor."""

from __future__ import annotations

import hashlib
import json
from typing import Any

from timeviper.core.config import to_dict
from timeviper.core.errors import StateFileError
from timeviper.inference.state_info import Identity
from timeviper.model.vlm import TimeViper
from timeviper.processing.chat_template import to_jinja
from timeviper.processing.processor import Processor
from timeviper.weights.fingerprint import fingerprint

# How the fields of an identity are called in messages.
_CALLED = {
    "config": "another config (sizes, tower or transfer plan)",
    "weights": "other weights (or the same, rounded otherwise, as fp8 does)",
    "processor": "another processor (tokenizer, template, time marks or image preparation)",
}


def identify(model: TimeViper, processor: Processor) -> Identity:
    """Hash all that decides what a state means; reads every weight once.

    Args:
        model: as it lies in memory.
        processor: of the same model.
    """
    config = to_dict(model.config)
    # A name changes nothing that is computed.
    name = str(config.pop("name"))
    return Identity(
        model=name,
        weights=fingerprint(model),
        config=_hash(config),
        processor=_hash(
            {
                "config": to_dict(processor.config),
                "image": processor.image.to_preprocessor(),
                "template": to_jinja(processor.template),
                "tokenizer": processor.tokenizer.to_json(),
            }
        ),
    )


def check_same(of_file: Identity, of_engine: Identity, where: object) -> None:
    """Refuse a state of another model.

    Args:
        of_file: the model that read the video.
        of_engine: the model that is to answer.
        where: the file, for the message.

    Raises:
        StateFileError: they differ; the message names in what.
    """
    differs = [
        words
        for field, words in _CALLED.items()
        if to_dict(of_file)[field] != to_dict(of_engine)[field]
    ]
    if differs:
        raise StateFileError(
            want=f"the model that read {where}: {of_file.model}",
            got=f"{of_engine.model} with {' and '.join(differs)}",
            do="name that model with --model, or encode the video again with this one",
        )


def _hash(values: dict[str, Any]) -> str:
    text = json.dumps(values, sort_keys=True, ensure_ascii=False)
    return hashlib.sha256(text.encode()).hexdigest()
