"""Examples side by side as the inputs of one pack, with labels."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from timeviper.core.inputs import ModelInputs
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.conversation import IGNORED
from timeviper.training.data.reading import Example


@dataclass(frozen=True, eq=False, kw_only=True)
class Batch:
    """One pack, ready for the model.

    Args:
        inputs: tokens, frames and labels; one sequence of the layout a sample.
        number: of the pack in the order of the whole run.
        origins: file and place of each sample.
    """

    inputs: ModelInputs
    number: int
    origins: tuple[str, ...]

    @property
    def taught(self) -> int:
        """Tokens that the loss is taken on; 0 for a pack whose samples all failed."""
        labels = self.inputs.labels
        return 0 if labels is None else int((labels != IGNORED).sum())


def collate(examples: Sequence[Example], *, filler: int) -> ModelInputs:
    """Examples as one pack.

    Args:
        examples: in the order of the pack; without any, the pack holds one token and teaches
            nothing, so that ranks stay in step.
        filler: id of that token.

    Returns:
        Packed ids, layout, pixels, times, and labels: at each place the token that follows it
        where that belongs to an answer, else -100; never across two examples.
    """
    if not examples:
        layout = TokenLayout.of((SpanKind.TEXT, 1))
        return ModelInputs(
            token_ids=torch.tensor([filler]), layout=layout, labels=torch.tensor([IGNORED])
        )
    tokens = PromptTokens.join(example.lesson.tokens for example in examples)
    lengths = [len(example.lesson.tokens) for example in examples]
    pixels = [example.pixels for example in examples if example.pixels is not None]
    return ModelInputs(
        token_ids=torch.from_numpy(tokens.ids),
        layout=TokenLayout.from_kinds(tokens.kinds, lengths),
        pixels=torch.cat(pixels) if pixels else None,
        times=np.concatenate([e.times for e in examples]) if pixels else None,
        labels=torch.from_numpy(np.concatenate([example.lesson.labels for example in examples])),
    )
