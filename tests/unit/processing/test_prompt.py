"""Prompts: which words are text, instruction or answer, and what is told about time."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from timeviper.core.errors import RequestError
from timeviper.core.layout import Span, SpanKind
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.image import ImageConfig
from timeviper.processing.messages import ImagePart, VideoPart
from timeviper.processing.processor import Processor, ProcessorConfig
from timeviper.processing.prompt import TimePrompt
from timeviper.processing.tokenizer import Tokenizer

VIDEO = {"type": "video", "video": "a.mp4"}
TIMES = np.array([0.0, 1.0, 2.0])


def text(words: str) -> dict[str, str]:
    return {"type": "text", "text": words}


def make(tokenizer: Tokenizer, time_prompt: TimePrompt = TimePrompt.INTERLEAVED) -> Processor:
    config = ProcessorConfig(template="tiny", tokens_per_frame=4, time_prompt=time_prompt)
    return Processor(tokenizer, image=ImageConfig(size=8), config=config)


def shown(tokenizer: Tokenizer, tokens: PromptTokens) -> list[tuple[str, str]]:
    """Text of each run of one kind."""
    edges = [0, *(np.flatnonzero(np.diff(tokens.kinds)) + 1).tolist(), len(tokens)]
    kinds = list(SpanKind)
    return [
        (
            kinds[tokens.kinds[a]].value,
            tokenizer.decode(tokens.ids[a:b].tolist(), keep_specials=True),
        )
        for a, b in pairwise(edges)
    ]


def test_the_order_is_system_video_question(tokenizer):
    plan = make(tokenizer).plan_question(
        "When?", video=VideoPart(source="a.mp4"), system="Be brief."
    )
    assert shown(tokenizer, plan.whole(TIMES[:2])) == [
        ("text", "<s><|system|>Be brief.<|end|><|user|>"),
        ("timestamp", "00:00"),
        ("vision", "<image>" * 4),
        ("timestamp", "00:01"),
        ("vision", "<image>" * 4),
        ("instruction", "When?<|end|><|assistant|>"),
    ]
    assert plan.media == VideoPart(source="a.mp4")


def test_the_whole_is_prefix_clips_and_suffix(tokenizer):
    plan = make(tokenizer).plan_question("When?", video=VideoPart(source="a.mp4"))
    clips = [plan.clip_tokens(TIMES[:1]), plan.clip_tokens(TIMES[1:], first_frame_index=1)]
    joined = PromptTokens.join([plan.prefix, *clips, plan.suffix()])
    whole = plan.whole(TIMES)
    np.testing.assert_array_equal(joined.ids, whole.ids)
    np.testing.assert_array_equal(joined.kinds, whole.kinds)
    assert whole.layout.count(SpanKind.VISION) == (12,)


def test_words_before_the_video_are_text(tokenizer):
    plan = make(tokenizer).plan(
        [{"role": "user", "content": [text("Look: "), VIDEO, text("a "), text("cat?")]}]
    )
    assert shown(tokenizer, plan.prefix) == [("text", "<s><|user|>Look: ")]
    assert shown(tokenizer, plan.suffix()) == [("instruction", "a cat?<|end|><|assistant|>")]


def test_a_video_may_come_after_its_question(tokenizer):
    plan = make(tokenizer).plan([{"role": "user", "content": [text("When?"), VIDEO]}])
    assert shown(tokenizer, plan.prefix) == [("text", "<s><|user|>When?")]
    assert shown(tokenizer, plan.suffix()) == [("instruction", "<|end|><|assistant|>")]


def test_earlier_answers_are_answers_and_later_questions_instructions(tokenizer):
    plan = make(tokenizer).plan(
        [
            {"role": "user", "content": "Hello"},
            {"role": "assistant", "content": "hi"},
            {"role": "user", "content": [VIDEO, text("What?")]},
            {"role": "assistant", "content": "a cat."},
            {"role": "user", "content": "When?"},
        ]
    )
    assert shown(tokenizer, plan.prefix) == [
        ("text", "<s><|user|>Hello<|end|><|assistant|>hi<|end|><|user|>")
    ]
    assert shown(tokenizer, plan.suffix()) == [
        ("instruction", "What?<|end|><|assistant|>"),
        ("answer", "a cat.<|end|>"),
        ("instruction", "<|user|>When?<|end|><|assistant|>"),
    ]


def test_an_answered_question_is_laid_out_as_it_was_when_it_was_open(tokenizer):
    made = make(tokenizer)
    first = {"role": "user", "content": [VIDEO, text("What?")]}
    talk = [first, {"role": "assistant", "content": "a cat."}, {"role": "user", "content": "When?"}]
    opened = PromptTokens.join([made.plan([first]).suffix(), made.answer_tokens("a cat.")])
    later = made.plan(talk).suffix()
    np.testing.assert_array_equal(later.ids[: len(opened)], opened.ids)
    np.testing.assert_array_equal(later.kinds[: len(opened)], opened.kinds)


def test_without_a_video_only_the_last_question_is_the_instruction(tokenizer):
    made = make(tokenizer, TimePrompt.SENTENCE)
    plan = made.plan_question("What appears in the video?", video=None)
    assert plan.media is None
    assert shown(tokenizer, plan.prefix) == [("text", "<s><|user|>")]
    # No sentence about a video that is not there.
    assert shown(tokenizer, plan.suffix()) == [
        ("instruction", "What appears in the video?<|end|><|assistant|>")
    ]
    talk = [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "hi"},
        {"role": "user", "content": "What?"},
    ]
    plan = made.plan(talk)
    assert shown(tokenizer, plan.prefix)[0][1].endswith("hi<|end|><|user|>")
    assert shown(tokenizer, plan.suffix()) == [("instruction", "What?<|end|><|assistant|>")]


def test_with_and_without_the_video_differ_in_the_frames_alone(tokenizer):
    made = make(tokenizer)
    seen = made.plan_question("When?", video=VideoPart(source="a.mp4"))
    blind = made.plan_question("When?", video=None)
    assert seen.prefix.ids.tolist() == blind.prefix.ids.tolist()
    assert seen.suffix().ids.tolist() == blind.suffix().ids.tolist()


def test_the_sentence_tells_duration_and_frames(tokenizer):
    plan = make(tokenizer, TimePrompt.SENTENCE).plan_question(
        "When?", video=VideoPart(source="a.mp4")
    )
    whole = plan.whole(TIMES, duration_seconds=12.34)
    kinds = [kind for kind, _ in shown(tokenizer, whole)]
    assert kinds == ["text", "vision", "instruction"]
    words = shown(tokenizer, whole)[-1][1]
    assert "12.3 seconds" in words
    assert "3 frames" in words
    assert words.endswith("When?<|end|><|assistant|>")
    single = plan.suffix(duration_seconds=1.0, num_frames=1)
    assert "1 frame of" in tokenizer.decode(single.ids.tolist())


@pytest.mark.parametrize("known", [{}, {"duration_seconds": 3.0}, {"num_frames": 3}])
def test_the_sentence_needs_both_numbers(tokenizer, known):
    plan = make(tokenizer, TimePrompt.SENTENCE).plan_question(
        "When?", video=VideoPart(source="a.mp4")
    )
    with pytest.raises(RequestError, match="duration"):
        plan.suffix(**known)


@pytest.mark.parametrize("time_prompt", list(TimePrompt))
def test_an_image_is_a_frame_without_a_time(tokenizer, time_prompt):
    plan = make(tokenizer, time_prompt).plan(
        [{"role": "user", "content": [{"type": "image", "image": "a.png"}, text("What?")]}]
    )
    assert plan.media == ImagePart(source="a.png")
    assert [kind for kind, _ in shown(tokenizer, plan.whole(TIMES[:1]))] == [
        "text",
        "vision",
        "instruction",
    ]


def test_a_forced_answer_start_belongs_to_the_instruction(tokenizer):
    plan = make(tokenizer).plan_question(
        "When?", video=VideoPart(source="a.mp4"), answer_prefix="from "
    )
    assert shown(tokenizer, plan.suffix()) == [("instruction", "When?<|end|><|assistant|>from ")]


def test_a_known_answer_ends_with_the_end_of_the_turn(tokenizer):
    made = make(tokenizer)
    answer = made.answer_tokens("from 00:12 to 00:15.")
    assert answer.layout.sequences == ((Span(SpanKind.ANSWER, len(answer)),),)
    assert answer.ids[-1] == tokenizer.special_id("<|end|>") == made.stop_ids[0]
    assert tokenizer.decode(answer.ids.tolist()) == "from 00:12 to 00:15."


def test_time_in_the_answer_is_the_mark_of_the_frame(tokenizer):
    made = make(tokenizer)
    plan = made.plan_question("What is on screen at 12:34?", video=VideoPart(source="a.mp4"))
    mark = plan.clip_tokens(np.array([754.0])).ids[:2].tolist()
    for ids in (plan.suffix().ids.tolist(), made.answer_tokens("at 12:34.").ids.tolist()):
        assert any(ids[i : i + 2] == mark for i in range(len(ids)))
