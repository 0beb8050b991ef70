"""Models by name: each preset is a function that returns a config."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from timeviper.core.errors import ConfigError
from timeviper.model.config import (
    DecoderConfig,
    DropPolicy,
    MambaConfig,
    ProjectorConfig,
    TimeViperConfig,
    TransferPlan,
    TransferSite,
    VisionConfig,
)

NANO_9B_PATTERN = "M-M-M-MM-M-M-M*-M-M-M*-M-M-M-M*-M-M-M-M*-M-MM-M-M-M-M-M-"
NANO_12B_PATTERN = "M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M*-M-M-M-M-"


def siglip_so400m() -> VisionConfig:
    """SigLIP so400m/14 at 384 pixels: 27 x 27 patches of 1152."""
    return VisionConfig(
        tower="siglip",
        hidden_size=1152,
        intermediate_size=4304,
        num_layers=27,
        num_heads=16,
        image_size=384,
        patch_size=14,
    )


def nano_9b() -> TimeViperConfig:
    """Nemotron Nano 9B v2 with SigLIP, as in the paper."""
    return TimeViperConfig(
        name="nano-9b-v2",
        vision=siglip_so400m(),
        decoder=_nano(hidden_size=4480, intermediate_size=15680, pattern=NANO_9B_PATTERN),
    )


def nano_9b_transv() -> TimeViperConfig:
    """The paper's final model: layer 7 uniform 50 %, layer 39 attention-guided 90 %."""
    return with_sites(
        nano_9b(),
        TransferSite(layer=7, policy=DropPolicy.UNIFORM_STREAM, drop_rate=0.5),
        TransferSite(layer=39, policy=DropPolicy.ATTENTION, drop_rate=0.9),
    )


def nano_12b() -> TimeViperConfig:
    """Nemotron Nano 12B v2 with SigLIP."""
    return TimeViperConfig(
        name="nano-12b-v2",
        vision=siglip_so400m(),
        decoder=_nano(hidden_size=5120, intermediate_size=20480, pattern=NANO_12B_PATTERN),
    )


def qwen2_5_7b() -> TimeViperConfig:
    """Qwen2.5-7B with SigLIP, the paper's dense control; 28 layers are 56 letters here."""
    return TimeViperConfig(
        name="qwen2.5-7b",
        vision=siglip_so400m(),
        decoder=DecoderConfig(
            vocab_size=152064,
            hidden_size=3584,
            pattern="*-" * 28,
            intermediate_size=18944,
            num_heads=28,
            num_kv_heads=4,
            head_dim=128,
            activation="silu",
            gated_mlp=True,
            qkv_bias=True,
            rope_theta=1e6,
            norm_eps=1e-6,
        ),
    )


def qwen2_5_7b_transv() -> TimeViperConfig:
    """Qwen2.5-7B with the paper's two sites at the same relative depth.

    The paper names no layers for its dense control; 7 and 39 of 56 single-mixer layers carry
    over as they are, moved to the attention half of the same dense layer for the ranked site.
    """
    return with_sites(
        qwen2_5_7b(),
        TransferSite(layer=7, policy=DropPolicy.UNIFORM_STREAM, drop_rate=0.5),
        TransferSite(layer=38, policy=DropPolicy.ATTENTION, drop_rate=0.9),
    )


def tiny() -> TimeViperConfig:
    """The model that ships, without dropping."""
    return TimeViperConfig(
        name="tiny",
        vision=VisionConfig(
            tower="siglip",
            hidden_size=192,
            intermediate_size=768,
            num_layers=5,
            num_heads=6,
            image_size=96,
            patch_size=12,
            feature_layer=-1,
        ),
        projector=ProjectorConfig(tokens_per_frame=4, merge_heads=6),
        decoder=DecoderConfig(
            vocab_size=3072,
            hidden_size=384,
            pattern="M-M*-M-M*-M-",
            intermediate_size=1024,
            num_heads=6,
            num_kv_heads=2,
            head_dim=64,
            mamba=MambaConfig(num_heads=12, head_dim=64, state_size=64, n_groups=1, chunk_size=64),
            max_position_embeddings=131072,
        ),
    )


def tiny_transv() -> TimeViperConfig:
    """The model that ships: layer 2 uniform 50 %, the last attention layer ranked 90 %."""
    return with_sites(
        tiny(),
        TransferSite(layer=2, policy=DropPolicy.UNIFORM_STREAM, drop_rate=0.5),
        TransferSite(layer=8, policy=DropPolicy.ATTENTION, drop_rate=0.9),
    )


def with_sites(config: TimeViperConfig, *sites: TransferSite) -> TimeViperConfig:
    """The same model with transfer sites, named `-transv`."""
    decoder = replace(config.decoder, transfer=TransferPlan(sites=sites))
    return replace(config, name=f"{config.name}-transv", decoder=decoder)


PRESETS: dict[str, Callable[[], TimeViperConfig]] = {
    "nano-9b-v2": nano_9b,
    "nano-9b-v2-transv": nano_9b_transv,
    "nano-12b-v2": nano_12b,
    "qwen2.5-7b": qwen2_5_7b,
    "qwen2.5-7b-transv": qwen2_5_7b_transv,
    "tiny": tiny,
    "tiny-transv": tiny_transv,
}


def preset(name: str) -> TimeViperConfig:
    """The config called `name`.

    Raises:
        ConfigError: there is no such preset.
    """
    if name not in PRESETS:
        raise ConfigError(
            want=f"a model among {', '.join(PRESETS)}", got=repr(name), do="name one of these"
        )
    return PRESETS[name]()


def _nano(*, hidden_size: int, intermediate_size: int, pattern: str) -> DecoderConfig:
    return DecoderConfig(
        vocab_size=131072,
        hidden_size=hidden_size,
        pattern=pattern,
        intermediate_size=intermediate_size,
        num_heads=40,
        num_kv_heads=8,
        head_dim=128,
        mamba=MambaConfig(num_heads=128, head_dim=80, state_size=128, n_groups=8),
    )
