"""What a model is, as data: decoder, transfer sites, vision tower and projector."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from fractions import Fraction
from typing import Literal

from timeviper.core.errors import ConfigError
from timeviper.model.pattern import LayerKind, parse_pattern


class DropPolicy(StrEnum):
    """How a transfer site chooses the vision tokens that stay."""

    UNIFORM_WHOLE = "uniform_whole"
    UNIFORM_STREAM = "uniform_stream"
    ATTENTION = "attention"


@dataclass(frozen=True, kw_only=True)
class TransferSite:
    """One place where vision tokens are dropped before a layer.

    Args:
        layer: 0-based layer whose input is shortened.
        policy: how the tokens that stay are chosen.
        drop_rate: fraction of the vision tokens present at this site that goes.
        transfer: carry the dropped tokens' information into the instruction tokens
            (TransV, arXiv 2511.16595 eq. 6); plain dropping otherwise.
    """

    layer: int
    policy: DropPolicy
    drop_rate: float
    transfer: bool = True

    def __post_init__(self) -> None:
        """Check the rate."""
        if not 0 <= self.drop_rate < 1:
            raise ConfigError(
                want="a drop rate from 0 to below 1", got=self.drop_rate, do="correct drop_rate"
            )

    @property
    def keep(self) -> Fraction:
        """Fraction that stays, exact for the decimal that was written."""
        return 1 - Fraction(str(self.drop_rate))

    def kept(self, present: int) -> int:
        """Number of `present` vision tokens that stay; at least one of any."""
        return max(min(present, 1), math.floor(self.keep * present))


@dataclass(frozen=True, kw_only=True)
class TransferPlan:
    """The transfer sites of a decoder, in layer order; none means no dropping."""

    sites: tuple[TransferSite, ...] = ()

    def __post_init__(self) -> None:
        """Check order."""
        layers = [site.layer for site in self.sites]
        if layers != sorted(set(layers)):
            raise ConfigError(
                want="transfer sites at distinct layers in rising order",
                got=f"layers {layers}",
                do="sort the sites",
            )


@dataclass(frozen=True, kw_only=True)
class MambaConfig:
    """Mamba-2 mixer sizes, as in Nemotron-H's config.json."""

    num_heads: int
    head_dim: int
    state_size: int
    n_groups: int
    conv_kernel: int = 4
    chunk_size: int = 128
    conv_bias: bool = True
    time_step_limit: tuple[float, float] = (0.0, float("inf"))

    def __post_init__(self) -> None:
        """Check that heads divide into groups and steps have a range."""
        _positive(self, "num_heads", "head_dim", "state_size", "n_groups", "conv_kernel")
        _positive(self, "chunk_size")
        _divides("num_heads", self.num_heads, "n_groups", self.n_groups)
        lowest, highest = self.time_step_limit
        if not 0 <= lowest <= highest:
            raise ConfigError(
                want="time_step_limit as (lowest, highest) with 0 <= lowest <= highest",
                got=self.time_step_limit,
                do="use (0, inf) unless the checkpoint says otherwise",
            )

    @property
    def inner_size(self) -> int:
        """Width of x and z."""
        return self.num_heads * self.head_dim

    @property
    def conv_size(self) -> int:
        """Channels that pass the convolution: x, B and C."""
        return self.inner_size + 2 * self.n_groups * self.state_size

    @property
    def projection_size(self) -> int:
        """Width of in_proj: z, xBC and dt."""
        return self.inner_size + self.conv_size + self.num_heads


@dataclass(frozen=True, kw_only=True)
class DecoderConfig:
    """A language model of single-mixer layers; hybrid and dense alike.

    A Llama or Qwen layer is two letters, `*-`.

    Args:
        pattern: one letter a layer, see `parse_pattern`.
        rope_theta: base of the rotary positions, or None for attention without positions.
        gated_mlp: SwiGLU (`silu`, three products) instead of two products.
        qkv_bias: biases on q, k and v (Qwen2.5).
        qk_norm: RMSNorm of each head's q and k (Qwen3).
        transfer: where vision tokens are dropped.
    """

    vocab_size: int
    hidden_size: int
    pattern: str
    intermediate_size: int
    num_heads: int
    num_kv_heads: int
    head_dim: int
    mamba: MambaConfig | None = None
    activation: Literal["relu2", "silu"] = "relu2"
    gated_mlp: bool = False
    qkv_bias: bool = False
    qk_norm: bool = False
    rope_theta: float | None = None
    norm_eps: float = 1e-5
    tie_word_embeddings: bool = False
    initializer_range: float = 0.02
    max_position_embeddings: int = 131072
    transfer: TransferPlan = TransferPlan()

    def __post_init__(self) -> None:
        """Check sizes, the pattern and the transfer sites."""
        sizes = ("vocab_size", "hidden_size", "intermediate_size", "num_heads", "num_kv_heads")
        _positive(self, *sizes, "head_dim", "max_position_embeddings")
        _divides("num_heads", self.num_heads, "num_kv_heads", self.num_kv_heads)
        if LayerKind.MAMBA in self.layers and self.mamba is None:
            raise ConfigError(
                want="a `mamba` section for the M layers", got="none", do="add its sizes"
            )
        if self.rope_theta is not None:
            _divides("head_dim", self.head_dim, "the two halves of a rotary pair", 2)
        for site in self.transfer.sites:
            self._check_site(site)

    @property
    def layers(self) -> tuple[LayerKind, ...]:
        """Kind of every layer."""
        return parse_pattern(self.pattern)

    def layers_of(self, kind: LayerKind) -> tuple[int, ...]:
        """0-based indices of the layers of one kind."""
        return tuple(i for i, letter in enumerate(self.layers) if letter == kind)

    def _check_site(self, site: TransferSite) -> None:
        if not 0 <= site.layer < len(self.layers):
            raise ConfigError(
                want=f"a transfer site at a layer from 0 to {len(self.layers) - 1}",
                got=site.layer,
                do="correct the layer",
            )
        attention = self.layers_of(LayerKind.ATTENTION)
        if site.transfer and not attention:
            raise ConfigError(
                want="an attention layer for a site that transfers",
                got=f"pattern {self.pattern!r}",
                do="set transfer to false for plain dropping",
            )
        if site.policy == DropPolicy.ATTENTION and site.layer not in attention:
            raise ConfigError(
                want=f"an attention-guided site at an attention layer ({_listed(attention)})",
                got=f"layer {site.layer} ({self.layers[site.layer].value})",
                do="move the site or use a uniform policy",
            )


