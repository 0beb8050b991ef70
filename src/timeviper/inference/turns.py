"""Questions about one video that follow one another, laid out behind it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from timeviper.processing.messages import Message, TextPart, VideoPart
from timeviper.processing.processor import Processor
from timeviper.processing.prompt import PromptPlan


@dataclass(frozen=True)
class Turn:
    """A question that was kept, with its answer and the length of the video when it was asked."""

    question: str
    answer: str
    seconds: float


def plan_turn(
    processor: Processor, system: str, turns: Sequence[Turn], question: str
) -> PromptPlan:
    """Lay out a question about a video that follows turns about the same video.

    Args:
        processor: of the model.
        system: words before the video; empty takes the template's own.
        turns: what was asked and answered before, in order.
        question: the user's words.

    Returns:
        A plan in which the video stands before the first question.

    Raises:
        RequestError: an empty question.
    """
    words = [text for turn in turns for text in (turn.question, turn.answer)] + [question]
    talk = [
        Message(role="assistant" if n % 2 else "user", parts=(TextPart(text),))
        for n, text in enumerate(words)
    ]
    # The source is opened apart from the plan, and follows nothing: all that was asked follows it.
    talk[0] = Message(role="user", parts=(VideoPart(source="video"), *talk[0].parts))
    if system:
        talk.insert(0, Message(role="system", parts=(TextPart(system),)))
    return processor.plan_turns(talk)
