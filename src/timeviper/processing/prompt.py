"""Lay a conversation out as tokens around a video: prefix, clips with marks, question."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import final

import numpy as np
from jaxtyping import Float

from timeviper.core.errors import RequestError
from timeviper.core.layout import SpanKind
from timeviper.processing.chat_template import ChatTemplate, Piece, Special
from timeviper.processing.clip_tokens import ClipWriter, PromptTokens
from timeviper.processing.messages import ImagePart, Message, TextPart, VideoPart
from timeviper.processing.tokenizer import Tokenizer


class TimePrompt(StrEnum):
    """How the model is told about time."""

    # One sentence before the question: duration and number of frames, as in the paper.
    SENTENCE = "sentence"
    # A mark MM:SS before every k-th frame.
    INTERLEAVED = "interleaved"


@dataclass(frozen=True)
class _Stretch:
    """Neighbouring words and special tokens of one kind."""

    kind: SpanKind
    piece: Piece


@final
@dataclass(frozen=True, eq=False, kw_only=True)
class PromptPlan:
    """A conversation ready to meet its video.

    Args:
        prefix: tokens before the video (TEXT).
        media: the video or image asked about, or None.
        stop_ids: tokens that end an answer.
        tokenizer: turns the question into ids.
        writer: writes the clips.
        tail: what follows the video, as words.
        time_prompt: whether the duration is told before the question.
    """

    prefix: PromptTokens
    media: VideoPart | ImagePart | None
    stop_ids: tuple[int, ...]
    tokenizer: Tokenizer
    writer: ClipWriter
    tail: tuple[_Stretch, ...]
    time_prompt: TimePrompt

    def clip_tokens(
        self, times: Float[np.ndarray, " frame"], *, first_frame_index: int = 0
    ) -> PromptTokens:
        """Tokens of some frames of the video; see `ClipWriter.write`."""
        return self.writer.write(times, first_frame_index=first_frame_index)

    def suffix(
        self, *, duration_seconds: float | None = None, num_frames: int | None = None
    ) -> PromptTokens:
        """Tokens after the video: the question up to the open answer (INSTRUCTION).

        Args:
            duration_seconds: length of the video, told by a `sentence` prompt.
            num_frames: frames the model saw, told by a `sentence` prompt.

        Raises:
            RequestError: a `sentence` prompt of a video without these two.
        """
        tail = self.tail
        if self.time_prompt is TimePrompt.SENTENCE and isinstance(self.media, VideoPart):
            told = time_sentence(duration_seconds, num_frames)
            tail = (_Stretch(tail[0].kind, (told, *tail[0].piece)), *tail[1:])
        return PromptTokens.join(
            PromptTokens.of(part.kind, encode_piece(self.tokenizer, part.piece)) for part in tail
        )

    def whole(
        self, times: Float[np.ndarray, " frame"], *, duration_seconds: float | None = None
    ) -> PromptTokens:
        """Prefix, all frames and suffix at once."""
        clip = self.clip_tokens(times)
        suffix = self.suffix(duration_seconds=duration_seconds, num_frames=len(times))
        return PromptTokens.join([self.prefix, clip, suffix])


def plan_prompt(
    turns: Sequence[Message],
    *,
    tokenizer: Tokenizer,
    template: ChatTemplate,
    writer: ClipWriter,
    time_prompt: TimePrompt,
    answer_prefix: str = "",
) -> PromptPlan:
    """Lay out a conversation.

    Args:
        turns: a conversation that `check_conversation` accepts.
        tokenizer: of the model.
        template: of the model.
        writer: writes the clips; without marks where the media is an image.
        time_prompt: how time is told.
        answer_prefix: words the answer is made to start with.

    Returns:
        What precedes the media as TEXT; after it the user's words and every answer's header as
        INSTRUCTION, earlier answers as ANSWER. Without media the last question is the
        INSTRUCTION and all before it TEXT.
    """
    head, tail = _split(turns, template, answer_prefix)
    media = [p for t in turns for p in t.parts if not isinstance(p, TextPart)]
    return PromptPlan(
        prefix=PromptTokens.of(SpanKind.TEXT, encode_piece(tokenizer, head)),
        media=media[0] if media else None,
        stop_ids=tuple(tokenizer.special_id(name) for name in template.stop),
        tokenizer=tokenizer,
        writer=writer,
        tail=tail,
        time_prompt=time_prompt,
    )


def answer_tokens(tokenizer: Tokenizer, template: ChatTemplate, answer: str) -> PromptTokens:
    """A known answer with the token that ends it (ANSWER), to train or to score on."""
    ending = next(part for part in template.turn_footer if isinstance(part, Special))
    ids = encode_piece(tokenizer, (answer, template.text_end, ending))
    return PromptTokens.of(SpanKind.ANSWER, ids)


def _split(
    turns: Sequence[Message], template: ChatTemplate, answer_prefix: str
) -> tuple[Piece, tuple[_Stretch, ...]]:
    """Words before the media (or before the last question), and what follows by kind."""
    head: list[str | Special] = [*opening(turns, template)]
    tail: list[_Stretch] = []
    has_media = any(not isinstance(part, TextPart) for turn in turns for part in turn.parts)
    for turn in turns:
        before, after = _turn(turn, template)
        if not has_media and turn is turns[-1]:
            # Without media the split stands where a video would have stood: before the question.
            header = len(template.user_header)
            before, after = before[:header], before[header:]
        if tail:
            tail += _later(turn, before, template)
        else:
            head += before
            if after is not None:
                tail.append(_Stretch(SpanKind.INSTRUCTION, after))
    open_answer = (*template.assistant_header, answer_prefix)
    return tuple(head), _merge([*tail, _Stretch(SpanKind.INSTRUCTION, open_answer)])


def _turn(turn: Message, template: ChatTemplate) -> tuple[Piece, Piece | None]:
    """A turn with header and footer: what stands before its media, and after it if there is any."""
    headers = {
        "system": template.system_header,
        "user": template.user_header,
        "assistant": template.assistant_header,
    }
    footer = template.system_footer if turn.role == "system" else template.turn_footer
    ending = template.text_end if turn.text else ""
    words: list[str | Special] = [*headers[turn.role]]
    before: Piece | None = None
    for part in turn.parts:
        if isinstance(part, TextPart):
            words.append(part.text)
        else:
            before, words = tuple(words), []
    rest = (*words, ending, *footer)
    return (rest, None) if before is None else (before, rest)


def _later(turn: Message, words: Piece, template: ChatTemplate) -> list[_Stretch]:
    """A turn after the media: an answer's header still belongs to what asks for it."""
    if turn.role == "user":
        return [_Stretch(SpanKind.INSTRUCTION, words)]
    header = len(template.assistant_header)
    return [
        _Stretch(SpanKind.INSTRUCTION, words[:header]),
        _Stretch(SpanKind.ANSWER, words[header:]),
    ]


