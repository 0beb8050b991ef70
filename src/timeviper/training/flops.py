"""What a step costs in arithmetic, from shapes alone, and what a GPU could do in that time."""

from __future__ import annotations

from typing import final

import torch
from torch import nn

from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.pattern import LayerKind
from timeviper.model.vlm import TimeViper

# Dense bfloat16 products a second, from the makers' data sheets, by part of the device's name.
_PEAK = {"H200": 989e12, "H100": 989e12, "A100": 312e12, "B200": 2250e12, "L40S": 362e12}


@final
class StepCost:
    """Counts the arithmetic of steps of one model.

    Products with weights count twice their size a token; a backward pass counts as much again
    for what flows through, and again for weights that learn. Vision tokens count in a layer as
    far as the sites before it let them through. What is computed again to save memory is not
    counted, as is usual for model FLOPs.

    Args:
        model: after its parameters were frozen or not.
    """

    def __init__(self, model: TimeViper) -> None:
        decoder = model.decoder
        self._layers = [_products(layer) for layer in decoder.layers]
        self._config = decoder.config
        self._words = decoder.embed_tokens.weight.numel()
        self._words_learn = decoder.embed_tokens.weight.requires_grad
        self._tower = _products(model.vision)
        self._patches = model.config.vision.patches
        self._projector = _products(model.projector)
        self._per_frame = model.config.tokens_per_frame

    def of(self, layout: TokenLayout, *, taught: int) -> float:
        """Floating-point operations of a step, forward and backward.

        Args:
            layout: of its tokens.
            taught: tokens that the loss is taken on.
        """
        frames = sum(layout.count(SpanKind.VISION)) // self._per_frame
        # Scored, scored again in the backward pass, and one product each way.
        total = 2.0 * taught * self._words * (3 + self._words_learn)
        total += frames * self._patches * _frozen_or_not(self._tower)
        total += frames * self._per_frame * _through(self._projector)
        return total + self._decoder(layout)

    def _decoder(self, layout: TokenLayout) -> float:
        words = [n - v for n, v in zip(layout.lengths, layout.count(SpanKind.VISION), strict=True)]
        vision = list(layout.count(SpanKind.VISION))
        sites = {site.layer: site for site in self._config.transfer.sites}
        total = 0.0
        for index, kind in enumerate(self._config.layers):
            if index in sites:
                vision = [sites[index].kept(count) for count in vision]
            lengths = [w + v for w, v in zip(words, vision, strict=True)]
            total += sum(lengths) * _through(self._layers[index])
            if kind == LayerKind.ATTENTION:
                width = self._config.num_heads * self._config.head_dim
                # Scores and values, half of them masked; three times with the backward pass.
                total += 3 * 2.0 * width * sum(n * n for n in lengths)
            elif kind == LayerKind.MAMBA and self._config.mamba is not None:
                state = self._config.mamba.inner_size * self._config.mamba.state_size
                # Into the state and out of it.
                total += 3 * 4.0 * state * sum(lengths)
        return total


def peak_flops(device: torch.device) -> float | None:
    """Dense bfloat16 operations a second of a device, None where they are not known."""
    if device.type != "cuda":
        return None
    name = torch.cuda.get_device_name(device)
    return next((peak for part, peak in _PEAK.items() if part in name), None)


def _products(module: nn.Module) -> tuple[int, int]:
    """Numbers in the matrices of a module, and how many of them learn."""
    matrices = [p for p in module.parameters() if p.ndim >= 2]
    return sum(p.numel() for p in matrices), sum(p.numel() for p in matrices if p.requires_grad)


def _through(products: tuple[int, int]) -> float:
    return 4.0 * products[0] + 2.0 * products[1]


def _frozen_or_not(products: tuple[int, int]) -> float:
    """Nothing lies below the tower: a frozen one has no backward pass."""
    return _through(products) if products[1] else 2.0 * products[0]
