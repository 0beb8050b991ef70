"""A prompt read to its end: where an answer begins."""

from __future__ import annotations

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from timeviper.model.state import DecoderState


@dataclass(frozen=True, kw_only=True, eq=False)
class OpenAnswer:
    """One or several prompts: scores of each one's first token, and the state to go on from."""

    logits: Float[Tensor, "sequence vocab"]
    state: DecoderState
