"""Packs: examples side by side, each with its own frames, times and labels."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch

from tests.unit.training.data.toys import reader, varied, write_lines
from timeviper.core.layout import SpanKind
from timeviper.processing.conversation import IGNORED
from timeviper.training.data.collate import Batch, collate
from timeviper.training.data.dataset import FileDataset
from timeviper.training.data.reading import Example


@pytest.fixture(scope="module")
def examples(media: Path) -> list[Example]:
    dataset = FileDataset([write_lines(media / "five.jsonl", varied(5))])
    made = reader()
    return [made.load(dataset.read(0, n)) for n in range(5)]


def test_each_example_lies_whole_in_its_own_sequence(examples: list[Example]):
    inputs = collate(examples, filler=2)
    assert inputs.layout.lengths == tuple(len(e.lesson.tokens) for e in examples)
    ids = inputs.token_ids.split(list(inputs.layout.lengths))
    labels = inputs.labels.split(list(inputs.layout.lengths))
    kinds = np.split(inputs.layout.kinds, np.cumsum(inputs.layout.lengths)[:-1])
    for number, example in enumerate(examples):
        np.testing.assert_array_equal(ids[number].numpy(), example.lesson.tokens.ids)
        np.testing.assert_array_equal(kinds[number], example.lesson.tokens.kinds)
        np.testing.assert_array_equal(labels[number].numpy(), example.lesson.labels)
    frames = [e.pixels for e in examples if e.pixels is not None]
    assert torch.equal(inputs.pixels, torch.cat(frames))
    np.testing.assert_array_equal(inputs.times, np.concatenate([e.times for e in examples]))


def test_labels_are_taken_on_answers_alone(examples: list[Example]):
    inputs = collate(examples, filler=2)
    places = torch.nonzero(inputs.labels != IGNORED).flatten().numpy()
    assert set(inputs.layout.kinds[places + 1]) == {SpanKind.ANSWER.code}
    batch = Batch(inputs=inputs, number=3, origins=("a",) * 5)
    assert batch.taught == len(places) == sum(int(e.lesson.taught.sum()) for e in examples)


def test_words_alone_need_no_pixels(examples: list[Example]):
    inputs = collate(examples[:1], filler=2)
    assert inputs.pixels is None
    assert inputs.times is None


def test_a_pack_of_nothing_is_one_token_that_teaches_nothing():
    inputs = collate([], filler=7)
    assert inputs.token_ids.tolist() == [7]
    assert inputs.layout.total == 1
    assert Batch(inputs=inputs, number=0, origins=()).taught == 0
