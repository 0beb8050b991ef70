"""What has to hold before a question is read: it has a video, which can still be followed by it."""

from __future__ import annotations

from collections.abc import Sequence

from timeviper.core.errors import RequestError
from timeviper.inference.prefill import EncodedVideo
from timeviper.inference.request import AskOptions
from timeviper.processing.messages import Message, TextPart
from timeviper.processing.prompt import PromptPlan


def paired(
    encoded: EncodedVideo | Sequence[EncodedVideo], questions: Sequence[str]
) -> list[tuple[EncodedVideo, str]]:
    """Each question with its video.

    Args:
        encoded: one for all questions, or one for each.
        questions: the user's words.

    Raises:
        RequestError: another number of videos than of questions.
    """
    videos = [encoded] * len(questions) if isinstance(encoded, EncodedVideo) else list(encoded)
    if len(videos) != len(questions):
        raise RequestError(
            want=f"one video for all of {len(questions)} questions, or one for each",
            got=f"{len(videos)} videos",
            do="repeat a video for each question about it",
        )
    return list(zip(videos, questions, strict=True))


def followed(encoded: EncodedVideo, plan: PromptPlan, options: AskOptions) -> EncodedVideo:
    """The video, if such a question can follow it.

    Args:
        encoded: what was read.
        plan: prompt of the question.
        options: how it is asked.

    Raises:
        RequestError: wishes about how to look, or other words before the video.
    """
    if options.looks:
        raise RequestError(
            want="no fps, num_frames, max_frames, start or end for an encoded video",
            got="at least one of them",
            do="give them to `encode`",
        )
    if plan.prefix.ids.tobytes() != encoded.prefix.ids.tobytes():
        raise RequestError(
            want="the words before the video that it was encoded with",
            got="others",
            do="give `system` to `encode` as well, and use the same model",
        )
    return encoded


def with_system(talk: tuple[Message, ...], options: AskOptions) -> tuple[Message, ...]:
    """A conversation with the system's words of the options, where it has none of its own."""
    if not options.system or talk[0].role == "system":
        return talk
    return (Message(role="system", parts=(TextPart(options.system),)), *talk)