@dataclass(frozen=True, kw_only=True)
class VisionConfig:
    """A vision tower; `tower` names an entry of `vision.towers`.

    Args:
        feature_layer: which block's output is used, counted from the end: -2 is the output of
            the second-to-last block, without final norm.
        position_patches: patches of the checkpoint's position table where it is resized to the
            frame's grid (SigLIP2); None when the table fits the frame.
    """

    tower: Literal["siglip", "siglip2"]
    hidden_size: int
    intermediate_size: int
    num_layers: int
    num_heads: int
    image_size: int
    patch_size: int
    feature_layer: int = -2
    layer_norm_eps: float = 1e-6
    position_patches: int | None = None

    def __post_init__(self) -> None:
        """Check sizes."""
        _positive(self, "hidden_size", "num_layers", "num_heads", "image_size", "patch_size")
        _positive(self, "intermediate_size")
        if self.patch_size > self.image_size:
            raise ConfigError(
                want=f"a patch_size of at most the image_size {self.image_size}",
                got=self.patch_size,
                do="correct the config",
            )
        _divides("hidden_size", self.hidden_size, "num_heads", self.num_heads)
        if not -self.num_layers <= self.feature_layer <= -1:
            raise ConfigError(
                want=f"feature_layer from {-self.num_layers} to -1",
                got=self.feature_layer,
                do="count blocks from the end",
            )

    @property
    def patches(self) -> int:
        """Patch tokens of one frame."""
        return (self.image_size // self.patch_size) ** 2

    @property
    def used_layers(self) -> int:
        """Blocks that run."""
        return self.num_layers + 1 + self.feature_layer


@dataclass(frozen=True, kw_only=True)
class ProjectorConfig:
    """From vision features to decoder inputs.

    Args:
        tokens_per_frame: ToMe merges each frame's patches to so many tokens; None keeps all.
        merge_heads: heads that the merging metric averages over (spec of ToMe in `ops.merge`).
    """

    tokens_per_frame: int | None = 16
    merge_heads: int = 16


@dataclass(frozen=True, kw_only=True)
class TimeViperConfig:
    """The whole model; `model_type` and `architectures` are written by the weights room."""

    decoder: DecoderConfig
    vision: VisionConfig
    projector: ProjectorConfig = ProjectorConfig()
    name: str = "timeviper"

    def __post_init__(self) -> None:
        """Check that the projector suits the tower."""
        keep = self.projector.tokens_per_frame
        if keep is None:
            return
        if not 1 <= keep <= self.vision.patches:
            raise ConfigError(
                want=f"tokens_per_frame from 1 to {self.vision.patches}",
                got=keep,
                do="merge to fewer tokens, or set it to null to keep every patch",
            )
        _positive(self.projector, "merge_heads")
        width = self.vision.hidden_size
        _divides("the tower's hidden_size", width, "merge_heads", self.projector.merge_heads)

    @property
    def tokens_per_frame(self) -> int:
        """Vision tokens of one frame at the decoder's input."""
        return self.projector.tokens_per_frame or self.vision.patches


def _positive(config: object, *names: str) -> None:
    for name in names:
        value: int = getattr(config, name)
        if value < 1:
            raise ConfigError(want=f"{name} of at least 1", got=value, do="correct the config")


def _divides(whole: str, total: int, part: str, parts: int) -> None:
    if total % parts:
        raise ConfigError(
            want=f"{whole} divisible by {part}",
            got=f"{total} and {parts}",
            do="correct the config",
        )


def _listed(layers: tuple[int, ...]) -> str:
    show: Callable[[int], str] = str
    return ", ".join(map(show, layers)) or "none"
