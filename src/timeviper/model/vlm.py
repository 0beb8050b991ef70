"""The whole model: tower, projector, decoder; every stage has a name."""

from __future__ import annotations

from dataclasses import replace

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from timeviper.core.errors import LayoutError
from timeviper.core.inputs import ModelInputs
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.config import TimeViperConfig, TransferPlan
from timeviper.model.decoder import Decoder, with_plan
from timeviper.model.fusion import fuse
from timeviper.model.projector import Projector
from timeviper.model.state import DecoderState
from timeviper.model.tokens import Tokens, on_device
from timeviper.model.vision.towers import build_tower


class TimeViper(nn.Module):
    """TimeViper (arXiv 2511.16595): frames and text in, hidden states and a state out."""

    def __init__(self, config: TimeViperConfig) -> None:
        super().__init__()
        self.config = config
        self.vision = build_tower(config.vision)
        self.projector = Projector(
            config.projector, config.vision.hidden_size, config.decoder.hidden_size
        )
        self.decoder = Decoder(config.decoder)

    def forward(
        self, inputs: ModelInputs, state: DecoderState | None = None, *, more: bool = False
    ) -> tuple[Tokens, DecoderState]:
        """Run ids and frames through the whole model.

        Args:
            inputs: token ids, frames, layout.
            state: what came before, or None at the start of time.
            more: further tokens of the same prompt follow in a later call.

        Returns:
            Hidden states after the final norm with what each is, and the new state.
        """
        vision = None if inputs.pixels is None else self.encode_frames(inputs.pixels)
        x = self.embed(inputs.token_ids, vision, inputs.layout)
        return self.decoder.run(Tokens.of(x, inputs.layout), state, more=more)

    def encode_frames(
        self, pixels: Float[Tensor, "frame 3 height width"]
    ) -> Float[Tensor, "frame kept hidden"]:
        """Vision tokens of frames in the decoder's width."""
        return self.projector(self.vision(pixels))

    def embed(
        self,
        token_ids: Int[Tensor, " token"],
        vision: Float[Tensor, "frame kept hidden"] | None,
        layout: TokenLayout,
    ) -> Float[Tensor, "token hidden"]:
        """Decoder inputs: embedded text with vision tokens in their places.

        Raises:
            LayoutError: ids, vision tokens and layout differ in number.
        """
        if len(token_ids) != layout.total:
            raise LayoutError(
                want=f"{layout.total} token ids", got=len(token_ids), do="re-run the processor"
            )
        places = on_device(layout.positions(SpanKind.VISION), token_ids)
        # The placeholder's id may lie past the embedding table; its row is replaced anyway.
        known = token_ids.index_fill(0, places, 0)
        return fuse(self.decoder.embed(known), vision, layout)


def under_plan(model: TimeViper, plan: TransferPlan) -> TimeViper:
    """The same weights under other transfer sites; nothing is copied.

    Args:
        model: stays as it is.
        plan: which sites drop and transfer instead.

    Returns:
        A model whose parts are those of `model`, the decoder as by `with_plan`.

    Raises:
        ConfigError: a site that transfers where this model has no transfer module, or one that
            its decoder cannot carry.
    """
    config = replace(model.config, decoder=replace(model.config.decoder, transfer=plan))
    decoder = with_plan(model.decoder, plan)
    # Empty parts, to be replaced at once by the real ones.
    with torch.device("meta"):
        other = TimeViper(config)
    other.vision, other.projector, other.decoder = model.vision, model.projector, decoder
    other.training = model.training
    return other
