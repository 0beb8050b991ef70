"""A video that grows: append to it, ask it at any time, go back or fork; nothing is read twice."""

from __future__ import annotations

import copy
import math
from collections.abc import Sequence
from contextlib import closing
from dataclasses import replace
from types import TracebackType
from typing import Protocol, Self, final

import numpy as np
from numpy.typing import ArrayLike, NDArray

from timeviper.core.errors import CapacityError, RequestError
from timeviper.inference.admission import Gate
from timeviper.inference.growing import (
    COUNT_SLACK,
    check_model,
    check_options,
    compacted,
    count,
    frames_of,
    placed,
)
from timeviper.inference.prefill import EncodedVideo, VideoEncoder
from timeviper.inference.request import DEFAULTS, Answer, AskOptions
from timeviper.inference.snapshots import Snapshot, thinned
from timeviper.inference.turns import Turn, plan_turn
from timeviper.inference.watch import SILENT, Stage, Watch
from timeviper.processing.prompt import PromptPlan
from timeviper.video.base import VideoSource
from timeviper.video.sampling import Sampling
from timeviper.video.source import Openable, open_video
from timeviper.video.still_sources import ArraySource

SNAPSHOTS = 8


class Answering(Protocol):
    """What a session needs of an engine."""

    @property
    def encoder(self) -> VideoEncoder:
        """Reads frames into a state."""
        ...

    @property
    def gate(self) -> Gate:
        """Tells what fits."""
        ...

    def answer_plans(
        self,
        plans: Sequence[tuple[EncodedVideo, PromptPlan]],
        options: AskOptions = DEFAULTS,
        *,
        watch: Watch = SILENT,
    ) -> list[Answer]:
        """Answers conversations about encoded videos."""
        ...


