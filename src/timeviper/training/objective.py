"""What is learned from: the next token of answers, about one video or in packs of anything."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from timeviper.core.errors import LayoutError
from timeviper.core.inputs import ModelInputs
from timeviper.core.layout import SpanKind
from timeviper.model.decoder import Decoder
from timeviper.model.tokens import Tokens, on_device
from timeviper.model.vlm import TimeViper
from timeviper.ops.cross_entropy import linear_cross_entropy
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.conversation import IGNORED


@dataclass(frozen=True, eq=False)
class QuestionRows:
    """Questions with their answers, packed, each about one video of the step.

    Args:
        tokens: ids and kinds of all rows: INSTRUCTION, then ANSWER.
        lengths: tokens of each row.
        videos: number of the video that each row asks about.
        tasks: name of each row's task, for reports.
    """

    tokens: PromptTokens
    lengths: tuple[int, ...]
    videos: tuple[int, ...]
    tasks: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class AnswerLoss:
    """Mean loss a token, rows by the root of their length; which whole answers are right."""

    loss: Float[Tensor, ""]
    right: Float[Tensor, " row"]


def answer_loss(
    decoder: Decoder,
    video: Tokens,
    questions: QuestionRows,
    token_ids: Int[Tensor, " token"],
) -> AnswerLoss:
    """Encode each video once, fork its state for each question, score the answers.

    Args:
        decoder: under the transfer plan to train.
        video: embedded prefix, marks and vision tokens; one sequence a video.
        questions: rows about these videos.
        token_ids: `questions.tokens.ids` on the device.

    Returns:
        The loss and each row's success, teacher-forced.
    """
    _, state = decoder.run(video, None, more=True)
    state = state.select(questions.videos)
    asked = Tokens(decoder.embed(token_ids), questions.tokens.kinds, questions.lengths)
    out, _ = decoder.run(asked, state)
    source, row = answer_sources(questions)
    # Parked tokens come out before a row's own, so places count from each row's end.
    shift = np.cumsum(out.lengths) - np.cumsum(questions.lengths)
    predicted = out.hidden.index_select(0, on_device(source + shift[row], out.hidden))
    target = token_ids.index_select(0, on_device(source + 1, token_ids))
    losses, best = linear_cross_entropy(predicted, output_words(decoder), target)
    rows = on_device(row, losses)
    counts = torch.bincount(rows, minlength=len(questions.lengths))
    each = losses.new_zeros(len(counts)).index_add(0, rows, losses)
    wrong = torch.zeros_like(each).index_add(0, rows, (best != target).to(each.dtype))
    # A row counts by the root of its tokens: a caption of two hundred should not outweigh all
    # short answers, nor should each of its tokens count for next to nothing.
    size = counts.clamp(min=1).to(losses.dtype).sqrt()
    return AnswerLoss((each / size).sum() / size.sum(), (wrong == 0).float())


def answer_sources(questions: QuestionRows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places whose next token is an answer token, and the row of each."""
    answer = questions.tokens.kinds == SpanKind.ANSWER.code
    source = np.flatnonzero(answer) - 1
    return source, np.repeat(np.arange(len(questions.lengths)), questions.lengths)[source]


@dataclass(frozen=True, eq=False)
class PackedLoss:
    """Mean loss of the taught tokens of a pack.

    Args:
        loss: 0 where nothing is taught, still tied to the weights.
        taught: number of tokens with a label.
        right: share of them that is the likeliest word where it stands.
    """

    loss: Float[Tensor, ""]
    taught: int
    right: Float[Tensor, ""]


def packed_loss(model: TimeViper, inputs: ModelInputs) -> PackedLoss:
    """Next-token loss of a pack of samples with any media, each under the model's transfer plan.

    Sites drop vision tokens and nothing else, so the words that come out are those that went in,
    in their order: the n-th label of a word belongs to the n-th word that comes out.

    Args:
        model: that learns.
        inputs: ids and pixels on the model's device; labels, on any device, hold at each place
            the token that should follow it, -100 where no loss is taken.

    Returns:
        The loss.

    Raises:
        LayoutError: no labels; or a label at a vision token, which may be dropped.
    """
    if inputs.labels is None:
        raise LayoutError(want="labels", got="inputs without", do="build inputs for training")
    labels = inputs.labels.cpu().numpy()
    word = inputs.layout.kinds != SpanKind.VISION.code
    if (labels[~word] != IGNORED).any():
        raise LayoutError(
            want="labels at words only",
            got=f"{(labels[~word] != IGNORED).sum()} at vision tokens",
            do="let a word, such as the opening of the answer, stand between a frame and it",
        )
    out, _ = model(inputs)
    places = np.flatnonzero(out.kinds != SpanKind.VISION.code)
    if len(places) != word.sum():
        raise LayoutError(
            want=f"{word.sum()} words after the last layer",
            got=len(places),
            do="give each video a question or an answer that follows it",
        )
    taught = np.flatnonzero(labels[word] != IGNORED)
    hidden = out.hidden.index_select(0, on_device(places[taught], out.hidden))
    target = on_device(labels[word][taught], out.hidden)
    losses, best = linear_cross_entropy(hidden, output_words(model.decoder), target)
    count = max(1, len(taught))
    return PackedLoss(losses.sum() / count, len(taught), (best == target).sum() / count)


def output_words(decoder: Decoder) -> Float[Tensor, "word hidden"]:
    """The matrix that scores the next word."""
    head = decoder.lm_head
    return decoder.embed_tokens.weight if head is None else head.weight


def to_device(inputs: ModelInputs, device: torch.device) -> ModelInputs:
    """The same inputs with ids and pixels on a device; what the host reads stays."""
    pixels = inputs.pixels
    return replace(
        inputs,
        token_ids=inputs.token_ids.to(device, non_blocking=True),
        pixels=None if pixels is None else pixels.to(device, non_blocking=True),
    )


def accuracy_by_task(tasks: Sequence[str], right: Float[Tensor, " row"]) -> dict[str, float]:
    """Share of right answers of each task."""
    values = right.detach().cpu().numpy()
    names = np.asarray(tasks)
    return {t: float(values[names == t].mean()) for t in sorted(set(tasks))}
