"""The front door: load a model, encode a video once, ask it anything, one or many at a time."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Self, final

import numpy as np
import torch

from timeviper.core.device import peak_bytes, pick_device
from timeviper.core.precision import Precision
from timeviper.inference.admission import UNLIMITED, Gate, Limits
from timeviper.inference.asking import followed, paired, with_system
from timeviper.inference.decode import Ending, decode
from timeviper.inference.degrade import Degrade
from timeviper.inference.lookahead import one_thread_an_op
from timeviper.inference.media import open_media
from timeviper.inference.opened import OpenAnswer
from timeviper.inference.opening import Asked, open_plans
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.request import DEFAULTS, Answer, AskOptions, interval_of
from timeviper.inference.session import Session
from timeviper.inference.steps import Runners
from timeviper.inference.survival import twice
from timeviper.inference.timing import Stopwatch, Timing
from timeviper.inference.watch import SILENT, Watch
from timeviper.model.config import TransferPlan
from timeviper.model.vlm import TimeViper, under_plan
from timeviper.processing.messages import VideoPart, parse_messages
from timeviper.processing.processor import Processor
from timeviper.processing.prompt import PromptPlan
from timeviper.video.sampling import sample_times
from timeviper.video.source import Openable, open_video
from timeviper.weights.loader import load_model, resolve

__all__ = ["Answer", "AskOptions", "Degrade", "EncodedVideo", "Engine", "Limits", "Watch"]


@final
class Engine:
    """Answers questions about videos with one model.

    One code path for everything: `ask` encodes and then asks; `stream` is `ask` piece by piece;
    `generate` opens many prompts and writes their answers together. An engine may be used again
    and again, by one thread at a time.

    Args:
        model: in evaluation mode, on its device.
        processor: of the same model.
        clip_frames: frames that are decoded, encoded and read together; as suits the device when
            not given.
        threads: threads that decode; one a core when not given.
        limits: memory that it may take, and what it may change to get along with it.
        dropping: sites that the model was trained with and that are switched off in `model`.
    """

    def __init__(
        self,
        model: TimeViper,
        processor: Processor,
        *,
        clip_frames: int | None = None,
        threads: int | None = None,
        limits: Limits = UNLIMITED,
        dropping: TransferPlan | None = None,
    ) -> None:
        self.model = model
        self.processor = processor
        self._encoder = VideoEncoder(model, processor, clip_frames=clip_frames, workers=threads)
        self._gate = Gate(self._encoder, limits, dropping=dropping)
        self._runners = Runners()

    @classmethod
    def load(
        cls,
        name_or_folder: str | Path = "tiny",
        *,
        device: str | None = None,
        precision: Precision | None = None,
        threads: int | None = None,
        limits: Limits = UNLIMITED,
        transv: bool = True,
    ) -> Self:
        """Load a model that ships, or one of our checkpoint folders.

        Args:
            name_or_folder: such as `tiny`, or a path.
            device: `cpu`, `cuda`, `cuda:1`; None takes CUDA where present.
            precision: number format of the weights; None leaves it to the device.
            threads: CPU threads, of torch in this process and of decoding; None takes one a core.
            limits: memory that it may take, and what it may change to get along with it.
            transv: whether the model drops tokens where it was trained to.

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
        model.decoder.warm()
        dropping = None if transv else model.config.decoder.transfer
        model = model if transv else under_plan(model, TransferPlan())
        return cls(model, processor, threads=threads, limits=limits, dropping=dropping)

    @property
    def device(self) -> torch.device:
        """Where the model computes."""
        return self._encoder.device

    @property
    def encoder(self) -> VideoEncoder:
        """What reads videos for it, to be shared with sessions."""
        return self._encoder

    @property
    def gate(self) -> Gate:
        """What lets videos in that fit."""
        return self._gate

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
            CapacityError: it does not fit into memory, with the numbers and what would help.
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
            encoded, spent = followed(video, plan, options), Timing()
        else:
            self._encoder.suffix(plan, duration_seconds=0.0, num_frames=0)
            encoded = self._encode(plan, video, options, watch)
            spent = encoded.timing
        (asked,), opened = self._open([(encoded, plan)], options)
        asked = replace(asked, timing=spent + asked.timing)
        clock = Stopwatch(self.device)
        pieces = decode(self.model, opened, [asked.writer], runners=self._runners, watch=watch)
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
        plans = [self.processor.plan_turns(with_system(talk, options)) for talk in talks]
        for plan in plans:
            self._encoder.suffix(plan, duration_seconds=0.0, num_frames=0)
        # Conversations about one video are read behind it together.
        numbers: dict[object, list[int]] = {}
        for number, plan in enumerate(plans):
            numbers.setdefault((plan.media, plan.prefix.ids.tobytes()), []).append(number)
        videos: list[tuple[EncodedVideo, PromptPlan]] = []
        firsts: dict[int, Timing] = {}
        for alike in numbers.values():
            encoded = self._encode_media(plans[alike[0]], options, watch)
            firsts[len(videos)] = encoded.timing
            videos += [(encoded, plans[n]) for n in alike]
        asked, opened = self._open(videos, options)
        for place, timing in firsts.items():
            asked[place] = replace(asked[place], timing=timing + asked[place].timing)
        answers = self._write(asked, opened, watch)
        order = [number for alike in numbers.values() for number in alike]
        return [answers[place] for place in np.argsort(order)]

    def ask_many(
        self,
        encoded: EncodedVideo | Sequence[EncodedVideo],
        questions: Sequence[str],
        options: AskOptions = DEFAULTS,
        *,
        watch: Watch = SILENT,
    ) -> list[Answer]:
        """Answer several questions about encoded videos, writing their answers together.

        Args:
            encoded: what `encode` returned: one video for all questions, or one for each.
            questions: the user's words; each answer takes memory of its own while it is written.
            options: for all of them.
            watch: follows and stops the work.

        Returns:
            One answer a question, in order; `timing.answer` of each holds that of the batch.

        Raises:
            RequestError: another number of videos than of questions.
            Others: as `ask`.

        Law: each answer equals that of `ask`.
        """
        pairs = paired(encoded, questions)
        plans = [(video, self._plan(question, options)) for video, question in pairs]
        return self.answer_plans(plans, options, watch=watch)

    def answer_plans(
        self,
        plans: Sequence[tuple[EncodedVideo, PromptPlan]],
        options: AskOptions = DEFAULTS,
        *,
        watch: Watch = SILENT,
    ) -> list[Answer]:
        """As `ask_many`, for conversations that are laid out already, each with its video."""
        for encoded, plan in plans:
            followed(encoded, plan, options)
        return self._write(*self._open(plans, options), watch)

    def _write(
        self, asked: Sequence[Asked], opened: Sequence[OpenAnswer], watch: Watch
    ) -> list[Answer]:
        if not asked:
            return []
        clock = Stopwatch(self.device)
        writers = [one.writer for one in asked]
        with clock.stage("answer"), one_thread_an_op(self._encoder.is_small):
            for _ in decode(self.model, opened, writers, runners=self._runners, watch=watch):
                pass
        return [self._answer(one, clock.timing) for one in asked]

    def _open(
        self, plans: Sequence[tuple[EncodedVideo, PromptPlan]], options: AskOptions
    ) -> tuple[list[Asked], list[OpenAnswer]]:
        """Read questions; when memory runs out, alone and without what earlier answers left."""

        def work(*, alone: bool = False) -> tuple[list[Asked], list[OpenAnswer]]:
            if alone:
                self._runners.clear()
            return open_plans(self._gate.reader_of, plans, options, alone=alone)

        doing, do = f"{len(plans)} questions at once", "ask fewer at once, or about fewer frames"
        again = partial(work, alone=True)
        return twice(work, again=again, device=self.device, doing=doing, do=do)

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
        # What the last answers ran on would keep the keys of their video.
        self._runners.clear()
        return self._gate.encode(source, plan, sampling, watch=watch)

    def _encode_media(self, plan: PromptPlan, options: AskOptions, watch: Watch) -> EncodedVideo:
        if plan.media is None:
            return self._encoder.encode_nothing(plan)
        source, sampling = open_media(plan.media, self.processor, options)
        self._runners.clear()
        return self._gate.encode(source, plan, sampling, watch=watch)

    def _answer(self, asked: Asked, written: Timing) -> Answer:
        writer, encoded = asked.writer, asked.encoded
        notes = (*encoded.notes, *asked.notes, *writer.notes)
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
