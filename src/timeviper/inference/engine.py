"""The front door: load a model, encode a video once, ask it anything, one or many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self, final

import torch

from timeviper.core.device import peak_bytes, pick_device
from timeviper.core.errors import RequestError
from timeviper.core.precision import Precision
from timeviper.inference.decode import AnswerWriter, Ending, EndRule, decode
from timeviper.inference.lookahead import one_thread_an_op
from timeviper.inference.media import open_media
from timeviper.inference.prefill import CLIP_FRAMES, EncodedVideo, OpenAnswer, VideoEncoder
from timeviper.inference.request import DEFAULTS, Answer, AskOptions, interval_of
from timeviper.inference.session import Session
from timeviper.inference.timing import Stopwatch, Timing
from timeviper.inference.watch import SILENT, Watch
from timeviper.model.vlm import TimeViper
from timeviper.processing.messages import Message, TextPart, VideoPart, parse_messages
from timeviper.processing.processor import Processor
from timeviper.processing.prompt import PromptPlan
from timeviper.video.sampling import sample_times
from timeviper.video.source import Openable, open_video
from timeviper.weights.loader import load_model, resolve

__all__ = ["Answer", "AskOptions", "EncodedVideo", "Engine", "Watch"]


@dataclass(frozen=True, eq=False)
class _Asked:
    """A question ready to be answered on what was encoded."""

    encoded: EncodedVideo
    opened: OpenAnswer
    writer: AnswerWriter
    # Seconds that this question itself has cost so far.
    timing: Timing
    notes: tuple[str, ...]


@final
class Engine:
    """Answers questions about videos with one model.

    One code path for everything: `ask` encodes and then asks; `stream` is `ask` piece by piece;
    `generate` opens many prompts and writes their answers together. An engine may be used again
    and again, by one thread at a time.

    Args:
        model: in evaluation mode, on its device.
        processor: of the same model.
        clip_frames: frames that are decoded, encoded and read together.
        threads: threads that decode; one a core when not given.
    """

    def __init__(
        self,
        model: TimeViper,
        processor: Processor,
        *,
        clip_frames: int = CLIP_FRAMES,
        threads: int | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self._encoder = VideoEncoder(model, processor, clip_frames=clip_frames, workers=threads)

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path = "tiny",
        *,
        device: str | None = None,
        precision: Precision | None = None,
        threads: int | None = None,
    ) -> Self:
        """Load a model that ships, or one of our checkpoint folders.

        Args:
            name_or_folder: such as `tiny`, or a path.
            device: `cpu`, `cuda`, `cuda:1`; None takes CUDA where present.
            precision: number format of the weights; None leaves it to the device.
            threads: CPU threads, of torch in this process and of decoding; None takes one a core.

        Raises:
            CheckpointError: an unknown name or a broken folder.
            ConfigError: no such device.
        """
        if threads is not None:
            torch.set_num_threads(threads)
        folder = resolve(name_or_folder)
        # The small files first: what is wrong with them shows before gigabytes are read.
        processor = Processor.load(folder)
        model = load_model(folder, device=pick_device(device), precision=precision)
        return cls(model, processor, threads=threads)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._encoder.device

    @property
    def encoder(self) -> VideoEncoder:
        """What reads videos for it, to be shared with sessions."""
        return self._encoder

    def session(self, options: AskOptions = DEFAULTS) -> Session:
        """Begin a video that grows; see `Session`."""
        return Session(self, options)

    def encode(
        self, video: Openable, options: AskOptions = DEFAULTS, *, watch: Watch = SILENT
    ) -> EncodedVideo:
        """Read a video once, to ask it any number of questions.

        Args:
            video: path of a file or a folder of pictures, uint8 RGB frames, or an open source.
            options: how to look at it.
            watch: follows and stops the work.

        Returns:
            What the model remembers of it.

        Raises:
            MediaError: it is not there, or cannot be read as a video.
            RequestError: options that this video cannot meet.
            CancelledError: `watch` asked to stop.
        """
        return self._encode(self._plan("?", options), video, options, watch)

    def ask(
        self,
        video: Openable | EncodedVideo,
        question: str,
        options: AskOptions = DEFAULTS,
        *,
        watch: Watch = SILENT,
    ) -> Answer:
        """Answer a question about a video.

        Args:
            video: as in `encode`, or what `encode` returned.
            question: the user's words.
            options: how to look and how to answer.
            watch: follows and stops the work.

        Returns:
            The answer.

        Raises:
            RequestError: an empty question, or options that do not fit.
            CapacityError: a question longer than the model's context.
            MediaError: a video that cannot be read.
            CancelledError: `watch` asked to stop.

        Law: asking an encoded video equals asking the video, and one run over the whole prompt.
        """
        answer = Answer(text="")
        for event in self.stream(video, question, options, watch=watch):
            if isinstance(event, Answer):
                answer = event
        return answer

    def stream(
        self,
        video: Openable | EncodedVideo,
        question: str,
        options: AskOptions = DEFAULTS,
        *,
        watch: Watch = SILENT,
    ) -> Iterator[str | Answer]:
        """As `ask`, giving out text as soon as it is certain.

        Yields:
            Pieces of the text, and at the end the whole `Answer`.
        """
        plan = self._plan(question, options)
        if isinstance(video, EncodedVideo):
            encoded, spent = _fitting(video, plan, options), Timing()
        else:
            self._encoder.suffix(plan, duration_seconds=0.0, num_frames=0)
            encoded = self._encode(plan, video, options, watch)
            spent = encoded.timing
        asked = self._open(encoded, plan, options)
        asked = replace(asked, timing=spent + asked.timing)
        clock = Stopwatch(self.device)
        pieces = decode(self.model, [asked.opened], [asked.writer], watch=watch)
        while True:
            # Only the model's own time counts, not what the caller does with a piece.
            with clock.stage("answer"), one_thread_an_op(self._encoder.is_small):
                found = next(pieces, None)
            if found is None:
                break
            yield found[1]
        yield self._answer(asked, clock.timing)

    def generate(
        self,
        conversations: Sequence[object],
        options: AskOptions = DEFAULTS,
        *,
        watch: Watch = SILENT,
    ) -> list[Answer]:
        """Answer many conversations, writing their answers together.

        Args:
            conversations: each a list of Hugging Face style messages (see
                `processing.messages.parse_messages`), with at most one video or image.
            options: for all of them; what a message says about its video goes first.
            watch: follows and stops the work.

        Returns:
            One answer a conversation, in order. `timing.answer` of each is that of the batch. A
            video that several conversations share in the same way is read once, and its cost
            is counted where it came first.

        Raises:
            As `ask`; messages are all checked before the first video is opened.

        Law: each answer equals the answer of that conversation alone.
        """
        talks = [parse_messages(messages) for messages in conversations]
        plans = [self.processor.plan_turns(_with_system(talk, options)) for talk in talks]
        for plan in plans:
            self._encoder.suffix(plan, duration_seconds=0.0, num_frames=0)
        read: dict[object, EncodedVideo] = {}
        asked: list[_Asked] = []
        for plan in plans:
            key = (plan.media, plan.prefix.ids.tobytes())
            spent = Timing()
            if key not in read:
                read[key] = self._encode_media(plan, options, watch)
                spent = read[key].timing
            one = self._open(read[key], plan, options)
            asked.append(replace(one, timing=spent + one.timing))
        return self._write(asked, watch)

    def ask_many(
        self,
        encoded: EncodedVideo,
        questions: Sequence[str],
        options: AskOptions = DEFAULTS,
        *,
        watch: Watch = SILENT,
    ) -> list[Answer]:
        """Answer several questions about an encoded video, writing their answers together.

        Args:
            encoded: what `encode` returned.
            questions: the user's words; each answer takes memory of its own while it is written.
            options: for all of them.
            watch: follows and stops the work.

        Returns:
            One answer a question, in order; `timing.answer` of each holds that of the batch.

        Raises:
            As `ask`.

        Law: each answer equals that of `ask`.
        """
        plans = [self._plan(question, options) for question in questions]
        return self.answer_plans(encoded, plans, options, watch=watch)

    def answer_plans(
        self,
        encoded: EncodedVideo,
        plans: Sequence[PromptPlan],
        options: AskOptions = DEFAULTS,
        *,
        watch: Watch = SILENT,
    ) -> list[Answer]:
        """As `ask_many`, for conversations that are laid out already."""
        fitting = [_fitting(encoded, plan, options) for plan in plans]
        pairs = zip(fitting, plans, strict=True)
        return self._write([self._open(one, plan, options) for one, plan in pairs], watch)

    def _write(self, asked: Sequence[_Asked], watch: Watch) -> list[Answer]:
        if not asked:
            return []
        clock = Stopwatch(self.device)
        with clock.stage("answer"), one_thread_an_op(self._encoder.is_small):
            opened = [one.opened for one in asked]
            for _ in decode(self.model, opened, [one.writer for one in asked], watch=watch):
                pass
        return [self._answer(one, clock.timing) for one in asked]

    def _plan(self, question: str, options: AskOptions) -> PromptPlan:
        # The source is opened apart from the plan: frames in memory have no name.
        shown = VideoPart(source="video")
        return self.processor.plan_question(question, video=shown, system=options.system)

    def _encode(
        self, plan: PromptPlan, video: Openable, options: AskOptions, watch: Watch
    ) -> EncodedVideo:
        source = open_video(video)
        policy = options.look(self.processor.config)
        sampling = sample_times(source.info.duration_seconds, policy)
        return self._encoder.encode(source, plan, sampling, watch=watch)

    def _encode_media(self, plan: PromptPlan, options: AskOptions, watch: Watch) -> EncodedVideo:
        if plan.media is None:
            return self._encoder.encode_nothing(plan)
        source, sampling = open_media(plan.media, self.processor, options)
        return self._encoder.encode(source, plan, sampling, watch=watch)

    def _open(self, encoded: EncodedVideo, plan: PromptPlan, options: AskOptions) -> _Asked:
        clock = Stopwatch(self.device)
        with clock.stage("answer"), one_thread_an_op(self._encoder.is_small):
            suffix = self._encoder.suffix(
                plan, duration_seconds=encoded.duration_seconds, num_frames=encoded.frames
            )
            opened = self._encoder.open_answer(encoded, suffix)
        rule = EndRule(
            stop_ids=plan.stop_ids, stop=options.stop, max_new_tokens=options.max_new_tokens
        )
        return _Asked(
            encoded=encoded,
            opened=opened,
            writer=AnswerWriter(self.processor.tokenizer, rule, options.tokens),
            timing=clock.timing,
            notes=self._encoder.context_notes(encoded.tokens + len(suffix)),
        )

    def _answer(self, asked: _Asked, written: Timing) -> Answer:
        writer, encoded = asked.writer, asked.encoded
        notes = (*encoded.notes, *asked.notes)
        if writer.ending is Ending.LENGTH:
            notes += (f"the answer was cut at {len(writer.token_ids)} tokens (max_new_tokens)",)
        interval = interval_of(writer.text, encoded.duration_seconds) or (None, None)
        return Answer(
            text=writer.text,
            start_seconds=interval[0],
            end_seconds=interval[1],
            frames=encoded.frames,
            duration_seconds=encoded.duration_seconds,
            timing=asked.timing + written,
            peak_bytes=peak_bytes(self.device),
            notes=notes,
            tokens=len(writer.token_ids),
        )


def _fitting(encoded: EncodedVideo, plan: PromptPlan, options: AskOptions) -> EncodedVideo:
    """Refuse what an encoded video can no longer follow."""
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


def _with_system(talk: tuple[Message, ...], options: AskOptions) -> tuple[Message, ...]:
    if not options.system or talk[0].role == "system":
        return talk
    return (Message(role="system", parts=(TextPart(options.system),)), *talk)