@final
class Session:
    """One video that grows, and the conversation about it. For one thread at a time.

    Args:
        engine: answers.
        options: `fps` and `system` hold for the whole session, `max_frames` is where it is full;
            the rest is how to answer unless `ask` says otherwise.
        snapshots: most points to go back to, at least 2; each keeps the states of the Mamba layers.

    Raises:
        RequestError: options that need to know the end of the video, or a model that does
            (`uniform_whole`).

    Law: appended in any pieces = encoded at once; asked, forked or gone back, it goes on as if
    none of this had been.
    """

    def __init__(
        self, engine: Answering, options: AskOptions = DEFAULTS, *, snapshots: int = SNAPSHOTS
    ) -> None:
        encoder = engine.encoder
        check_model(encoder.model)
        check_options(options, snapshots)
        self._engine, self._options, self._most = engine, options, snapshots
        self._plan = plan_turn(encoder.processor, options.system, (), "?")
        self._fps = options.fps or encoder.processor.config.fps
        self._encoded: EncodedVideo | None = encoder.encode_nothing(self._plan)
        self._snapshots: tuple[Snapshot, ...] = (Snapshot.of(self._encoded),)
        self._turns: tuple[Turn, ...] = ()
        # Who reads, and up to how many frames that is known to fit.
        self._reader, self._admitted = encoder, 0

    @classmethod
    def of(
        cls,
        engine: Answering,
        encoded: EncodedVideo,
        options: AskOptions = DEFAULTS,
        *,
        snapshots: int = SNAPSHOTS,
    ) -> Self:
        """Go on with a video that was encoded before, such as one out of a file.

        Args:
            engine: of the same model.
            encoded: stays as it is.
            options: as for a new session; without `fps` the video goes on at the rate it was read.
            snapshots: as for a new session; one cannot go back to before this point.

        Raises:
            RequestError: as for a new session, or other words before the video.
        """
        session = cls(engine, options, snapshots=snapshots)
        if session._plan.prefix.ids.tobytes() != encoded.prefix.ids.tobytes():
            raise RequestError(
                want="the words before the video that it was encoded with",
                got="others",
                do="give the same `system`, and use the same model",
            )
        if options.fps is None and encoded.frames > 1:
            gap = float(encoded.times[-1] - encoded.times[0]) / (encoded.frames - 1)
            session._fps = round(1 / gap, 6)
        session._encoded, session._snapshots = encoded, (Snapshot.of(encoded),)
        return session

    def __enter__(self) -> Self:
        """Ready; closes at the end of the `with` block."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Close."""
        self.close()

    @property
    def encoded(self) -> EncodedVideo:
        """What the model remembers now; a value that later appends do not touch.

        Raises:
            RequestError: the session is closed.
        """
        if self._encoded is None:
            raise RequestError(
                want="an open session",
                got="one that was closed",
                do="begin a new one, or go on from a saved video with `Session.of`",
            )
        return self._encoded

    @property
    def seconds(self) -> float:
        """Length of the video so far."""
        return self.encoded.duration_seconds

    @property
    def frames(self) -> int:
        """Frames read so far."""
        return self.encoded.frames

    @property
    def fps(self) -> float:
        """Frames a second at which appended videos are looked at."""
        return self._fps

    @property
    def clip_frames(self) -> int:
        """Frames that are best appended together."""
        return self._engine.encoder.chunks.chunk_frames

    @property
    def room(self) -> int | None:
        """Frames that may still be appended (`max_frames`); None where nothing limits them."""
        most = self._options.max_frames
        return None if most is None else max(most - self.frames, 0)

    @property
    def nbytes(self) -> int:
        """Bytes of what is remembered, the points to go back to included."""
        return self.encoded.nbytes + sum(past.nbytes for past in self._snapshots[:-1])

    @property
    def turns(self) -> tuple[Turn, ...]:
        """Questions that were asked with `keep`, which the next question follows."""
        return self._turns

    def append(
        self,
        video: Openable,
        *,
        times: ArrayLike | None = None,
        until: float | None = None,
        watch: Watch = SILENT,
    ) -> int:
        """Read on: what is given follows what was there.

        Args:
            video: as in `Engine.encode`; looked at `fps` times a second on the session's clock.
            times: for frames in memory, (frame,) seconds on the session's clock at which each
                appears, behind the last frame read: then every frame is read, at its time.
            until: with `times`, seconds at which the last frame has gone; not given, it stays as
                long as frames do on average.
            watch: follows and stops the work.

        Returns:
            Frames that were read.

        Raises:
            RequestError: the session is closed, or times that lie before its end.
            CapacityError: more than `max_frames`, or than fits; nothing of it is read.
            MediaError: not readable as a video.
            CancelledError: `watch` asked to stop, within a clip; the clips before it stay read.
        """
        begin = self.encoded.duration_seconds
        if times is None:
            source = open_video(video)
            end = begin + source.info.duration_seconds
            first, last = (count(edge, self._fps) for edge in (begin, end))
            moments = np.arange(first, last, dtype=np.float64) / self._fps
        else:
            moments = np.array(times, np.float64)
            source = ArraySource(frames_of(video), moments)
            end, begin = self._end_of(moments, until), source.info.time_origin
        return self._read(source, moments, begin, end, watch)

    def ask(
        self,
        question: str,
        options: AskOptions | None = None,
        *,
        keep: bool = False,
        watch: Watch = SILENT,
    ) -> Answer:
        """Ask about the video so far, after the turns that were kept; the video stays as it is.

        Args:
            question: the user's words.
            options: how to answer; those of the session when not given.
            keep: later questions follow this one and its answer.
            watch: follows and stops the work.

        Raises:
            RequestError: the session is closed, nothing was appended, or an empty question.
            CapacityError: more words than the model's context.
            CancelledError: `watch` asked to stop, within a token.

        Law: equals asking the same video encoded at once, in one run over the conversation.
        """
        answer = self.ask_many([question], options, watch=watch)[0]
        if keep:
            self._turns = (*self._turns, Turn(question, answer.text, self.seconds))
        return answer

    def ask_many(
        self, questions: Sequence[str], options: AskOptions | None = None, *, watch: Watch = SILENT
    ) -> list[Answer]:
        """Several questions at once, each as `ask` would answer it."""
        encoded, system = self.encoded, self._options.system
        if encoded.frames == 0:
            raise RequestError(
                want="a video to ask about",
                got="a session without a frame",
                do="append a video first",
            )
        how = replace(options or self._options, fps=None, max_frames=None, system=system)
        processor = self._engine.encoder.processor
        plans = [plan_turn(processor, system, self._turns, question) for question in questions]
        return self._engine.answer_plans([(encoded, plan) for plan in plans], how, watch=watch)

    def fork(self) -> Self:
        """A second session that begins as this one is; neither feels what happens to the other."""
        # Every field is a value that never changes: a shallow copy shares nothing that does.
        return copy.copy(self)

    def rewind(self, seconds: float) -> float:
        """Forget the end of the video, at least so many seconds of it.

        Args:
            seconds: how far to go back. The newest snapshot at or before that point is taken:
                snapshots lie densely near the end and thinly far behind.

        Returns:
            Length of the video now. Kept turns that were asked later are forgotten.

        Raises:
            RequestError: the session is closed, or begins later than that.

        Law: what is appended then follows as if what was forgotten had never come.
        """
        now, wanted = self.encoded, self.seconds - seconds
        past = [s for s in self._snapshots if s.seconds <= wanted + COUNT_SLACK * max(1.0, wanted)]
        if not (math.isfinite(seconds) and seconds >= 0 and past):
            most = self.seconds - self._snapshots[0].seconds
            raise RequestError(
                want=f"0 to {most:g} seconds to go back", got=seconds, do="go back less far"
            )
        self._snapshots = self._snapshots[: len(past)]
        self._encoded = past[-1].restore(now)
        self._turns = tuple(turn for turn in self._turns if turn.seconds <= self.seconds)
        return self.seconds

    def close(self) -> None:
        """Let go of everything remembered; a second time does nothing."""
        self._encoded, self._snapshots, self._turns = None, (), ()

    def _read(
        self,
        source: VideoSource,
        moments: NDArray[np.float64],
        begin: float,
        end: float,
        watch: Watch,
    ) -> int:
        """Read a source whose 0 lies at `begin` and whose end lies at `end`."""
        before = self.encoded
        self._check_room(len(moments))
        encoder, said = self._admit(moments)
        before = replace(before, notes=(*before.notes, *source.info.notes, *said))
        if len(moments) == 0:
            self._grow(replace(before, duration_seconds=end))
            return 0
        watch.tell(Stage.VIDEO, 0, len(moments))
        local = Sampling(np.maximum(moments - begin, 0.0))
        with closing(encoder.clips(source, local)) as clips:
            there = placed(clips, moments)
            grown = encoder.extend(before, self._plan, there, total=len(moments), watch=watch)
            with closing(grown):
                for step in grown:
                    read = step.frames - before.frames
                    until = float(moments[read]) if read < len(moments) else end
                    self._grow(replace(step, duration_seconds=until))
        return len(moments)

    def _admit(self, moments: NDArray[np.float64]) -> tuple[VideoEncoder, tuple[str, ...]]:
        """Who reads frames at these moments so that they fit, and what is to be said about it."""
        frames = self.frames + len(moments)
        if frames <= self._admitted or not len(moments):
            return self._reader, ()
        # What the points to go back to will take is not there for the video.
        to_come = self._most - len(self._snapshots)
        held = self.encoded.nbytes - to_come * self._snapshots[-1].nbytes
        # For many more at once while they fit as they are: a camera's frames come one by one.
        for ahead in (frames, frames // 16, 0):
            later = moments[-1] + np.arange(1, ahead + 1) / self._fps
            times = np.concatenate([self.encoded.times, moments, later])
            try:
                reader, said = self._engine.gate.admit(self._plan, times, held=held)
            except CapacityError:
                if not ahead:
                    raise
                continue
            if not (ahead and said):
                self._reader, self._admitted = reader, len(times)
                return reader, tuple(note for note in said if note not in self.encoded.notes)
        return self._reader, ()

    def _grow(self, encoded: EncodedVideo) -> None:
        self._encoded = encoded = replace(encoded, state=compacted(encoded.state))
        self._snapshots = thinned((*self._snapshots, Snapshot.of(encoded)), self._most)

    def _check_room(self, frames: int) -> None:
        if self.room is not None and frames > self.room:
            raise CapacityError(
                want=f"at most {self._options.max_frames} frames in this session (max_frames)",
                got=f"{self.frames} and {frames} more",
                do="append less, go back, or begin a new session",
            )

    def _end_of(self, times: NDArray[np.float64], until: float | None) -> float:
        """Where the video ends after frames at these times."""
        known = self.encoded.times
        last = float(known[-1]) if len(known) else -1e-9
        # Other shapes and numbers that are none are refused with the frames.
        if times.ndim == 1 and len(times) and not times[0] > last:
            raise RequestError(
                want=f"times behind the last frame, at {max(last, 0.0):g} s",
                got=f"{times[0]:g} s",
                do="append in order, or `rewind` first",
            )
        if until is not None:
            return max(until, float(times[-1]))
        frames = len(known) + len(times)
        if frames == 1:
            return float(times[-1]) + 1 / self._fps
        first = float(known[0] if len(known) else times[0])
        return float(times[-1]) + (float(times[-1]) - first) / (frames - 1)
