"""Tokens of frames: where marks stand, what is vision, and the time it takes."""

from __future__ import annotations

import time

import numpy as np
import pytest

from timeviper.core.errors import RequestError
from timeviper.core.layout import Span, SpanKind
from timeviper.processing.clip_tokens import ClipWriter, PromptTokens
from timeviper.processing.tokenizer import Tokenizer

IMAGE = 7


def writer(tokenizer: Tokenizer, *, mark_every: int = 1, tokens: int = 4) -> ClipWriter:
    return ClipWriter(tokenizer, image_id=IMAGE, tokens_per_frame=tokens, mark_every=mark_every)


def test_a_mark_stands_before_every_frame(tokenizer):
    clip = writer(tokenizer, tokens=2).write(np.array([0.0, 61.5]))
    want = [*tokenizer.encode("00:00"), IMAGE, IMAGE, *tokenizer.encode("01:01"), IMAGE, IMAGE]
    assert clip.ids.tolist() == want
    assert clip.layout.sequences == (
        (
            Span(SpanKind.TIMESTAMP, 2),
            Span(SpanKind.VISION, 2),
            Span(SpanKind.TIMESTAMP, 2),
            Span(SpanKind.VISION, 2),
        ),
    )


def test_marks_follow_the_number_of_the_frame_in_the_video(tokenizer):
    clip = writer(tokenizer, mark_every=3, tokens=1).write(
        np.arange(4, 10, dtype=np.float64), first_frame_index=4
    )
    marks = clip.ids[clip.kinds == SpanKind.TIMESTAMP.code].tolist()
    assert marks == [*tokenizer.encode("00:06"), *tokenizer.encode("00:09")]
    assert tokenizer.decode(clip.ids.tolist()) == "00:0600:09"


def test_no_marks_leaves_vision_alone(tokenizer):
    clip = writer(tokenizer, mark_every=0).write(np.arange(5.0))
    assert clip.layout.sequences == ((Span(SpanKind.VISION, 20),),)


@pytest.mark.parametrize("mark_every", [0, 1])
def test_no_frames_are_no_tokens(tokenizer, mark_every):
    clip = writer(tokenizer, mark_every=mark_every).write(np.zeros(0))
    assert len(clip) == 0
    assert clip.layout.lengths == (0,)


def test_a_frame_before_the_start_is_refused(tokenizer):
    with pytest.raises(RequestError, match="zero seconds"):
        writer(tokenizer).write(np.array([-1.0]))


def test_ten_thousand_frames_take_a_moment(tokenizer):
    make = writer(tokenizer, tokens=16)
    times = np.arange(10_000, dtype=np.float64)
    started = time.perf_counter()
    clip = make.write(times)
    # Typically 0.1 s; a loop over 180,000 tokens in Python would be over this on any machine.
    assert time.perf_counter() - started < 2.0
    assert (clip.kinds == SpanKind.VISION.code).sum() == 160_000
    assert (clip.kinds == SpanKind.TIMESTAMP.code).sum() == 20_000


def test_joining_keeps_order_and_types():
    parts = [PromptTokens.of(SpanKind.TEXT, [1, 2]), PromptTokens.of(SpanKind.ANSWER, [3])]
    joined = PromptTokens.join(parts)
    assert joined.ids.tolist() == [1, 2, 3]
    assert joined.layout.sequences == ((Span(SpanKind.TEXT, 2), Span(SpanKind.ANSWER, 1)),)
    empty = PromptTokens.join([])
    assert (len(empty), empty.ids.dtype, empty.kinds.dtype) == (0, np.int64, np.int8)