def _merge(stretches: Sequence[_Stretch]) -> tuple[_Stretch, ...]:
    """Neighbours of one kind as one, so that their words are read together."""
    merged: list[_Stretch] = []
    for part in stretches:
        if merged and merged[-1].kind is part.kind:
            merged[-1] = _Stretch(part.kind, merged[-1].piece + part.piece)
        else:
            merged.append(part)
    return tuple(merged)


def opening(turns: Sequence[Message], template: ChatTemplate) -> Piece:
    """What stands before the first turn: the template's own system text where there is none."""
    if turns[0].role == "system" or template.default_system is None:
        return template.opening
    system = template.default_system and template.default_system + template.text_end
    return (*template.opening, *template.system_header, system, *template.system_footer)


def encode_piece(tokenizer: Tokenizer, piece: Piece) -> list[int]:
    """Ids of a piece: words between two special tokens are read as one text."""
    ids: list[int] = []
    words = ""
    for part in (*piece, None):
        if isinstance(part, str):
            words += part
            continue
        ids += tokenizer.encode(words) if words else []
        words = ""
        if part is not None:
            ids.append(tokenizer.special_id(part.name))
    return ids


def time_sentence(duration_seconds: float | None, num_frames: int | None) -> str:
    """What a `sentence` prompt tells of a video.

    Raises:
        RequestError: the duration or the number of frames is not known.
    """
    if duration_seconds is None or num_frames is None:
        raise RequestError(
            want="the duration and the number of frames of the video",
            got="a sentence prompt without them",
            do="pass duration_seconds and num_frames",
        )
    frames = "1 frame" if num_frames == 1 else f"{num_frames} frames"
    return f"The video lasts {duration_seconds:.1f} seconds and {frames} of it are shown.\n"
