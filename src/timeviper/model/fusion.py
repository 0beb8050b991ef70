"""Put vision tokens into their places among the embedded text."""

from __future__ import annotations

from jaxtyping import Float
from torch import Tensor

from timeviper.core.errors import LayoutError
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.tokens import on_device


def fuse(
    text: Float[Tensor, "token hidden"],
    vision: Float[Tensor, "frame kept hidden"] | None,
    layout: TokenLayout,
) -> Float[Tensor, "token hidden"]:
    """Replace the placeholders' embeddings by the frames' tokens, in order.

    Args:
        text: embeddings of all token ids, packed; the values at vision places are ignored.
        vision: projected tokens of the frames of all sequences in order, or None.
        layout: kinds of the tokens.

    Returns:
        Decoder inputs of the same shape as `text`.

    Raises:
        LayoutError: vision tokens and places, or text and layout, differ in number.
    """
    if len(text) != layout.total:
        raise LayoutError(
            want=f"{layout.total} embedded tokens", got=len(text), do="re-run the processor"
        )
    places = layout.positions(SpanKind.VISION)
    frames, kept = (0, 0) if vision is None else vision.shape[:2]
    if len(places) != frames * kept:
        raise LayoutError(
            want=f"{frames * kept} places for {frames} frames of {kept} tokens",
            got=len(places),
            do="re-run the processor with this model's tokens_per_frame",
        )
    if vision is None or not len(places):
        return text
    return text.index_copy(0, on_device(places, text), vision.flatten(0, 1).to(text.dtype))
