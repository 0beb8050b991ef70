"""Lay a whole conversation out as tokens, its answers included and any number of media: to learn.

What is asked and answered stands as in the prompts of `plan_prompt`, so that a model learns on
what it will read.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Bool, Int
from numpy.typing import NDArray

from timeviper.core.errors import RequestError
from timeviper.core.layout import SpanKind
from timeviper.processing.chat_template import ChatTemplate, Piece, Special
from timeviper.processing.clip_tokens import ClipWriter, PromptTokens
from timeviper.processing.messages import (
    ImagePart,
    Message,
    TextPart,
    VideoPart,
    check_order,
)
from timeviper.processing.prompt import encode_piece, opening, time_sentence
from timeviper.processing.tokenizer import Tokenizer

# Of the conventions of PyTorch's losses: no loss is taken there.
IGNORED = -100


@dataclass(frozen=True, eq=False)
class Shown:
    """The frames of one video or picture.

    Args:
        times: moments that were asked for, (frame,) seconds; a picture has one, 0.
        duration_seconds: length of the video.
    """

    times: NDArray[np.float64]
    duration_seconds: float


@final
@dataclass(frozen=True, eq=False)
class Lesson:
    """Tokens of a conversation and which of them the model is to write.

    Args:
        tokens: ids and kinds.
        taught: True at the tokens of answers and at the token that ends each.
    """

    tokens: PromptTokens
    taught: Bool[np.ndarray, " token"]

    @property
    def labels(self) -> Int[np.ndarray, " token"]:
        """Next-token targets: at each place the token after it where that is taught, else -100."""
        labels = np.full(len(self.tokens), IGNORED, dtype=np.int64)
        labels[:-1] = np.where(self.taught[1:], self.tokens.ids[1:], IGNORED)
        return labels


@dataclass(frozen=True, eq=False, kw_only=True)
class Writers:
    """What turns words and frames into tokens.

    Args:
        tokenizer: of the model.
        video: writes frames of videos.
        image: writes pictures.
        tells_time: each video is followed by the sentence of `time_sentence`.
    """

    tokenizer: Tokenizer
    video: ClipWriter
    image: ClipWriter
    tells_time: bool


@dataclass(frozen=True)
class _Words:
    kind: SpanKind
    piece: Piece
    taught: bool = False


_Stretch = _Words | VideoPart | ImagePart


def lay_out(
    turns: Sequence[Message],
    shown: Sequence[Shown],
    *,
    template: ChatTemplate,
    writers: Writers,
) -> Lesson:
    """Lay out a conversation that ends with an answer.

    Args:
        turns: user and assistant in turns, after an optional system turn; media in users' turns.
        shown: frames of each video and picture, in order.
        template: of the model.
        writers: of the model.

    Returns:
        Each answer is taught, with the token that ends it. Up to the last video of a turn all is
        TEXT; after it, and in later turns, users' words and answers' headers are INSTRUCTION
        and answers are ANSWER. Without media this holds from the last question on.

    Raises:
        RequestError: turns that teach nothing, or other media than were shown.

    Law: a question about one video is laid out as `PromptPlan.whole` with `answer_tokens`.
    """
    check_lesson(turns)
    media = [part for turn in turns for part in turn.parts if not isinstance(part, TextPart)]
    if len(media) != len(shown):
        raise RequestError(
            want=f"frames of {len(media)} videos and pictures",
            got=len(shown),
            do="open every medium of the conversation",
        )
    waiting = iter(shown)
    rows: list[PromptTokens] = []
    taught: list[bool] = []
    told = ""
    for stretch in _stretches(turns, template):
        if isinstance(stretch, _Words):
            ids = encode_piece(writers.tokenizer, (told, *stretch.piece))
            rows.append(PromptTokens.of(stretch.kind, ids))
            told = ""
        else:
            frames = next(waiting)
            is_video = isinstance(stretch, VideoPart)
            rows.append((writers.video if is_video else writers.image).write(frames.times))
            if is_video and writers.tells_time:
                told = time_sentence(frames.duration_seconds, len(frames.times))
        taught += [isinstance(stretch, _Words) and stretch.taught] * len(rows[-1])
    return Lesson(PromptTokens.join(rows), np.array(taught, dtype=np.bool_))


def check_lesson(turns: Sequence[Message]) -> None:
    """Refuse a conversation that teaches nothing.

    Raises:
        RequestError: turns that do not alternate or do not end with an answer, an empty question
            or answer, or media outside a user's turn.
    """
    talk = check_order(turns)
    if not talk or len(talk) % 2:
        raise RequestError(
            want="a conversation that ends with an answer",
            got=f"{len(talk)} turns of user and assistant",
            do="add the answer or drop the last question",
        )
    for turn in turns:
        if turn.role == "assistant" and not turn.text.strip():
            raise RequestError(want="an answer", got="an empty one", do="write it or drop the turn")
        if turn.role != "user" and any(not isinstance(part, TextPart) for part in turn.parts):
            raise RequestError(
                want="videos and pictures in users' turns",
                got=f"one in a turn of the {turn.role}",
                do="move it to the question",
            )


def _stretches(turns: Sequence[Message], template: ChatTemplate) -> Iterator[_Stretch]:
    """Words and media in order, each with what it is to the model."""
    showing = [n for n, turn in enumerate(turns) if _has_media(turn)]
    # Without media the split stands where a video would have stood: before the last question.
    first = showing[0] if showing else len(turns) - 2
    yield _Words(SpanKind.TEXT, opening(turns, template))
    for number, turn in enumerate(turns):
        if turn.role == "system":
            piece = (*template.system_header, turn.text, _end(turn, template))
            yield _Words(SpanKind.TEXT, (*piece, *template.system_footer))
        elif turn.role == "assistant":
            yield from _answer(turn, template, asked=number > first)
        elif number < first:
            yield _Words(SpanKind.TEXT, _question(turn, template))
        elif number > first and not _has_media(turn):
            yield _Words(SpanKind.INSTRUCTION, _question(turn, template))
        else:
            yield from _shown_question(turn, template)


def _answer(turn: Message, template: ChatTemplate, *, asked: bool) -> Iterator[_Words]:
    header, kind = SpanKind.TEXT, SpanKind.TEXT
    if asked:
        header, kind = SpanKind.INSTRUCTION, SpanKind.ANSWER
    footer = template.turn_footer
    # The model stops at the first special token; what follows it is never written.
    ending = 1 + next(n for n, part in enumerate(footer) if isinstance(part, Special))
    yield _Words(header, template.assistant_header)
    words = (turn.text, _end(turn, template), *footer[:ending])
    yield _Words(kind, words, taught=True)
    yield _Words(kind, footer[ending:])


def _shown_question(turn: Message, template: ChatTemplate) -> Iterator[_Stretch]:
    """A turn with media, or the one before which they would stand."""
    words: list[str | Special] = [*template.user_header]
    if not _has_media(turn):
        yield _Words(SpanKind.TEXT, tuple(words))
        words = []
    for part in turn.parts:
        if isinstance(part, TextPart):
            words.append(part.text)
            continue
        yield _Words(SpanKind.TEXT, tuple(words))
        yield part
        words = []
    yield _Words(SpanKind.INSTRUCTION, (*words, _end(turn, template), *template.turn_footer))


def _question(turn: Message, template: ChatTemplate) -> Piece:
    return (*template.user_header, turn.text, _end(turn, template), *template.turn_footer)


def _end(turn: Message, template: ChatTemplate) -> str:
    return template.text_end if turn.text else ""


def _has_media(turn: Message) -> bool:
    return any(not isinstance(part, TextPart) for part in turn.parts)
