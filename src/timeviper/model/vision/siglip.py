"""SigLIP and SigLIP2 towers, built only up to the wanted layer, under the checkpoints' names."""

from __future__ import annotations

import math
from typing import final

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from timeviper.model.config import VisionConfig
from timeviper.model.vision.layer import SiglipLayer
from timeviper.model.vision.tower import VisionTower
from timeviper.ops.fp8_product import add_product
from timeviper.ops.product import Product


@final
class SiglipTower(VisionTower):
    """SigLIP vision encoder (arXiv 2303.15343) and the fixed-size SigLIP2 checkpoints."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        self.embeddings = SiglipEmbeddings(config)
        self.layers = nn.ModuleList(SiglipLayer(config) for _ in range(config.used_layers))

    def forward(
        self, pixels: Float[Tensor, "frame 3 height width"]
    ) -> Float[Tensor, "frame patch channel"]:
        """Features of every patch; see `VisionTower`."""
        return run_layers(self.layers, self.embeddings(pixels))


@final
class Siglip2Tower(VisionTower):
    """SigLIP2 NaFlex vision encoder (arXiv 2502.14786) on square frames of one size."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__(config)
        self.embeddings = Siglip2Embeddings(config)
        self.layers = nn.ModuleList(SiglipLayer(config) for _ in range(config.used_layers))

    def forward(
        self, pixels: Float[Tensor, "frame 3 height width"]
    ) -> Float[Tensor, "frame patch channel"]:
        """Features of every patch; see `VisionTower`."""
        return run_layers(self.layers, self.embeddings(pixels))


@final
class SiglipEmbeddings(nn.Module):
    """Patches times a weight, plus one position a patch of the frame."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        # Holds the weight in the checkpoints' shape; patches do not overlap, so it is a product.
        self.patch_embedding = nn.Conv2d(
            3, config.hidden_size, kernel_size=config.patch_size, stride=config.patch_size
        )
        self.position_embedding = nn.Embedding(config.patches, config.hidden_size)

    def forward(
        self, pixels: Float[Tensor, "frame 3 height width"]
    ) -> Float[Tensor, "frame patch channel"]:
        """Embedded patches."""
        weight, bias = self.patch_embedding.weight, self.patch_embedding.bias
        patches = patchify(pixels.to(weight.dtype), self.patch_size)
        rows = weight.permute(0, 2, 3, 1).flatten(1)
        return F.linear(*aligned(patches, rows), bias) + self.position_embedding.weight


@final
class Siglip2Embeddings(nn.Module):
    """Patches times a weight, plus a table of positions resized to the frame's grid."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.patch_size = config.patch_size
        self.grid = config.image_size // config.patch_size
        known = config.position_patches or config.patches
        self.patch_embedding = nn.Linear(3 * config.patch_size**2, config.hidden_size)
        self.position_embedding = nn.Embedding(known, config.hidden_size)

    def forward(
        self, pixels: Float[Tensor, "frame 3 height width"]
    ) -> Float[Tensor, "frame patch channel"]:
        """Embedded patches."""
        weight, bias = self.patch_embedding.weight, self.patch_embedding.bias
        patches = patchify(pixels.to(weight.dtype), self.patch_size)
        embedded = F.linear(*aligned(patches, weight), bias)
        return embedded + self.positions().to(embedded.dtype)

    def positions(self) -> Float[Tensor, "patch channel"]:
        """The table at the frame's grid, resized as by transformers."""
        table = self.position_embedding.weight
        side = math.isqrt(len(table))
        square = table.unflatten(0, (side, side)).permute(2, 0, 1)[None]
        # A CPU resizes with antialias in float32 and float64 alone.
        wide = square.float() if table.device.type == "cpu" else square
        size = (self.grid, self.grid)
        resized = F.interpolate(wide, size, mode="bilinear", align_corners=False, antialias=True)
        return resized[0].flatten(1).t().to(table.dtype)


def run_layers(
    layers: nn.ModuleList, stream: Float[Tensor, "frame patch channel"]
) -> Float[Tensor, "frame patch channel"]:
    """The stream after all layers; each adds the update of the one before."""
    update: Tensor | Product | None = None
    for layer in layers:
        stream, update = layer(stream, update)
    if isinstance(update, Product):
        return add_product(stream, update)
    return stream if update is None else stream + update


def patchify(
    pixels: Float[Tensor, "frame 3 height width"], patch: int
) -> Float[Tensor, "frame patch values"]:
    """Row-major patches, each flattened as (row, column, channel); what is over is cut off."""
    rows, columns = pixels.shape[2] // patch, pixels.shape[3] // patch
    grid = pixels[..., : rows * patch, : columns * patch]
    grid = grid.unflatten(3, (columns, patch)).unflatten(2, (rows, patch))
    return grid.permute(0, 2, 4, 3, 5, 1).flatten(3).flatten(1, 2)


def aligned(
    patches: Float[Tensor, "frame patch values"], weight: Float[Tensor, "channel values"]
) -> tuple[Float[Tensor, "frame patch padded"], Float[Tensor, "channel padded"]]:
    """Both with zeros up to whole 16 bytes on a GPU: 588 values alone take three times as long."""
    short = -patches.shape[-1] % 8 if patches.is_cuda else 0
    if not short:
        return patches, weight
    return F.pad(patches, (0, short)), F.pad(weight, (0, short))
