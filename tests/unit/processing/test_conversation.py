"""Conversations with their answers: laid out as prompts are, and taught where the model writes."""

from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest
from tokenizers import AddedToken, decoders, models, pre_tokenizers
from tokenizers import Tokenizer as Backend

from tests.toy_engine import KEPT, SPECIALS, toy_processor
from timeviper.core.errors import RequestError
from timeviper.core.layout import SpanKind
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.conversation import IGNORED, Lesson, Shown, check_lesson
from timeviper.processing.image import ImageConfig
from timeviper.processing.messages import (
    ImagePart,
    Message,
    Part,
    TextPart,
    VideoPart,
)
from timeviper.processing.processor import Processor, ProcessorConfig
from timeviper.processing.prompt import TimePrompt
from timeviper.processing.tokenizer import Tokenizer

VIDEO, IMAGE = VideoPart(source="a.mp4"), ImagePart(source="b.png")
FILM = Shown(np.arange(3.0), 3.0)
STILL = Shown(np.zeros(1), 1.0)


def user(*parts: Part | str) -> Message:
    told = tuple(TextPart(part) if isinstance(part, str) else part for part in parts)
    return Message(role="user", parts=told)


def says(text: str) -> Message:
    return Message(role="assistant", parts=(TextPart(text),))


def system(text: str) -> Message:
    return Message(role="system", parts=(TextPart(text),))


def foreign_processor(template: str, time_prompt: TimePrompt) -> Processor:
    """The toy's tokenizer with the special tokens of another template."""
    names = {
        "tiny": SPECIALS,
        "nano_base": ("<SPECIAL_10>", "<SPECIAL_11>", "<SPECIAL_12>", "<SPECIAL_18>", "</s>"),
        "qwen2": ("<|im_start|>", "<|im_end|>", "<|video_pad|>", "<|endoftext|>"),
    }[template]
    return Processor(
        byte_tokenizer(names),
        image=ImageConfig(size=16),
        config=ProcessorConfig(template=template, tokens_per_frame=KEPT, time_prompt=time_prompt),
    )


