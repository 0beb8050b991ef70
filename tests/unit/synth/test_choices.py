"""Options: how they are shown, and which one an answer means, whoever gave it."""

from __future__ import annotations

from dataclasses import replace

import pytest

from timeviper.synth.asking import Question
from timeviper.synth.choices import as_choices, choice_answer, chosen, normal, rotated
from timeviper.synth.tasks import Task

ANIMALS = ("the dog.", "the cat.", "the cow.", "the red ring.")
ASKED = Question(
    task=Task.RETRIEVAL,
    question="What is shown with the number 7?",
    answer="the cat.",
    options=ANIMALS,
    choice="the cat.",
)


def test_options_follow_the_question_with_letters() -> None:
    assert as_choices(ASKED, 0) == (
        "What is shown with the number 7? Choose one: "
        "(A) the dog. (B) the cat. (C) the cow. (D) the red ring."
    )


@pytest.mark.parametrize(
    ("rotation", "first", "letter"),
    [(0, "the dog.", "B"), (1, "the cat.", "A"), (2, "the cow.", "D"), (5, "the cat.", "A")],
)
def test_rotations_move_the_options_around(rotation: int, first: str, letter: str) -> None:
    assert rotated(ASKED, rotation)[0] == first
    assert f"Choose one: (A) {first}" in as_choices(ASKED, rotation)
    assert choice_answer(ASKED, rotation) == f"the cat ({letter})."


def test_all_rotations_put_the_right_one_everywhere() -> None:
    letters = {choice_answer(ASKED, rotation)[-3] for rotation in range(4)}
    assert letters == set("ABCD")


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("What is it", "What is it. Choose"),
        ("Find it.", "Find it. Choose"),
        ("Who? ", "Who? Choose"),
    ],
)
def test_a_question_ends_before_its_options_begin(words: str, shown: str) -> None:
    assert as_choices(replace(ASKED, question=words), 0).startswith(shown)


def test_a_longer_answer_keeps_its_words_before_the_letter() -> None:
    chain = replace(ASKED, answer="the owl, the cat.")
    assert choice_answer(chain, 0) == "the owl, the cat (B)."


def test_two_options_have_two_letters() -> None:
    pair = replace(ASKED, options=("the dog.", "the cat."))
    assert as_choices(pair, 1).endswith("(A) the cat. (B) the dog.")
    assert {choice_answer(pair, r) for r in range(4)} == {"the cat (A).", "the cat (B)."}


@pytest.mark.parametrize(
    "text",
    [
        "B", "B.", "(B)", "B)", "[B]", "**B**", " b)".upper(), "B: the cat", "B - the cat",
        "(B) the cat.", "the cat (B).", "The answer is B.", "The answer is (B).", "Answer: B",
        "The correct option is B", "My choice: B", "I choose B.", "I think B", "It is B.",
        "It's (B), because the cat stands above the 7.", "Option B is right.",
        "The dog is (A), but the answer is (B).", "the cat", "The cat.", "THE CAT",
        "a cat", "I think it is the cat.", "It is a cat", "A cat.", "A cat is shown with it.",
        "The answer is a cat.", "Answer: A cat.", "Not the dog but the cat.", "cat",
        "The number 7 is shown with the cat", "B\n\nThe dog comes later.",
    ],
)  # fmt: skip
def test_an_answer_that_means_the_second(text: str) -> None:
    assert chosen(text, ANIMALS) == 1, text


@pytest.mark.parametrize(
    "text",
    ["", "none of them", "I do not know.", "the pizza", "E", "7", "catalogue", "a", "As I see"],
)
def test_an_answer_that_means_none(text: str) -> None:
    assert chosen(text, ANIMALS) is None


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("C", None),
        ("B", 1),
        ("(D)", None),
        ("no.", 1),
        ("Yes, it does.", 0),
        ("there is no video.", None),
    ],
)
def test_letters_beyond_the_options_are_no_choice(text: str, want: int | None) -> None:
    assert chosen(text, ("yes.", "no.")) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("the red ring", 0),
        ("the striped red ring", 1),
        ("a striped red ring.", 1),
        ("It is the red ring, not the striped one", 0),
        ("not the striped red ring but the red ring", 0),
    ],
)
def test_a_name_inside_a_longer_one_is_told_apart(text: str, want: int) -> None:
    options = ("the red ring.", "the striped red ring.")
    assert chosen(text, options) == want
    assert chosen(text, options[::-1]) == 1 - want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("from 00:10 to 00:15.", 0),
        ("It appears from 00:20 to 00:31", 1),
        ("B) from 00:20 to 00:31", 1),
        ("from 00:10 to 00:12", None),
    ],
)
def test_spans_are_options_too(text: str, want: int | None) -> None:
    assert chosen(text, ("from 00:10 to 00:15.", "from 00:20 to 00:31.")) == want


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("The Cat.", "cat"),
        ("a T-shirt", "t shirt"),
        ("an  ice\ncream!", "ice cream"),
        ("from 00:10-00:15", "from 00:10 00:15"),
        ("Answer: 1:02:03", "answer 1:02:03"),
        ("- the word EMBER:", "word ember"),
        ("", ""),
    ],
)
def test_normal_words(text: str, want: str) -> None:
    assert normal(text) == want
