"""A SigLIP layer with FP8 products, for inference; made from a layer with trained weights.

Rows are rounded to e4m3 by the passes that write them, each row by its own scale: the norms and the
GELU. Attention and the product after it stay in bfloat16: a pass that rounds what attention writes
would take longer than that product gains.
"""

from __future__ import annotations

from typing import final

from jaxtyping import Float
from torch import Tensor, nn

from timeviper.model.vision.layer import SiglipLayer
from timeviper.model.vision.siglip import Siglip2Tower, SiglipTower
from timeviper.model.vision.tower import VisionTower
from timeviper.ops.fp8 import MULTIPLE, Quantized
from timeviper.ops.fp8_product import add_product_norm, fp8_product, quantize_product
from timeviper.ops.linear import fp8_linear, quantize
from timeviper.ops.patch_attention import patch_attention
from timeviper.ops.product import Fp8Weight, Product


@final
class Fp8Product(nn.Module):
    """A linear layer in FP8 whose rows are scaled by the pass that reads them."""

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        weight = Fp8Weight.of(linear.weight)
        self.values, self.scale = nn.Buffer(weight.values), nn.Buffer(weight.scale)
        self.bias = nn.Buffer(linear.bias.detach())

    def forward(self, x: Quantized) -> Product:
        """The product before its scales and its bias."""
        return fp8_product(x, Fp8Weight(self.values, self.scale), self.bias)


@final
class Fp8Layer(nn.Module):
    """What a `SiglipLayer` does, with FP8 before attention and in the MLP; see there."""

    def __init__(self, layer: SiglipLayer) -> None:
        super().__init__()
        self.num_heads = layer.self_attn.num_heads
        self.layer_norm1, self.layer_norm2 = layer.layer_norm1, layer.layer_norm2
        weight, bias = layer.self_attn.packed()
        packed = quantize(weight.detach())
        self.values, self.scales = nn.Buffer(packed.values), nn.Buffer(packed.scales)
        self.bias = nn.Buffer(bias.detach())
        self.out_proj = layer.self_attn.out_proj
        self.fc1, self.fc2 = Fp8Product(layer.mlp.fc1), Fp8Product(layer.mlp.fc2)

    def forward(
        self, stream: Float[Tensor, "frame patch width"], update: Product | None
    ) -> tuple[Float[Tensor, "frame patch width"], Product]:
        """Run the layer; the update waits as an unfinished product."""
        stream, normed = self.add_norm(stream, update, self.layer_norm1)
        attended = patch_attention(self.project(normed), self.num_heads)
        stream, normed = self.add_norm(stream, self.out_proj(attended), self.layer_norm2)
        inner = quantize_product(self.fc1(normed), activation="gelu_tanh")
        return stream, self.fc2(inner)

    def project(self, x: Quantized) -> Float[Tensor, "frame patch three_widths"]:
        """Queries, keys and values beside each other."""
        weight = Quantized(self.values, self.scales)
        return fp8_linear(x, weight, self.bias, dtype=self.bias.dtype)

    def add_norm(
        self,
        stream: Float[Tensor, "frame patch width"],
        update: Product | Float[Tensor, "frame patch width"] | None,
        norm: nn.LayerNorm,
    ) -> tuple[Float[Tensor, "frame patch width"], Quantized]:
        """The stream with its update, and the norm of that in FP8."""
        return add_product_norm(stream, update, norm.weight, norm.bias, eps=norm.eps)


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
