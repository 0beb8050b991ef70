"""A SigLIP layer with FP8 products, for inference; made from a layer with trained weights.

Rows are rounded to e4m3 by the passes that write them: those of a norm by one scale that is known
beforehand, those of the GELU each by its own. Attention and the product after it stay in bfloat16:
a pass that rounds what attention writes would take longer than that product gains.
"""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from timeviper.model.vision.layer import SiglipLayer
from timeviper.model.vision.siglip import Siglip2Tower, SiglipTower
from timeviper.model.vision.tower import VisionTower
from timeviper.ops.fp8 import MULTIPLE, Quantized
from timeviper.ops.fp8_product import add_product_norm, fp8_product, fp8_rows_product
from timeviper.ops.linear import quantize
from timeviper.ops.patch_attention import patch_attention
from timeviper.ops.product import Fp8Norm, Fp8Rows, Fp8Weight, Product


@final
class Fp8Product(nn.Module):
    """A linear layer in FP8 whose weight has one scale.

    Args:
        weight: `(out, in)`.
        bias: one number an output channel.
    """

    def __init__(self, weight: Float[Tensor, "out in"], bias: Float[Tensor, "out"]) -> None:
        super().__init__()
        low = Fp8Weight.of(weight)
        self.values, self.scale = nn.Buffer(low.values), nn.Buffer(low.scale)
        self.bias = nn.Buffer(bias.detach())

    def forward(self, x: Fp8Rows) -> Float[Tensor, "... out"]:
        """The product."""
        return fp8_rows_product(x, Fp8Weight(self.values, self.scale), self.bias)

    def unfinished(self, x: Quantized) -> Product:
        """The product of rows that each have a scale, before theirs and the bias."""
        return fp8_product(x, Fp8Weight(self.values, self.scale), self.bias)


@final
class Fp8LayerNorm(nn.Module):
    """A layer norm that adds what waits to the stream and rounds its results to e4m3."""

    def __init__(self, norm: nn.LayerNorm) -> None:
        super().__init__()
        folded = Fp8Norm.of(norm.weight, norm.bias, norm.eps)
        self.weight, self.bias = nn.Buffer(folded.weight), nn.Buffer(folded.bias)
        self.scale, self.eps = nn.Buffer(folded.scale), norm.eps

    def forward(
        self,
        stream: Float[Tensor, "frame patch width"],
        update: Product | Float[Tensor, "frame patch width"] | None,
    ) -> tuple[Float[Tensor, "frame patch width"], Fp8Rows]:
        """The stream with its update, and the norm of that."""
        norm = Fp8Norm(self.weight, self.bias, self.scale, self.eps)
        return add_product_norm(stream, update, norm)


@final
class Fp8Layer(nn.Module):
    """What a `SiglipLayer` does, with FP8 before attention and in the MLP; see there."""

    def __init__(self, layer: SiglipLayer) -> None:
        super().__init__()
        attention, mlp = layer.self_attn, layer.mlp
        self.num_heads = attention.num_heads
        self.norm1, self.norm2 = Fp8LayerNorm(layer.layer_norm1), Fp8LayerNorm(layer.layer_norm2)
        self.project = Fp8Product(*attention.packed())
        self.out_proj = attention.out_proj
        self.fc1 = Fp8Product(mlp.fc1.weight, mlp.fc1.bias)
        self.fc2 = Fp8Product(mlp.fc2.weight, mlp.fc2.bias)

    def forward(
        self, stream: Float[Tensor, "frame patch width"], update: Product | None
    ) -> tuple[Float[Tensor, "frame patch width"], Product]:
        """Run the layer; the update waits as an unfinished product."""
        stream, normed = self.norm1(stream, update)
        attended = patch_attention(self.project(normed), self.num_heads)
        stream, normed = self.norm2(stream, self.out_proj(attended))
        inner = quantize(self.fc1(normed), activation="gelu_tanh")
        return stream, self.fc2.unfinished(inner)


def quantize_tower_(tower: VisionTower) -> tuple[str, ...]:
    """Put an `Fp8Layer` in the place of every layer of a tower, for inference on a GPU.

    One layer at a time is quantised where it is, and freed.

    Args:
        tower: changed in place; its embeddings stay as they are.

    Returns:
        Names of the layers that were replaced: none where a width is no multiple of 16.
    """
    sizes = (tower.config.hidden_size, tower.config.intermediate_size)
    if not isinstance(tower, SiglipTower | Siglip2Tower) or any(n % MULTIPLE for n in sizes):
        return ()
    for index, layer in enumerate(tower.layers):
        if isinstance(layer, SiglipLayer):
            tower.layers[index] = Fp8Layer(layer)
    return tuple(f"layers.{index}" for index in range(len(tower.layers)))
