"""What every vision tower offers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from timeviper.model.config import VisionConfig

# Patches of one call that fill a device: on a CPU more are no faster and cost memory in every
# thread; an H100 multiplies 93,312 rows (128 frames of 729 patches) at its full rate.
_PATCHES_AT_ONCE = {"cpu": 2**10, "cuda": 93_312}


def frames_at_once(config: VisionConfig, device_type: str) -> int:
    """How many frames a tower takes in one call where there are many.

    Args:
        config: of the tower.
        device_type: where it is, "cpu" or "cuda".

    Returns:
        At least 1; the last call of a video takes what is left.
    """
    return max(1, _PATCHES_AT_ONCE.get(device_type, 2**10) // config.patches)


class VisionTower(nn.Module, ABC):
    """Frames to patch features."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.config = config

    @abstractmethod
    def forward(
        self, pixels: Float[Tensor, "frame 3 height width"]
    ) -> Float[Tensor, "frame patch channel"]:
        """Features of every patch, without final norm.

        Args:
            pixels: normalised frames of `config.image_size` squared.

        Returns:
            Output of the block that `config.feature_layer` names; row-major patches.
        """