def byte_tokenizer(names: tuple[str, ...]) -> Tokenizer:

    vocab = [*names, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    backend = Backend(models.BPE(vocab={name: n for n, name in enumerate(vocab)}, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens([AddedToken(n, normalized=False, special=True) for n in names])
    return Tokenizer(backend)


def same(lesson: Lesson, want: PromptTokens) -> None:
    np.testing.assert_array_equal(lesson.tokens.ids, want.ids)
    np.testing.assert_array_equal(lesson.tokens.kinds, want.kinds)


def words(made: Processor, lesson: Lesson) -> list[tuple[str, str]]:
    """Text of each run of one kind."""
    kinds = lesson.tokens.kinds
    edges = [0, *(np.flatnonzero(np.diff(kinds)) + 1).tolist(), len(kinds)]
    names = list(SpanKind)
    return [
        (
            names[kinds[a]].value,
            made.tokenizer.decode(lesson.tokens.ids[a:b].tolist(), keep_specials=True),
        )
        for a, b in pairwise(edges)
    ]


def taught(made: Processor, lesson: Lesson) -> str:
    return made.tokenizer.decode(lesson.tokens.ids[lesson.taught].tolist(), keep_specials=True)


@pytest.mark.parametrize("template", ["tiny", "nano_base", "qwen2"])
@pytest.mark.parametrize("time_prompt", list(TimePrompt))
@pytest.mark.parametrize("before", [(), (system("Be brief."),)])
def test_an_answered_question_is_the_prompt_and_its_answer(template, time_prompt, before):
    made = foreign_processor(template, time_prompt)
    asked = (*before, user(VIDEO, "What is it?"))
    plan = made.plan_turns(asked)
    want = [plan.whole(FILM.times, duration_seconds=3.0), made.answer_tokens("a cat.")]
    got = made.lesson([*asked, says("a cat.")], [FILM])
    rest = len(got.tokens) - sum(map(len, want))
    # What a template writes after the end of a turn is no part of an open answer.
    assert rest == (1 if template == "qwen2" else 0)
    cut = len(got.tokens) - rest
    np.testing.assert_array_equal(got.tokens.ids[:cut], PromptTokens.join(want).ids)
    np.testing.assert_array_equal(got.tokens.kinds[:cut], PromptTokens.join(want).kinds)
    assert got.taught.sum() == len(want[1])
    assert got.taught[cut - len(want[1]) : cut].all()


@pytest.mark.parametrize("template", ["tiny", "nano_base", "qwen2"])
def test_later_turns_stand_as_in_the_prompt_of_the_next_question(template):
    made = foreign_processor(template, TimePrompt.INTERLEAVED)
    talk = [user("Look: ", VIDEO, "What?"), says("a cat."), user("When?")]
    plan = made.plan_turns(talk)
    opened = plan.whole(FILM.times)
    got = made.lesson([*talk, says("at 00:02.")], [FILM])
    np.testing.assert_array_equal(got.tokens.ids[: len(opened)], opened.ids)
    np.testing.assert_array_equal(got.tokens.kinds[: len(opened)], opened.kinds)


def test_without_media_the_last_question_is_the_instruction():
    made = toy_processor()
    talk = [user("Hello"), says("hi"), user("What?")]
    plan = made.plan_turns(talk)
    want = PromptTokens.join([plan.prefix, plan.suffix(), made.answer_tokens("no.")])
    got = made.lesson([*talk, says("no.")], [])
    same(got, want)
    # The early answer is text before the question, and taught all the same.
    assert taught(made, got) == "hi<|end|>no.<|end|>"


def test_several_media_keep_their_places_and_each_later_question_is_an_instruction():
    made = toy_processor()
    talk = [
        user("Compare ", IMAGE, " and ", VIDEO, "now."),
        says("same."),
        user(IMAGE, "And this?"),
        says("other."),
    ]
    got = made.lesson(talk, [STILL, Shown(np.arange(2.0), 2.0), STILL])
    image = "<image>" * KEPT
    assert words(made, got) == [
        ("text", "<s><|user|>Compare "),
        ("vision", image),
        ("text", " and "),
        ("timestamp", "00:00"),
        ("vision", image),
        ("timestamp", "00:01"),
        ("vision", image),
        ("instruction", "now.<|end|><|assistant|>"),
        ("answer", "same.<|end|>"),
        ("text", "<|user|>"),
        ("vision", image),
        ("instruction", "And this?<|end|><|assistant|>"),
        ("answer", "other.<|end|>"),
    ]
    assert taught(made, got) == "same.<|end|>other.<|end|>"


def test_the_sentence_follows_each_video_and_no_picture():
    made = toy_processor(TimePrompt.SENTENCE)
    got = made.lesson([user(IMAGE, VIDEO, VIDEO, "What?"), says("a.")], [STILL, FILM, FILM])
    told = "The video lasts 3.0 seconds and 3 frames of it are shown.\n"
    assert [w for k, w in words(made, got) if k in ("text", "instruction")] == [
        "<s><|user|>",
        told,
        told + "What?<|end|><|assistant|>",
    ]


def test_labels_are_the_next_taught_tokens():
    made = toy_processor()
    got = made.lesson([user("a?"), says("b"), user("c?"), says("d")], [])
    labels, ids = got.labels, got.tokens.ids
    places = np.flatnonzero(labels != IGNORED)
    np.testing.assert_array_equal(labels[places], ids[places + 1])
    np.testing.assert_array_equal(places + 1, np.flatnonzero(got.taught))
    assert labels[-1] == IGNORED


@pytest.mark.parametrize(
    ("talk", "message"),
    [
        ([user("a?")], "ends with an answer"),
        ([], "ends with an answer"),
        ([user("a?"), says(" ")], "an answer; got an empty one"),
        ([user(" "), says("b")], "a question"),
        ([says("b"), user("a?")], "assistant in the place of user"),
        ([user("a?"), Message(role="assistant", parts=(IMAGE, TextPart("b")))], "users' turns"),
        ([Message(role="system", parts=(VIDEO,)), user("a?"), says("b")], "turn of the system"),
    ],
)
def test_a_conversation_that_teaches_nothing_is_refused(talk, message):
    with pytest.raises(RequestError, match=message):
        check_lesson(talk)


def test_frames_of_another_number_of_media_are_refused():
    with pytest.raises(RequestError, match="frames of 1 videos and pictures; got 2"):
        toy_processor().lesson([user(VIDEO, "a?"), says("b")], [FILM, FILM])
