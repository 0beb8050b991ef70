"""How a caller follows long work and stops it: progress reports and cancellation."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import final

from timeviper.core.errors import CancelledError


class Stage(StrEnum):
    """What is being worked on."""

    # Frames read by the model, of all frames chosen.
    VIDEO = "video"
    # Tokens of answers written, of the most allowed.
    ANSWER = "answer"


@dataclass(frozen=True, kw_only=True)
class Progress:
    """One report.

    Args:
        stage: what is being worked on.
        done: frames or tokens so far.
        total: frames chosen, or the most tokens allowed; an answer may end earlier.
    """

    stage: Stage
    done: int
    total: int


@final
class CancelToken:
    """A switch that another thread may turn: work that was given it stops soon after."""

    def __init__(self) -> None:
        self._event = threading.Event()

    def cancel(self) -> None:
        """Ask the work to stop."""
        self._event.set()

    def __call__(self) -> bool:
        """Whether the work is asked to stop."""
        return self._event.is_set()


@dataclass(frozen=True, kw_only=True)
class Watch:
    """What a caller wants to hear and to decide during one piece of work.

    Args:
        progress: called with each report, or None.
        cancel: asked once a clip of frames and once a token; work stops when it says True.
        note: called before long work with a sentence about what was changed so that it fits;
            results tell it again.
    """

    progress: Callable[[Progress], None] | None = None
    cancel: Callable[[], bool] | None = None
    note: Callable[[str], None] | None = None

    def tell(self, stage: Stage, done: int, total: int) -> None:
        """Report to the caller, if it listens."""
        if self.progress is not None:
            self.progress(Progress(stage=stage, done=done, total=total))

    def say(self, *sentences: str) -> None:
        """Tell the caller what was changed, if it listens."""
        if self.note is not None:
            for sentence in sentences:
                self.note(sentence)

    def check(self, doing: str) -> None:
        """Stop here when the caller asked for it.

        Args:
            doing: what is being done, for the message.

        Raises:
            CancelledError: the caller cancelled.
        """
        if self.cancel is not None and self.cancel():
            raise CancelledError(
                want=f"to finish {doing}", got="a request to stop", do="ask again if that was amiss"
            )


SILENT = Watch()
