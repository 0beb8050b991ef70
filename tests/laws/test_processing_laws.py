"""Laws of `processing`: text stays text, nothing is lost, cuts of a video do not matter."""

from __future__ import annotations

from functools import cache
from itertools import pairwise

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from recipes.train_tokenizer import SPECIALS, build
from tests.unit.processing.conftest import NAMES, SMALL_VOCAB, sentences
from timeviper.core.layout import SpanKind
from timeviper.processing.image import ImageConfig
from timeviper.processing.messages import VideoPart
from timeviper.processing.processor import Processor, ProcessorConfig
from timeviper.processing.prompt import TimePrompt
from timeviper.processing.tokenizer import Tokenizer

# Any Unicode but lone surrogates, mixed with what looks like special tokens and clocks.
WORDS = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"]), max_size=20),
    st.sampled_from([*SPECIALS, "12:34", ":05", "<image", "|>", " cat", "\u0000", "\ufffd"]),
)
TEXTS = st.lists(WORDS, max_size=8).map("".join)


@cache
def tiny() -> Tokenizer:
    return build(sentences(), NAMES, vocab_size=SMALL_VOCAB)


@cache
def processor(time_prompt: TimePrompt, mark_every: int, tokens_per_frame: int) -> Processor:
    config = ProcessorConfig(
        template="tiny",
        tokens_per_frame=tokens_per_frame,
        time_prompt=time_prompt,
        mark_every=mark_every,
    )
    return Processor(tiny(), image=ImageConfig(size=8), config=config)


PROCESSORS = st.builds(
    processor, st.sampled_from(list(TimePrompt)), st.integers(1, 5), st.integers(1, 4)
)


@given(TEXTS)
def test_text_comes_back(text):
    assert tiny().decode(tiny().encode(text)) == text


@given(TEXTS)
def test_text_never_becomes_a_special_token(text):
    assert min(tiny().encode(text), default=len(SPECIALS)) >= len(SPECIALS)


@given(st.lists(st.integers(0, SMALL_VOCAB - 1), max_size=40))
def test_streamed_text_is_the_whole_text(ids):
    stream = tiny().stream()
    shown = "".join(stream.feed(number) for number in ids)
    assert shown + stream.flush() == tiny().decode(ids)


@given(PROCESSORS, TEXTS)
def test_a_question_adds_no_place_for_vision(made, text):
    question = "Q" + text
    plan = made.plan_question(question, video=VideoPart(source="a.mp4"))
    suffix = plan.suffix(duration_seconds=3.0, num_frames=3)
    for part in (plan.prefix, suffix):
        assert made.image_token_id not in part.ids
        assert SpanKind.VISION.code not in part.kinds
    # The footer and the open answer are the only special tokens after the video.
    assert sum(number < len(SPECIALS) for number in suffix.ids) == 2
    assert question in made.tokenizer.decode(suffix.ids.tolist())


@given(
    PROCESSORS,
    st.lists(st.floats(0, 15_359), max_size=40).map(sorted),
    st.lists(st.integers(0, 40), max_size=4),
)
def test_clips_one_after_another_are_the_whole_video(made, times, cuts):
    plan = made.plan_question("What?", video=VideoPart(source="a.mp4"))
    frames = np.array(times, dtype=np.float64)
    whole = plan.clip_tokens(frames)
    edges = [0, *sorted(min(cut, len(times)) for cut in cuts), len(times)]
    clips = [plan.clip_tokens(frames[a:b], first_frame_index=a) for a, b in pairwise(edges)]
    np.testing.assert_array_equal(np.concatenate([c.ids for c in clips]), whole.ids)
    np.testing.assert_array_equal(np.concatenate([c.kinds for c in clips]), whole.kinds)
    vision = whole.kinds == SpanKind.VISION.code
    assert vision.sum() == len(times) * made.config.tokens_per_frame
    assert (whole.ids[vision] == made.image_token_id).all()
