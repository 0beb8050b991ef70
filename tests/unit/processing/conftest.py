"""A tokenizer of the shipped kind, trained in a moment on stand-in sentences."""

from __future__ import annotations

import pytest

from recipes.train_tokenizer import build
from timeviper.processing.tokenizer import Tokenizer

NAMES = ("cat", "pizza", "rocket", "fire engine", "ice cream", "palm tree", "t-shirt", "wolf")
FORMS = (
    "What appears in the video?",
    "When does the {} appear?",
    "What is on screen at 12:34?",
    "Which appears first, the {} or the {}?",
    "How many times does the {} appear?",
    "a {}, a {} and a {}.",
    "from 12:34 to 02:05.",
    "the {} does not appear.",
)
# As many ids as these few sentences can fill.
SMALL_VOCAB = 690


def sentences() -> list[str]:
    return [form.replace("{}", name) for name in NAMES for form in FORMS]


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    return build(sentences(), NAMES, vocab_size=SMALL_VOCAB)
