"""Stage 1: a tower learns to name what it sees, frame by frame, from every merged token."""

from __future__ import annotations

import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from timeviper.model.vision.tower import VisionTower
from timeviper.ops.merge import tome


class Namer(nn.Module):
    """A tower with a linear classifier over its merged tokens; the classifier is thrown away.

    Args:
        tower: learns; its features are what the language model will read.
        tokens_per_frame: as in the projector that follows.
        merge_heads: as in the projector that follows.
        names: classes, of which the last is "nothing".
    """

    def __init__(
        self, tower: VisionTower, *, tokens_per_frame: int, merge_heads: int, names: int
    ) -> None:
        super().__init__()
        self.tower = tower
        self.tokens_per_frame = tokens_per_frame
        self.merge_heads = merge_heads
        self.classifier = nn.Linear(tower.config.hidden_size, names)

    def forward(
        self, pixels: Float[Tensor, "frame 3 height width"], names: Int[Tensor, " frame"]
    ) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
        """Loss and accuracy.

        Args:
            pixels: normalised frames.
            names: class of each.

        Returns:
            Cross-entropy averaged over every merged token alone (each must carry the name, since
            a transfer site may drop the others), and accuracy of their mean.
        """
        tokens, _ = tome(self.tower(pixels), self.tokens_per_frame, metric_heads=self.merge_heads)
        scores = self.classifier(tokens).float()
        loss = F.cross_entropy(scores.flatten(0, 1), names.repeat_interleave(scores.shape[1]))
        right = scores.detach().mean(1).argmax(-1) == names
        return loss, right.float().mean()
