"""What every vision tower offers."""

from __future__ import annotations

from abc import ABC, abstractmethod

from jaxtyping import Float
from torch import Tensor, nn

from timeviper.model.config import VisionConfig


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
