"""One layer of a SigLIP tower: attention among a frame's patches, then an MLP, each stage named.

A layer does not end its residual sum: it hands the stream on with the update that is still to be
added, so that the next norm takes both in one pass.
"""

from __future__ import annotations

from typing import final

import torch
from jaxtyping import Float
from torch import Tensor, nn

from timeviper.model.config import VisionConfig
from timeviper.ops.layer_norm import add_layer_norm
from timeviper.ops.linear_gelu import linear_gelu
from timeviper.ops.patch_attention import patch_attention


@final
class SelfAttention(nn.Module):
    """Every patch attends to every patch of its frame; biases on all four products."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        width = config.hidden_size
        self.num_heads = config.num_heads
        self.k_proj = nn.Linear(width, width)
        self.v_proj = nn.Linear(width, width)
        self.q_proj = nn.Linear(width, width)
        self.out_proj = nn.Linear(width, width)

    def forward(self, x: Float[Tensor, "frame patch width"]) -> Float[Tensor, "frame patch width"]:
        """What attention adds to normed patches."""
        return self.out_proj(patch_attention(self.project(x), self.num_heads))

    def project(
        self, x: Float[Tensor, "frame patch width"]
    ) -> Float[Tensor, "frame patch three_widths"]:
        """Queries, keys and values beside each other."""
        return nn.functional.linear(x, *self.packed())

    def packed(self) -> tuple[Float[Tensor, "three_widths width"], Float[Tensor, "three_widths"]]:
        """Weight and bias of queries, keys and values as one product.

        Copied when called: less than a thousandth of the product's time on a batch of frames, and
        no second set of weights has to be kept in step with the first.
        """
        parts = (self.q_proj, self.k_proj, self.v_proj)
        return torch.cat([p.weight for p in parts]), torch.cat([p.bias for p in parts])


@final
class Mlp(nn.Module):
    """Linear - GELU - linear with biases."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.fc1 = nn.Linear(config.hidden_size, config.intermediate_size)
        self.fc2 = nn.Linear(config.intermediate_size, config.hidden_size)

    def forward(self, x: Float[Tensor, "frame patch width"]) -> Float[Tensor, "frame patch width"]:
        """What the MLP adds to normed patches."""
        return self.fc2(linear_gelu(x, self.fc1.weight, self.fc1.bias))


@final
class SiglipLayer(nn.Module):
    """Norm, attention, norm, MLP; parts are named as in the checkpoints."""

    def __init__(self, config: VisionConfig) -> None:
        super().__init__()
        self.layer_norm1 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.self_attn = SelfAttention(config)
        self.layer_norm2 = nn.LayerNorm(config.hidden_size, eps=config.layer_norm_eps)
        self.mlp = Mlp(config)

    def forward(
        self,
        stream: Float[Tensor, "frame patch width"],
        update: Float[Tensor, "frame patch width"] | None,
    ) -> tuple[Float[Tensor, "frame patch width"], Float[Tensor, "frame patch width"]]:
        """Run the layer.

        Args:
            stream: residual stream before `update`.
            update: what the layer before adds to it; None before the first.

        Returns:
            The stream before this layer's own last update, and that update.
        """
        stream, normed = add_norm(stream, update, self.layer_norm1)
        stream, normed = add_norm(stream, self.self_attn(normed), self.layer_norm2)
        return stream, self.mlp(normed)


def add_norm(
    stream: Float[Tensor, "frame patch width"],
    update: Float[Tensor, "frame patch width"] | None,
    norm: nn.LayerNorm,
) -> tuple[Float[Tensor, "frame patch width"], Float[Tensor, "frame patch width"]]:
    """The stream with its update, and the norm of that."""
    return add_layer_norm(stream, update, norm.weight, norm.bias, eps=norm.eps)
