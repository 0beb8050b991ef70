"""How many frames are decoded, looked at and read at a time, on each kind of device."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Self

from timeviper.core.errors import ConfigError
from timeviper.model.config import TimeViperConfig

# On a CPU more frames at a time are no faster and cost memory in every thread.
_CPU_CLIP_FRAMES, _CPU_PATCHES = 64, 2**10
# A GPU wants to be filled: SigLIP with 64 frames of 729 patches, a 9B decoder with 8,192 tokens.
# Twice as many frames are 5 % faster alone and as fast while every core decodes, for 3 GiB more of
# the device once they are captured (benchmarks/results).
_GPU_CLIP_FRAMES, _GPU_PATCHES, _GPU_TOKENS = 32, 64 * 729, 8192


@dataclass(frozen=True, kw_only=True)
class Chunks:
    """Three sizes; what is remembered of a video depends on none of them.

    Args:
        clip_frames: frames that are decoded together.
        batch_frames: most frames that the tower takes at once.
        chunk_frames: frames that the decoder reads at once, with the words between them.
    """

    clip_frames: int
    batch_frames: int
    chunk_frames: int

    def __post_init__(self) -> None:
        """Refuse sizes that hold nothing."""
        if min(self.clip_frames, self.batch_frames, self.chunk_frames) < 1:
            raise ConfigError(
                want="at least one frame in a clip, a batch and a chunk",
                got=f"{self.clip_frames}, {self.batch_frames} and {self.chunk_frames}",
                do="leave the sizes to the device",
            )

    @classmethod
    def of(cls, config: TimeViperConfig, device_type: str) -> Self:
        """The sizes that suit a model and a kind of device, `cpu` or `cuda`."""
        patches = config.vision.patches
        if device_type == "cpu":
            return cls(
                clip_frames=_CPU_CLIP_FRAMES,
                batch_frames=max(1, _CPU_PATCHES // patches),
                chunk_frames=_CPU_CLIP_FRAMES,
            )
        return cls(
            clip_frames=_GPU_CLIP_FRAMES,
            batch_frames=max(1, _GPU_PATCHES // patches),
            chunk_frames=max(1, _GPU_TOKENS // config.tokens_per_frame),
        )

    def even(self, frames: int) -> Self:
        """Clips and chunks of so many frames, and batches that are no larger than before."""
        batch = min(frames, self.batch_frames)
        return replace(self, clip_frames=frames, batch_frames=batch, chunk_frames=frames)


def chunk_tokens(config: TimeViperConfig, device_type: str) -> int:
    """Vision tokens that the decoder reads at once on a kind of device."""
    return Chunks.of(config, device_type).chunk_frames * config.tokens_per_frame
