"""Questions ready to be answered: laid out, read behind their videos together, with a writer."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby
from operator import itemgetter

from timeviper.inference.decode import AnswerWriter, EndRule
from timeviper.inference.lookahead import one_thread_an_op
from timeviper.inference.opened import OpenAnswer
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.request import AskOptions
from timeviper.inference.timing import Stopwatch, Timing
from timeviper.model.state import DecoderState
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
    reader_of: Callable[[DecoderState], VideoEncoder],
    plans: Sequence[tuple[EncodedVideo, PromptPlan]],
    options: AskOptions,
    *,
    alone: bool = False,
) -> tuple[list[Asked], list[OpenAnswer]]:
    """Read the questions of several conversations, about one video or several.

    Args:
        reader_of: who read a video, and asks about it.
        plans: each with the video that it is about, which stays as it is.
        options: how to answer.
        alone: read each by itself after memory ran out, which is told.

    Returns:
        The questions, and their prompts read to the end: sequences in the same order.

    Raises:
        CapacityError: a question longer than the model's context.
    """
    if not plans:
        return [], []
    readers = [reader_of(video.state) for video, _ in plans]
    clock = Stopwatch(readers[0].device)
    suffixes = [
        reader.suffix(plan, duration_seconds=video.duration_seconds, num_frames=video.frames)
        for reader, (video, plan) in zip(readers, plans, strict=True)
    ]
    opened: list[OpenAnswer] = []
    with clock.stage("answer"), one_thread_an_op(readers[0].is_small):
        pairs = [(video, suffix) for (video, _), suffix in zip(plans, suffixes, strict=True)]
        for reader, same in groupby(zip(readers, pairs, strict=True), key=itemgetter(0)):
            some = [pair for _, pair in same]
            for group in [[pair] for pair in some] if alone else [some]:
                opened += open_answers(reader, group)
    said = (_ALONE,) if alone and len(plans) > 1 else ()
    asked = [
        Asked(
            encoded,
            AnswerWriter(reader.processor.tokenizer, _rule(plan, options), options.tokens),
            clock.timing,
            reader.context_notes(encoded.tokens + len(suffix)) + said,
        )
        for reader, (encoded, plan), suffix in zip(readers, plans, suffixes, strict=True)
    ]
    return asked, opened


def open_answers(
    encoder: VideoEncoder, asked: Sequence[tuple[EncodedVideo, PromptTokens]]
) -> list[OpenAnswer]:
    """Read questions in as few passes as memory allows.

    Vision tokens that are parked for the question go through the late layers once a question, so
    only as many questions are read at once as hold a bounded number of bytes.

    Args:
        encoder: that read the videos.
        asked: videos, which stay as they are, and the tokens of a question about each.

    Returns:
        Prompts read to their end, of one or several sequences each, in order.
    """
    groups: list[list[tuple[EncodedVideo, PromptTokens]]] = []
    held = 0
    for video, suffix in asked:
        parked = _parked(video)
        if not groups or held + parked > PARKED_AT_ONCE or not _beside(groups[-1][-1][0], video):
            groups.append([])
            held = 0
        groups[-1].append((video, suffix))
        held += parked
    return [encoder.open_each(group) for group in groups]


def _parked(video: EncodedVideo) -> int:
    """Bytes of what waits for a question."""
    return sum(part.hidden.nbytes for site in video.state.pending if site for part in site.parked)


def _beside(one: EncodedVideo, other: EncodedVideo) -> bool:
    """Whether both can be continued in one pass: not what has begun beside what has not."""
    return one is other or None not in (one.state.sequences, other.state.sequences)


def _rule(plan: PromptPlan, options: AskOptions) -> EndRule:
    return EndRule(stop_ids=plan.stop_ids, stop=options.stop, max_new_tokens=options.max_new_tokens)
