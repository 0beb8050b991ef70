"""SigLIP and SigLIP2 towers from transformers' own blocks, built only up to the wanted one."""

from __future__ import annotations

from typing import cast, final

import torch
from jaxtyping import Float
from torch import Tensor, nn
from transformers import Siglip2VisionConfig, SiglipVisionConfig
from transformers.models.siglip.modeling_siglip import SiglipEncoderLayer, SiglipVisionEmbeddings
from transformers.models.siglip2.modeling_siglip2 import (
    Siglip2EncoderLayer,
    Siglip2VisionEmbeddings,
)

from timeviper.model.config import VisionConfig
from timeviper.model.vision.tower import VisionTower


@final
class SiglipTower(VisionTower):
    """SigLIP vision encoder (arXiv 2303.15343) and the fixed-size SigLIP2 checkpoints."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        sizes = siglip_config(config)
        self.embeddings = SiglipVisionEmbeddings(sizes)
        self.layers = nn.ModuleList(SiglipEncoderLayer(sizes) for _ in range(config.used_layers))

    def forward(
        self, pixels: Float[Tensor, "frame 3 height width"]
    ) -> Float[Tensor, "frame patch channel"]:
        """Features of every patch; see `VisionTower`."""
        hidden = self.embeddings(pixels)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=None)
        return hidden


@final
class Siglip2Tower(VisionTower):
    """SigLIP2 NaFlex vision encoder (arXiv 2502.14786) on square frames of one size."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        sizes = siglip2_config(config)
        self.embeddings = Siglip2VisionEmbeddings(sizes)
        self.layers = nn.ModuleList(Siglip2EncoderLayer(sizes) for _ in range(config.used_layers))

    def forward(
        self, pixels: Float[Tensor, "frame 3 height width"]
    ) -> Float[Tensor, "frame patch channel"]:
        """Features of every patch; see `VisionTower`."""
        patches = patchify(pixels, self.config.patch_size)
        weight = self.embeddings.patch_embedding.weight
        hidden = self.embeddings.patch_embedding(patches.to(weight.dtype))
        hidden = hidden + self._positions().to(hidden.dtype)
        for layer in self.layers:
            hidden = layer(hidden, attention_mask=None)
        return hidden

    def _positions(self) -> Float[Tensor, "1 patch width"]:
        side = self.embeddings.position_embedding_size
        table = self.embeddings.position_embedding.weight.reshape(side, side, -1)
        grid = self.config.image_size // self.config.patch_size
        shapes = cast("torch.LongTensor", torch.tensor([[grid, grid]]))
        return Siglip2VisionEmbeddings.resize_positional_embeddings(table, shapes, grid * grid)


def patchify(
    pixels: Float[Tensor, "frame 3 height width"], patch: int
) -> Float[Tensor, "frame patch values"]:
    """Row-major patches, each flattened as (row, column, channel)."""
    rows = pixels.unfold(2, patch, patch).unfold(3, patch, patch)
    return rows.permute(0, 2, 3, 4, 5, 1).flatten(3).flatten(1, 2)


def siglip_config(config: VisionConfig) -> SiglipVisionConfig:
    """The transformers config of a SigLIP tower."""
    return SiglipVisionConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        image_size=config.image_size,
        patch_size=config.patch_size,
        layer_norm_eps=config.layer_norm_eps,
        # An option of every transformers config that its generated signature does not show.
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
    )


def siglip2_config(config: VisionConfig) -> Siglip2VisionConfig:
    """The transformers config of a SigLIP2 NaFlex tower."""
    return Siglip2VisionConfig(
        hidden_size=config.hidden_size,
        intermediate_size=config.intermediate_size,
        num_hidden_layers=config.num_layers,
        num_attention_heads=config.num_heads,
        num_patches=config.position_patches or config.patches,
        patch_size=config.patch_size,
        layer_norm_eps=config.layer_norm_eps,
        # An option of every transformers config that its generated signature does not show.
        attn_implementation="sdpa",  # pyright: ignore[reportCallIssue]
    )
