"""The loss of questions about a video that is encoded once: next token, answers only."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from numpy.typing import NDArray
from torch import Tensor

from timeviper.core.layout import SpanKind
from timeviper.model.decoder import Decoder
from timeviper.model.tokens import Tokens, on_device
from timeviper.processing.clip_tokens import PromptTokens


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
    logits = decoder.logits(predicted).float()
    target = token_ids.index_select(0, on_device(source + 1, token_ids))
    losses = F.cross_entropy(logits, target, reduction="none")
    rows = on_device(row, losses)
    counts = torch.bincount(rows, minlength=len(questions.lengths))
    each = torch.zeros(len(counts), device=losses.device).index_add(0, rows, losses)
    wrong = torch.zeros_like(each).index_add(0, rows, (logits.argmax(-1) != target).float())
    # A row counts by the root of its tokens: a caption of two hundred should not outweigh all
    # short answers, nor should each of its tokens count for next to nothing.
    size = counts.clamp(min=1).float().sqrt()
    return AnswerLoss((each / size).sum() / size.sum(), (wrong == 0).float())


def answer_sources(questions: QuestionRows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Places whose next token is an answer token, and the row of each."""
    answer = questions.tokens.kinds == SpanKind.ANSWER.code
    source = np.flatnonzero(answer) - 1
    return source, np.repeat(np.arange(len(questions.lengths)), questions.lengths)[source]


def accuracy_by_task(tasks: Sequence[str], right: Float[Tensor, " row"]) -> dict[str, float]:
    """Share of right answers of each task."""
    values = right.detach().cpu().numpy()
    names = np.asarray(tasks)
    return {t: float(values[names == t].mean()) for t in sorted(set(tasks))}
