"""One layer: `x + mixer(norm(x))`, whatever the mixer."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import Float
from torch import Tensor, nn

from timeviper.core.errors import ConfigError
from timeviper.model.attention import AttentionMixer
from timeviper.model.config import DecoderConfig
from timeviper.model.mamba2 import Mamba2Mixer, ScaleNorm
from timeviper.model.mlp import MlpMixer
from timeviper.model.pattern import LayerKind
from timeviper.model.slots import KeySlots, ScanSlots, Slots
from timeviper.model.state import AttentionMemory, MambaMemory, Memory
from timeviper.ops.norm import rms_norm


class Block(nn.Module):
    """A residual layer with one mixer."""

    def __init__(self, config: DecoderConfig, kind: LayerKind) -> None:
        super().__init__()
        self.norm_eps = config.norm_eps
        self.norm = ScaleNorm(config.hidden_size)
        self.mixer = _mixer(config, kind)

    def forward(
        self, hidden: Float[Tensor, "token hidden"], memory: Memory, *, lengths: Sequence[int]
    ) -> tuple[Float[Tensor, "token hidden"], Memory]:
        """Mix and add.

        Args:
            hidden: residual stream of packed tokens.
            memory: what this layer remembers, of its mixer's type.
            lengths: tokens of each sequence.

        Returns:
            The new residual stream and memory.
        """
        normed = self.normed(hidden)
        match self.mixer, memory:
            case Mamba2Mixer() as mixer, (MambaMemory() | None) as before:
                mixed, after = mixer(normed, before, lengths=lengths)
            case AttentionMixer() as mixer, (AttentionMemory() | None) as before:
                mixed, after = mixer(normed, before, lengths=lengths)
            case mixer, before:
                mixed, after = mixer(normed), before
        return hidden + mixed, after

    def step(
        self, hidden: Float[Tensor, "sequence hidden"], slots: Slots
    ) -> Float[Tensor, "sequence hidden"]:
        """As `forward` with one token a sequence, the memory changed in place."""
        normed = self.normed(hidden)
        match self.mixer, slots:
            case Mamba2Mixer() as mixer, ScanSlots() as own:
                return hidden + mixer.step(normed, own)
            case AttentionMixer() as mixer, KeySlots() as own:
                return hidden + mixer.step(normed, own)
            case mixer, _:
                return hidden + mixer(normed)

    def normed(self, hidden: Float[Tensor, "token hidden"]) -> Float[Tensor, "token hidden"]:
        """The mixer's input."""
        return rms_norm(hidden, self.norm.weight, self.norm_eps)


def _mixer(config: DecoderConfig, kind: LayerKind) -> nn.Module:
    if kind == LayerKind.ATTENTION:
        return AttentionMixer(config)
    if kind == LayerKind.MLP:
        return MlpMixer(config)
    if config.mamba is None:
        raise ConfigError(want="a `mamba` section for the M layers", got="none", do="add it")
    return Mamba2Mixer(config, config.mamba)
