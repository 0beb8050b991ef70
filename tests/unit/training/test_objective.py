"""Encode once and fork gives the loss, gradients and flags of one full run a question."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.model.toys import PLANS, toy
from tests.unit.training.toys import random_rows, random_videos
from timeviper.core.layout import SpanKind
from timeviper.model.decoder import Decoder
from timeviper.model.tokens import Tokens
from timeviper.training.objective import (
    QuestionRows,
    accuracy_by_task,
    answer_loss,
    answer_sources,
)

# Videos of 5, 1 and 9 frames; the second is asked once, the third most; all rows are ragged.
VIDEOS = (5, 1, 9)
ROWS = ((0, 4, 3), (2, 2, 1), (2, 6, 5), (1, 3, 2), (0, 1, 4), (2, 5, 2))


def slow(decoder: Decoder, video: Tokens, rows: QuestionRows) -> tuple[Tensor, list[bool]]:
    """Each question alone in one call from the start of its video, float64 to the end."""
    ids = torch.from_numpy(rows.tokens.ids).split(list(rows.lengths))
    kinds = np.split(rows.tokens.kinds, np.cumsum(rows.lengths)[:-1])
    videos = video.hidden.split(list(video.lengths))
    shown = np.split(video.kinds, np.cumsum(video.lengths)[:-1])
    losses: list[Tensor] = []
    right: list[bool] = []
    for number, (row, kind) in enumerate(zip(ids, kinds, strict=True)):
        seen = rows.videos[number]
        hidden = torch.cat([videos[seen], decoder.embed(row)])
        tokens = Tokens(hidden, np.concatenate([shown[seen], kind]), (len(hidden),))
        out, _ = decoder.run(tokens)
        answer = torch.from_numpy(kind == SpanKind.ANSWER.code)
        # The place before each answer token, counted from the end of the row.
        scores = decoder.logits(out.hidden[-len(row) :])[:-1][answer[1:]]
        losses.append(F.cross_entropy(scores, row[answer]))
        right.append(bool((scores.argmax(-1) == row[answer]).all()))
    return torch.stack(losses).mean(), right


@pytest.mark.parametrize("plan", ["none", "stream", "paper", "three", "drop-only"])
def test_loss_and_gradients_are_those_of_full_runs(plan: str) -> None:
    decoder, video, rows = toy("hybrid", PLANS[plan]), random_videos(VIDEOS), random_rows(ROWS)
    got = answer_loss(decoder, video, rows, torch.from_numpy(rows.tokens.ids)).loss
    want, _ = slow(decoder, video, rows)
    close("loss", got=got, want=want, tol=TOL.training.f32)
    names, leaves = zip(*decoder.named_parameters(), strict=True)
    found = torch.autograd.grad(got, leaves, allow_unused=True)
    wanted = torch.autograd.grad(want, leaves, allow_unused=True)
    for name, a, b in zip(names, found, wanted, strict=True):
        assert (a is None) == (b is None), name
        if a is not None and b is not None and b.norm() > 1e-9:
            close(f"gradient of {name}", got=a, want=b, tol=TOL.training.f32)


@pytest.mark.parametrize("plan", ["none", "paper"])
def test_the_frames_learn_as_in_full_runs(plan: str) -> None:
    decoder, video, rows = toy("hybrid", PLANS[plan]), random_videos(VIDEOS), random_rows(ROWS)
    pixels = video.hidden.requires_grad_()
    got = answer_loss(decoder, video, rows, torch.from_numpy(rows.tokens.ids)).loss
    want, _ = slow(decoder, video, rows)
    a, b = (torch.autograd.grad(loss, pixels)[0] for loss in (got, want))
    close("gradient of the video", got=a, want=b, tol=TOL.training.f32)


@pytest.mark.parametrize("plan", ["none", "paper"])
def test_right_means_that_every_token_would_be_the_greedy_one(plan: str) -> None:
    decoder, video = toy("hybrid", PLANS[plan]), random_videos(VIDEOS)
    # Answers of one word among 24: some rows are right by chance, most are not.
    shapes = [(number % 3, 3, 1 + (number % 5 == 0)) for number in range(90)]
    rows = random_rows(shapes, seed=1)
    with torch.no_grad():
        got = answer_loss(decoder, video, rows, torch.from_numpy(rows.tokens.ids)).right
        _, want = slow(decoder, video, rows)
    assert got.bool().tolist() == want
    assert 0 < sum(want) < len(want)


def test_long_answers_do_not_outweigh_short_ones() -> None:
    decoder, video = toy("hybrid"), random_videos((3,))
    rows = [((0, 2, 9),), ((0, 3, 1),)]
    with torch.no_grad():
        alone = [
            answer_loss(decoder, video, r, torch.from_numpy(r.tokens.ids)).loss
            for r in map(random_rows, rows)
        ]
        both = random_rows([shape for row in rows for shape in row])
        # The same words as in the two rows alone.
        ids = np.concatenate([random_rows(row).tokens.ids for row in rows])
        both.tokens.ids[:] = ids
        got = answer_loss(decoder, video, both, torch.from_numpy(ids)).loss
    close("mean", got=got, want=(alone[0] + alone[1]) / 2, tol=TOL.training.f32)


def test_sources_stand_before_answer_tokens_only() -> None:
    rows = random_rows([(0, 2, 2), (0, 3, 1)])
    source, row = answer_sources(rows)
    assert source.tolist() == [1, 2, 6]
    assert row.tolist() == [0, 0, 1]


def test_accuracy_is_told_by_task() -> None:
    right = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert accuracy_by_task(["b", "a", "b", "a"], right) == {"a": 0.5, "b": 1.0}
