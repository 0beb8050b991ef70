"""From vision features to decoder inputs: merge each frame's patches, then a two-layer MLP."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from timeviper.model.config import ProjectorConfig
from timeviper.ops.merge import tome


class Projector(nn.Module):
    """ToMe to `tokens_per_frame` tokens (or none), then Linear - GELU - Linear with biases."""

    def __init__(self, config: ProjectorConfig, vision_size: int, hidden_size: int) -> None:
        super().__init__()
        self.config = config
        self.linear_1 = nn.Linear(vision_size, hidden_size)
        self.linear_2 = nn.Linear(hidden_size, hidden_size)

    def forward(
        self, features: Float[Tensor, "frame patch vision"]
    ) -> Float[Tensor, "frame kept hidden"]:
        """Project patch features.

        Args:
            features: the tower's patch tokens.

        Returns:
            `tokens_per_frame` tokens of each frame in the decoder's width.
        """
        return self.project(self.merge(features))

    def merge(
        self, features: Float[Tensor, "frame patch vision"]
    ) -> Float[Tensor, "frame kept vision"]:
        """Merged features before the MLP."""
        keep = self.config.tokens_per_frame
        if keep is None:
            return features
        return tome(features, keep, metric_heads=self.config.merge_heads)[0]

    def project(
        self, merged: Float[Tensor, "frame kept vision"]
    ) -> Float[Tensor, "frame kept hidden"]:
        """Merged features in the decoder's width."""
        return self.linear_2(F.gelu(self.linear_1(merged)))
