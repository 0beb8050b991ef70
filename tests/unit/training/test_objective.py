"""Encode once and fork gives the loss, gradients and flags of one full run a question."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from tests.tolerances import TOL, close
from tests.unit.model.toys import PLANS, chain, one, toy
from tests.unit.training.toys import packed_inputs, random_rows, random_videos, toy_model
from timeviper.core.errors import LayoutError
from timeviper.core.inputs import ModelInputs
from timeviper.core.layout import SpanKind, TokenLayout
from timeviper.model.decoder import Decoder
from timeviper.model.tokens import Tokens
from timeviper.model.vlm import TimeViper
from timeviper.processing.conversation import IGNORED
from timeviper.training.objective import (
    QuestionRows,
    accuracy_by_task,
    answer_loss,
    answer_sources,
    packed_loss,
    to_device,
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
    # The mean of rows, each counting by the root of its tokens.
    answered = [k == SpanKind.ANSWER.code for k in kinds]
    root = torch.tensor([float(a.sum()) for a in answered], dtype=torch.float64).sqrt()
    return (torch.stack(losses) * root).sum() / root.sum(), right


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


def test_a_row_counts_by_the_root_of_its_tokens() -> None:
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
    close("mean", got=got, want=(3 * alone[0] + alone[1]) / 4, tol=TOL.training.f32)


def test_sources_stand_before_answer_tokens_only() -> None:
    rows = random_rows([(0, 2, 2), (0, 3, 1)])
    source, row = answer_sources(rows)
    assert source.tolist() == [1, 2, 6]
    assert row.tolist() == [0, 0, 1]


def test_accuracy_is_told_by_task() -> None:
    right = torch.tensor([1.0, 0.0, 1.0, 1.0])
    assert accuracy_by_task(["b", "a", "b", "a"], right) == {"a": 0.5, "b": 1.0}


# Video, text alone, several pictures with a question between two of them, an answer without loss.
PACK = (
    one(2, [(1, 4)] * 5, 3, 4),
    one(3, [], 2, 2),
    chain(one(1, [(0, 4), (0, 4)], 2, 3), one(0, [(1, 4)] * 2, 1, 2)),
    one(1, [(2, 4)], 4, 0),
)


def alone(inputs: ModelInputs) -> list[ModelInputs]:
    """Each sample of a pack as a pack of its own."""
    ids = inputs.token_ids.split(list(inputs.layout.lengths))
    labels = inputs.labels.split(list(inputs.layout.lengths))
    frames = np.array(inputs.layout.count(SpanKind.VISION)) // 4
    pixels = inputs.pixels.split(frames.tolist())
    return [
        ModelInputs(
            token_ids=i,
            layout=TokenLayout((spans,)),
            pixels=p if len(p) else None,
            times=np.arange(float(len(p))) if len(p) else None,
            labels=w,
        )
        for i, w, p, spans in zip(ids, labels, pixels, inputs.layout.sequences, strict=True)
    ]


def slow_sample(model: TimeViper, inputs: ModelInputs) -> Tensor:
    """Losses of a sample's taught tokens, from all scores, each found by counting from the end."""
    out, _ = model(inputs)
    words = inputs.layout.kinds != SpanKind.VISION.code
    scores = model.decoder.logits(out.hidden[torch.from_numpy(out.kinds != SpanKind.VISION.code)])
    labels = inputs.labels[torch.from_numpy(words)]
    return F.cross_entropy(scores, labels, ignore_index=IGNORED, reduction="sum")


@pytest.mark.parametrize("plan", ["none", "stream", "whole", "paper", "three", "drop-only"])
def test_a_pack_is_its_samples_alone(plan: str) -> None:
    model = toy_model(PLANS[plan], dtype=torch.float64)
    inputs = packed_inputs(PACK)
    inputs = replace(inputs, pixels=inputs.pixels.double())
    got = packed_loss(model, inputs)
    assert got.taught == (inputs.labels != IGNORED).sum() == 4 + 2 + 3 + 2
    want = sum(slow_sample(model, sample) for sample in alone(inputs)) / got.taught
    close("loss", got=got.loss, want=want, tol=TOL.training.f64)
    names, leaves = zip(*model.named_parameters(), strict=True)
    found = torch.autograd.grad(got.loss, leaves, allow_unused=True)
    wanted = torch.autograd.grad(want, leaves, allow_unused=True)
    for name, a, b in zip(names, found, wanted, strict=True):
        assert (a is None) == (b is None), name
        # A bias of keys moves all scores of a row alike: its gradient is zero but for rounding.
        if a is not None and not name.endswith("k_proj.bias"):
            close(name, got=a, want=b, tol=TOL.training.f64)


def test_the_share_of_right_words_counts_taught_words_alone() -> None:
    model, inputs = toy_model(), packed_inputs([one(2, [], 3, 5)])
    out, _ = model(inputs)
    best = model.decoder.logits(out.hidden).argmax(-1)
    # Three of the five answers are what the model says; what it says elsewhere counts for nothing.
    taught = torch.where(inputs.labels != IGNORED)[0]
    labels = inputs.labels.clone()
    labels[taught] = best[taught]
    labels[taught[:2]] = (labels[taught[:2]] + 1) % 24
    close("right", got=packed_loss(model, replace(inputs, labels=labels)).right, want=0.6, tol=1e-6)


def test_a_pack_that_teaches_nothing_has_loss_0_and_gradients() -> None:
    model, inputs = toy_model(), packed_inputs([one(3, [], 0, 0)])
    found = packed_loss(model, inputs)
    assert (found.taught, found.loss.item()) == (0, 0.0)
    found.loss.backward()
    assert model.decoder.embed_tokens.weight.grad.count_nonzero() == 0


def test_a_label_that_a_site_could_drop_is_refused() -> None:
    inputs = packed_inputs([one(1, [(0, 4)], 0, 2)])
    with pytest.raises(LayoutError, match="1 at vision tokens"):
        packed_loss(toy_model(), inputs)


def test_inputs_without_labels_are_refused() -> None:
    inputs = replace(packed_inputs([one(3, [], 1, 1)]), labels=None)
    with pytest.raises(LayoutError, match="inputs without"):
        packed_loss(toy_model(), inputs)


def test_only_what_the_device_reads_moves_there() -> None:
    inputs = to_device(packed_inputs(PACK), torch.device("meta"))
    assert inputs.token_ids.is_meta
    assert inputs.pixels.is_meta
    assert not inputs.labels.is_meta
    assert to_device(packed_inputs([one(3, [], 1, 1)]), torch.device("meta")).pixels is None
