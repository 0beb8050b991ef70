"""Questions that stand while a video plays: asked again and again, told when an answer changes."""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import final

import numpy as np

from timeviper.core.errors import RequestError
from timeviper.inference.request import DEFAULTS, Answer, AskOptions
from timeviper.inference.session import Session
from timeviper.inference.watch import SILENT, Watch
from timeviper.video.live import LiveVideo
from timeviper.video.live_queue import LiveFrame

# Waiting for a camera, so that a status and a stop are never further away than this.
_WAIT_SECONDS = 0.5


@dataclass(frozen=True, kw_only=True)
class Change:
    """An answer that is not what it was.

    Args:
        question: as it stands.
        answer: now.
        before: text of the answer before; None the first time.
        seconds: length of the video that was seen.
    """

    question: str
    answer: Answer
    before: str | None
    seconds: float


@dataclass(frozen=True, kw_only=True)
class Status:
    """How far a session is that follows a live video.

    Args:
        seconds: length of the video that was seen.
        frames: frames read.
        waiting: frames that came and were not read yet.
        dropped: frames for which there was no room.
        lag_seconds: between the newest frame that came and the newest that was read.
        nbytes: of what is remembered.
    """

    seconds: float
    frames: int
    waiting: int
    dropped: int
    lag_seconds: float
    nbytes: int


@dataclass(frozen=True)
class Note:
    """A sentence for the user: a gap, stamps that lie, an end that came early."""

    words: str


Event = Change | Status | Note


@dataclass(frozen=True, kw_only=True)
class FollowOptions:
    """How to follow a live video.

    Args:
        questions: that stand; may be none.
        every: seconds of video between two times of asking.
        most_seconds: where to stop; None follows to the end.
        asking: how to answer.

    Raises:
        RequestError: numbers that make no sense, or an empty question.
    """

    questions: tuple[str, ...] = ()
    every: float = 10.0
    most_seconds: float | None = None
    asking: AskOptions = DEFAULTS

    def __post_init__(self) -> None:
        """Refuse what makes no sense before a camera is opened."""
        for name, value in (("every", self.every), ("most_seconds", self.most_seconds)):
            if value is not None and not 0 < value < float("inf"):
                raise RequestError(
                    want=f"{name} of more than 0 seconds", got=value, do="give seconds, such as 10"
                )
        if any(not question.strip() for question in self.questions):
            raise RequestError(
                want="questions with words", got="an empty one", do="write it or leave it out"
            )


@final
class Follower:
    """Reads a live video into a session and asks it the questions that stand.

    Args:
        session: grows; what it holds stays good whatever happens here.
        live: in its `with` block.
        options: how to follow.
        watch: stops the work; asked once a clip and once a token.

    Law: each answer equals that of the same video, asked at that length.
    """

    def __init__(
        self, session: Session, live: LiveVideo, options: FollowOptions, watch: Watch = SILENT
    ) -> None:
        self._session, self._live, self._options, self._watch = session, live, options, watch
        self._start = session.seconds
        self._answers: dict[str, str] = {}
        self._asked_at = session.seconds
        self._began = time.monotonic()

    @property
    def status(self) -> Status:
        """How far it is."""
        session, live = self._session, self._live
        newest = self._start + live.newest_seconds
        return Status(
            seconds=session.seconds,
            frames=session.frames,
            waiting=live.waiting,
            dropped=live.dropped,
            lag_seconds=max(newest - session.seconds, 0.0),
            nbytes=session.nbytes,
        )

    def run(self) -> Iterator[Event]:
        """Follow to the end.

        Yields:
            Each change of an answer, each note, and a status after each clip or pause.

        Raises:
            MediaError: the video cannot be read at all.
            CancelledError: `watch` asked to stop; the session keeps what was read.
        """
        while not self._live.ended and not self._is_done():
            self._watch.check("following the video")
            frames = self._clip()
            yield from (Note(words) for words in self._live.news())
            if frames:
                self._append(frames)
            if self._session.seconds >= self._due - 1e-6:
                yield from self._ask()
            yield self.status
        yield from (Note(words) for words in self._live.news())
        if self._session.room == 0:
            yield Note(f"stopped at {self._session.frames} frames (max_frames)")
        if self._session.seconds > self._asked_at:
            yield from self._ask()
        yield self.status

    @property
    def _due(self) -> float:
        return self._asked_at + self._options.every

    def _is_done(self) -> bool:
        most = self._options.most_seconds
        if self._session.room == 0:
            return True
        if most is None:
            return False
        info = self._live.info
        # A camera that is gone brings no seconds: there the clock on the wall ends it too.
        if info is not None and info.real_time and time.monotonic() - self._began >= 2 * most:
            return True
        return self._session.seconds - self._start >= most - 1e-6

    def _clip(self) -> list[LiveFrame]:
        """Frames up to a full clip, or to the next time of asking: what plays is not waited for."""
        ends = self._due
        if self._options.most_seconds is not None:
            ends = min(ends, self._start + self._options.most_seconds)
        left = round((ends - self._session.seconds) * self._session.fps)
        most = max(1, min(left, self._session.clip_frames))
        if self._session.room is not None:
            most = min(most, self._session.room)
        frames = self._live.take(most, timeout=_WAIT_SECONDS)
        info = self._live.info
        while frames and len(frames) < most and not (info is None or info.real_time):
            further = self._live.take(most - len(frames), timeout=_WAIT_SECONDS)
            if not further:
                # The end, or a pipe that pauses: what came is not kept waiting.
                break
            frames += further
        return frames

    def _append(self, frames: Sequence[LiveFrame]) -> None:
        times = self._start + np.array([frame.seconds for frame in frames])
        self._session.append(
            [frame.pixels for frame in frames],
            times=times,
            until=float(times[-1]) + 1 / self._session.fps,
            watch=self._watch,
        )

    def _ask(self) -> Iterator[Change]:
        session, questions = self._session, self._options.questions
        self._asked_at = session.seconds
        if not questions or not session.frames:
            return
        answers = session.ask_many(questions, self._options.asking, watch=self._watch)
        for question, answer in zip(questions, answers, strict=True):
            before = self._answers.get(question)
            if before != answer.text:
                self._answers[question] = answer.text
                yield Change(
                    question=question, answer=answer, before=before, seconds=session.seconds
                )
