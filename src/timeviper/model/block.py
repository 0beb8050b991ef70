"""One layer: `x + mixer(norm(x))`, whatever the mixer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor, nn

from timeviper.core.errors import ConfigError
from timeviper.model.attention import AttentionMixer
from timeviper.model.config import DecoderConfig
from timeviper.model.linear import all_take_fp8, product_of
from timeviper.model.mamba2 import Mamba2Mixer, ScaleNorm
from timeviper.model.mlp import MlpMixer
from timeviper.model.pattern import LayerKind
from timeviper.model.slots import KeySlots, ScanSlots, Slots
from timeviper.model.state import AttentionMemory, MambaMemory, Memory
from timeviper.ops.few_rows import settle
from timeviper.ops.fp8 import Operand
from timeviper.ops.norm import add_rms_norm, add_rms_norm_fp8, rms_norm


class Stream(NamedTuple):
    """The residual stream between two layers; the next norm adds in the pass that reads it.

    `addition` is what the layer before adds to `hidden`, or None where nothing waits.
    """

    hidden: Float[Tensor, "token hidden"]
    addition: Float[Tensor, "token hidden"] | None = None

    def sum(self) -> Float[Tensor, "token hidden"]:
        """The residual stream itself."""
        return self.hidden if self.addition is None else self.hidden + self.addition


class StepStream(NamedTuple):
    """As `Stream`, between two layers of a step: what waits comes in parts to be added up."""

    hidden: Float[Tensor, "sequence hidden"]
    parts: Float[Tensor, "part sequence hidden"] | None = None

    def normed(
        self, weight: Float[Tensor, " hidden"], eps: float
    ) -> tuple[Float[Tensor, "sequence hidden"], Float[Tensor, "sequence hidden"]]:
        """The stream with what waited, and its norm."""
        if self.parts is None:
            return add_rms_norm(self.hidden, None, weight, eps)
        return settle(self.hidden, self.parts, weight, eps)

    def added(self) -> Stream:
        """The same with what waits as one."""
        parts = self.parts
        if parts is None:
            return Stream(self.hidden)
        return Stream(self.hidden, parts[0] if len(parts) == 1 else parts.sum(0))


class Block(nn.Module):
    """A residual layer with one mixer."""

    def __init__(self, config: DecoderConfig, kind: LayerKind) -> None:
        super().__init__()
        self.norm_eps = config.norm_eps
        self.norm = ScaleNorm(config.hidden_size)
        self.mixer = _mixer(config, kind)

    def forward(
        self, stream: Stream, memory: Memory, *, lengths: Sequence[int]
    ) -> tuple[Stream, Memory]:
        """Mix; what is added waits for the next norm.

        Args:
            stream: residual stream of packed tokens.
            memory: what this layer remembers, of its mixer's type.
            lengths: tokens of each sequence.

        Returns:
            The new residual stream and memory.
        """
        hidden, normed = self.enter(stream)
        match self.mixer, memory:
            case Mamba2Mixer() as mixer, (MambaMemory() | None) as before:
                mixed, after = mixer(normed, before, lengths=lengths)
            case AttentionMixer() as mixer, (AttentionMemory() | None) as before:
                mixed, after = mixer(normed, before, lengths=lengths)
            case mixer, before:
                mixed, after = mixer(normed, product=product_of(lengths)), before
        return Stream(hidden, mixed), after

    def step(self, stream: StepStream, slots: Slots) -> StepStream:
        """As `forward` with one token a sequence, the memory changed in place."""
        if all_take_fp8(self.mixer.entries):
            hidden, normed = self.enter(stream.added())
        else:
            hidden, normed = stream.normed(self.norm.weight, self.norm_eps)
        match self.mixer, slots:
            case Mamba2Mixer() as mixer, ScanSlots() as own:
                return StepStream(hidden, mixer.step(normed, own))
            case AttentionMixer() as mixer, KeySlots() as own:
                return StepStream(hidden, mixer.step(normed, own))
            case MlpMixer() as mixer, None:
                return StepStream(hidden, mixer.step(normed))
            case _:
                raise TypeError("slots of another kind than the layer's mixer")

    def enter(self, stream: Stream) -> tuple[Float[Tensor, "token hidden"], Operand]:
        """The stream with what waited, and its norm in the format that the mixer reads."""
        norm = add_rms_norm_fp8 if all_take_fp8(self.mixer.entries) else add_rms_norm
        return norm(stream.hidden, stream.addition, self.norm.weight, self.norm_eps)

    def normed(self, hidden: Float[Tensor, "token hidden"]) -> Float[Tensor, "token hidden"]:
        """The mixer's input, not rounded to FP8."""
        return rms_norm(hidden, self.norm.weight, self.norm_eps)


def _mixer(config: DecoderConfig, kind: LayerKind) -> Mamba2Mixer | AttentionMixer | MlpMixer:
    if kind == LayerKind.ATTENTION:
        return AttentionMixer(config)
    if kind == LayerKind.MLP:
        return MlpMixer(config)
    if config.mamba is None:
        raise ConfigError(want="a `mamba` section for the M layers", got="none", do="add it")
    return Mamba2Mixer(config, config.mamba)
