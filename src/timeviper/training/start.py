"""What a run starts from: a model of ours, or a language model and a tower that never met."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

import torch

from timeviper.core.errors import ConfigError
from timeviper.core.precision import Precision
from timeviper.core.seeding import seed_of, torch_stream
from timeviper.model.config import TimeViperConfig, TransferPlan
from timeviper.model.init import init_decoder, init_linear, init_transfers
from timeviper.model.presets import PRESETS, preset
from timeviper.model.vision.towers import build_tower
from timeviper.model.vlm import TimeViper
from timeviper.processing.image import ImageConfig
from timeviper.processing.processor import Processor, ProcessorConfig
from timeviper.processing.prompt import TimePrompt
from timeviper.processing.tokenizer import Tokenizer
from timeviper.weights.fill import on_meta
from timeviper.weights.folders import bundled
from timeviper.weights.loader import load_decoder, load_model, load_tower, resolve
from timeviper.weights.native import read_config

_STD = 0.02


@dataclass(frozen=True, kw_only=True)
class StartConfig:
    """Where the first weights and the processor come from.

    Args:
        model: a checkpoint folder of ours or a model that ships, which is then all that is
            needed; or the name of a preset, to be put together from the parts below.
        language: folder of the language model of a preset; without it, first weights are drawn.
        tower: folder of its vision tower; without it, first weights are drawn.
        tokenizer: folder of its tokenizer; that of `language` when not given.
        template: name of its chat template.
        time_prompt: how it is told about time.
    """

    model: str
    language: str | None = None
    tower: str | None = None
    tokenizer: str | None = None
    template: str = "nano_base"
    time_prompt: TimePrompt = TimePrompt.SENTENCE


def start_config(start: StartConfig) -> TimeViperConfig:
    """The model's config; no weight is read."""
    if _is_preset(start.model):
        return preset(start.model)
    return read_config(resolve(start.model))


def start_model(start: StartConfig, *, device: torch.device, seed: int) -> TimeViper:
    """The first weights, in float32.

    Args:
        start: where from.
        device: where to.
        seed: of weights that are drawn: those of parts that no folder is named for, and the
            projector's; transfer modules are copied from attention layers.

    Raises:
        CheckpointError: a folder that cannot be read.
        ConfigError: a language model or tower of other sizes than the preset's.
    """
    if not _is_preset(start.model):
        return load_model(start.model, device=device, precision=Precision.FLOAT32)
    model = on_meta(lambda: TimeViper(preset(start.model)))
    _start_decoder(model, start, device, seed)
    _start_tower(model, start, device, seed)
    model.projector.to_empty(device=device)
    init_linear(model.projector, _STD, torch_stream(seed, "projector", device=device))
    return model


def start_processor(start: StartConfig) -> Processor:
    """What prepares text and frames for the model.

    Raises:
        CheckpointError: a folder without its files.
        ConfigError: a preset without a tokenizer.
    """
    if not _is_preset(start.model):
        return Processor.load(resolve(start.model))
    folder = start.tokenizer or start.language
    if folder is None:
        raise ConfigError(
            want="a tokenizer for a preset", got="none", do="set `start.tokenizer` to its folder"
        )
    config = preset(start.model)
    return Processor(
        Tokenizer.load(Path(folder)),
        image=ImageConfig(size=config.vision.image_size),
        config=ProcessorConfig(
            template=start.template,
            tokens_per_frame=config.tokens_per_frame,
            time_prompt=start.time_prompt,
        ),
    )


def processor_of(processor: Processor, config: TimeViperConfig) -> Processor:
    """The same processor for another number of tokens a frame."""
    own = replace(processor.config, tokens_per_frame=config.tokens_per_frame)
    return Processor(processor.tokenizer, image=processor.image, config=own)


def _start_decoder(model: TimeViper, start: StartConfig, device: torch.device, seed: int) -> None:
    if start.language is None:
        model.decoder.to_empty(device=device)
        init_decoder(model.decoder, torch_stream(seed, "decoder", device=device))
        return
    loaded = load_decoder(start.language, device=device, precision=Precision.FLOAT32)
    want = replace(model.config.decoder, transfer=TransferPlan())
    # What only draws first weights or bounds positions may differ.
    found = replace(
        loaded.config,
        transfer=TransferPlan(),
        initializer_range=want.initializer_range,
        max_position_embeddings=want.max_position_embeddings,
    )
    _same("language model", start.language, found=found, want=want)
    model.decoder.load_state_dict(loaded.state_dict(), strict=False, assign=True)
    model.decoder.transfers.to_empty(device=device)
    init_transfers(model.decoder)


def _start_tower(model: TimeViper, start: StartConfig, device: torch.device, seed: int) -> None:
    config = model.config.vision
    if start.tower is None:
        # transformers draws these from torch's own generator.
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed_of(seed, "tower"))
            model.vision = build_tower(config).to(device)
        return
    tower = load_tower(
        start.tower, feature_layer=config.feature_layer, device=device, precision=Precision.FLOAT32
    )
    _same("tower", start.tower, found=tower.config, want=config)
    model.vision = tower


def _same(what: str, folder: str, *, found: object, want: object) -> None:
    if found == want:
        return
    pairs = zip(_fields(found), _fields(want), strict=True)
    wrong = [f"{name} {a!r} (want {b!r})" for (name, a), (_, b) in pairs if a != b]
    raise ConfigError(
        want=f"the {what} of the preset in {folder}",
        got="; ".join(wrong),
        do="name the folder of the model that the preset is made for",
    )


def _fields(config: object) -> list[tuple[str, object]]:
    return list(vars(config).items())


def _is_preset(name: str) -> bool:
    # What ships goes before a preset of the same name, as everywhere.
    return name in PRESETS and name not in bundled()
