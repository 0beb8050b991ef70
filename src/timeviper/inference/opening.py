"""Questions ready to be answered: laid out, read behind their video together, given a writer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from timeviper.inference.decode import AnswerWriter, EndRule
from timeviper.inference.lookahead import one_thread_an_op
from timeviper.inference.opened import OpenAnswer
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.request import AskOptions
from timeviper.inference.timing import Stopwatch, Timing
from timeviper.processing.clip_tokens import PromptTokens
from timeviper.processing.prompt import PromptPlan

# Bytes of parked vision tokens, a copy a question, up to which questions are opened together.
PARKED_AT_ONCE = 2**29
_ALONE = (
    "memory ran out while the questions were read together: each was read alone, which is slower "
    "and gives the same"
)


@dataclass(frozen=True, eq=False)
class Asked:
    """A question about an encoded video, and who writes its answer.

    Args:
        encoded: what it is about.
        writer: of the answer.
        timing: seconds that were spent on it so far; those that it shares with others whole.
        notes: sentences for the user.
    """

    encoded: EncodedVideo
    writer: AnswerWriter
    timing: Timing
    notes: tuple[str, ...]


def open_plans(
    encoder: VideoEncoder,
    encoded: EncodedVideo,
    plans: Sequence[PromptPlan],
    options: AskOptions,
    *,
    alone: bool = False,
) -> tuple[list[Asked], list[OpenAnswer]]:
    """Read the questions of several conversations about one video.

    Args:
        encoder: that read the video.
        encoded: stays as it is.
        plans: at least one.
        options: how to answer.
        alone: read each by itself after memory ran out, which is told.

    Returns:
        The questions, and their prompts read to the end: sequences in the same order.

    Raises:
        CapacityError: a question longer than the model's context.
    """
    clock = Stopwatch(encoder.device)
    with clock.stage("answer"), one_thread_an_op(encoder.is_small):
        suffixes = [
            encoder.suffix(
                plan, duration_seconds=encoded.duration_seconds, num_frames=encoded.frames
            )
            for plan in plans
        ]
        groups = [[suffix] for suffix in suffixes] if alone else [suffixes]
        opened = [o for group in groups for o in open_answers(encoder, encoded, group)]
    said = (_ALONE,) if alone and len(plans) > 1 else ()
    asked = [
        Asked(
            encoded,
            AnswerWriter(encoder.processor.tokenizer, _rule(plan, options), options.tokens),
            clock.timing,
            encoder.context_notes(encoded.tokens + len(suffix)) + said,
        )
        for plan, suffix in zip(plans, suffixes, strict=True)
    ]
    return asked, opened


def open_answers(
    encoder: VideoEncoder, encoded: EncodedVideo, suffixes: Sequence[PromptTokens]
) -> list[OpenAnswer]:
    """Read questions in as few passes as memory allows.

    Vision tokens that are parked for the question go through the late layers once a question, so
    only as many questions are read at once as hold a bounded number of bytes.

    Args:
        encoder: that read the video.
        encoded: stays as it is.
        suffixes: tokens of each question.

    Returns:
        Prompts read to their end, of one or several sequences each, in order.
    """
    parked = sum(
        part.hidden.nbytes for site in encoded.state.pending if site for part in site.parked
    )
    size = max(1, PARKED_AT_ONCE // parked) if parked else max(1, len(suffixes))
    groups = [suffixes[first : first + size] for first in range(0, len(suffixes), size)]
    return [encoder.open_answer(encoded, *group) for group in groups]


def _rule(plan: PromptPlan, options: AskOptions) -> EndRule:
    return EndRule(stop_ids=plan.stop_ids, stop=options.stop, max_new_tokens=options.max_new_tokens)
