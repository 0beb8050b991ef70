"""The catalogue: every thing once, by a name that no other thing's name hides in."""

from __future__ import annotations

import re

import pytest

from timeviper.synth.catalogue import (
    COLOURS,
    FORMS,
    NUMBERS,
    TEXTURES,
    ThingKind,
    arrow_id,
    ids_of,
    kind_of,
    things,
    words,
)
from timeviper.synth.objects import load_names


def test_names_and_labels_are_unique() -> None:
    names = [thing.name for thing in things()]
    assert len(set(names)) == len(names)
    labels = [(thing.kind, thing.label) for thing in things()]
    assert len(set(labels)) == len(labels)


def test_ids_are_ranges_in_the_order_of_the_kinds() -> None:
    assert [kind for kind in ThingKind for _ in ids_of(kind)] == [t.kind for t in things()]
    assert [i for kind in ThingKind for i in ids_of(kind)] == list(range(len(things())))
    assert arrow_id() == len(things())
    assert all(kind_of(i) is thing.kind for i, thing in enumerate(things()))


@pytest.mark.parametrize(
    ("kind", "count"),
    [
        (ThingKind.OBJECT, len(load_names())),
        (ThingKind.SHAPE, len(COLOURS) * len(FORMS) * len(TEXTURES)),
        (ThingKind.WORD, len(words())),
        (ThingKind.NUMBER, NUMBERS),
    ],
)
def test_there_are_as_many_of_each_kind_as_its_parts_make(kind: ThingKind, count: int) -> None:
    assert len(ids_of(kind)) == count
    assert count >= 96


def test_objects_come_in_the_order_of_their_drawings() -> None:
    assert [things()[i].name for i in ids_of(ThingKind.OBJECT)] == list(load_names())


def test_no_word_is_part_of_another_things_name() -> None:
    spoken = {part for t in things() if t.kind is not ThingKind.WORD for part in t.name.split()}
    parts = spoken | {piece for part in spoken for piece in part.split("-")}
    assert parts.isdisjoint(words())
    # "word" and "number" announce a kind; a thing called so would be two things at once.
    assert {"word", "number"}.isdisjoint(words())


def test_words_are_short_enough_to_read_in_a_small_frame() -> None:
    assert len(set(words())) == len(words()) >= 200
    for word in words():
        assert re.fullmatch("[a-z]{3,6}", word) or len(word) <= 7, word


def test_no_object_is_called_as_a_shape() -> None:
    shapes = {things()[i].name for i in ids_of(ThingKind.SHAPE)}
    assert shapes.isdisjoint(load_names())
    assert "red circle" in shapes
    assert "striped white hexagon" in shapes


@pytest.mark.parametrize(
    ("name", "the", "one"),
    [
        ("cat", "the cat", "a cat"),
        ("owl", "the owl", "an owl"),
        ("grapes", "the grapes", "some grapes"),
        ("orange ring", "the orange ring", "an orange ring"),
        ("striped orange ring", "the striped orange ring", "a striped orange ring"),
        ("word ember", "the word ember", "the word ember"),
        ("number 42", "the number 42", "the number 42"),
    ],
)
def test_how_sentences_call_things(name: str, the: str, one: str) -> None:
    thing = next(thing for thing in things() if thing.name == name)
    assert (thing.the, thing.one) == (the, one)


def test_labels_are_what_is_drawn() -> None:
    numbers = [things()[i].label for i in ids_of(ThingKind.NUMBER)]
    assert numbers == [str(n) for n in range(100)]
    assert [things()[i].label for i in ids_of(ThingKind.WORD)] == list(words())
