"""How `timeviper watch` tells what it sees: lines for people, a status that stays, JSON lines."""

from __future__ import annotations

import json
import sys
import time
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import asdict
from types import TracebackType
from typing import TYPE_CHECKING, Self, final

from rich.live import Live
from rich.text import Text

from timeviper.cli.sizes import size
from timeviper.cli.terminal import messages, print_note, results
from timeviper.processing.timestamps import format_time

if TYPE_CHECKING:
    from timeviper.inference.standing import Change, Status
    from timeviper.video.live_player import LiveInfo

_STATUS_SECONDS = 1.0


class Screen(ABC):
    """Where events go; use it in a `with` block."""

    def __enter__(self) -> Self:
        """Ready to show."""
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the status away."""
        return None

    @abstractmethod
    def opened(self, name: str, info: LiveInfo) -> None:
        """The video is there."""

    @abstractmethod
    def changed(self, change: Change) -> None:
        """An answer is not what it was."""

    @abstractmethod
    def noted(self, words: str, seconds: float) -> None:
        """Something that the user should know."""

    @abstractmethod
    def status(self, status: Status) -> None:
        """How far it is."""

    @abstractmethod
    def ended(self, record: Mapping[str, object]) -> None:
        """It is over; the record says what came of it."""


@final
class JsonScreen(Screen):
    """One JSON object a line on stdout, each with its `event`."""

    def __init__(self) -> None:
        self._told = -_STATUS_SECONDS

    def opened(self, name: str, info: LiveInfo) -> None:
        """The video is there."""
        self._line("open", {"source": name, **asdict(info)})

    def changed(self, change: Change) -> None:
        """An answer is not what it was."""
        self._line(
            "answer",
            {
                "seconds": round(change.seconds, 3),
                "question": change.question,
                "answer": change.answer.text,
                "before": change.before,
                "start_seconds": change.answer.start_seconds,
                "end_seconds": change.answer.end_seconds,
            },
        )

    def noted(self, words: str, seconds: float) -> None:
        """Something that the user should know."""
        self._line("note", {"seconds": round(seconds, 3), "note": words})

    def status(self, status: Status) -> None:
        """How far it is, once a second."""
        if time.monotonic() - self._told < _STATUS_SECONDS:
            return
        self._told = time.monotonic()
        self._line(
            "status",
            {
                "seconds": round(status.seconds, 3),
                "frames": status.frames,
                "waiting": status.waiting,
                "dropped": status.dropped,
                "lag_seconds": round(status.lag_seconds, 3),
                "state_bytes": status.nbytes,
            },
        )

    def ended(self, record: Mapping[str, object]) -> None:
        """It is over."""
        self._line("end", record)

    def _line(self, event: str, values: Mapping[str, object]) -> None:
        record = {"event": event, **values}
        sys.stdout.write(json.dumps(record, ensure_ascii=False, allow_nan=False) + "\n")
        sys.stdout.flush()


@final
class TextScreen(Screen):
    """Answers on stdout as they change; on a terminal a line below that says how far it is."""

    def __init__(self) -> None:
        self._results, self._messages = results(), messages()
        self._line = Live(
            console=self._messages,
            transient=True,
            refresh_per_second=4,
            redirect_stdout=False,
            redirect_stderr=False,
        )

    def __enter__(self) -> Self:
        """Draw the status where somebody looks."""
        if self._messages.is_terminal:
            self._line.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        """Take the status away."""
        self._line.stop()

    def opened(self, name: str, info: LiveInfo) -> None:
        """The video is there."""
        how = "as it plays" if info.real_time else "as fast as the model reads"
        words = f"{name}: {info.width}x{info.height} {info.codec}, {how}; Ctrl-C ends"
        self._messages.print(Text(words, style="dim"), soft_wrap=True)

    def changed(self, change: Change) -> None:
        """An answer is not what it was."""
        line = Text(f"{format_time(change.seconds)}  ", style="cyan")
        line.append(f"{_printable(change.question)}  ", style="not bold default")
        line.append(_printable(change.answer.text), style="bold default")
        # What stdout and stderr share is drawn by one hand, or the status would cut the words.
        both = self._results.is_terminal and self._messages.is_terminal
        (self._messages if both else self._results).print(line, soft_wrap=True)

    def noted(self, words: str, seconds: float) -> None:
        """Something that the user should know."""
        text = Text(f"note: {_printable(words)}", style="yellow")
        self._messages.print(text, soft_wrap=True)

    def status(self, status: Status) -> None:
        """How far it is."""
        self._line.update(status_line(status))

    def ended(self, record: Mapping[str, object]) -> None:
        """It is over."""
        seconds, frames = float(str(record["seconds"])), record["frames"]
        words = f"{frames} frames of {format_time(seconds)}"
        words += f" · {record['changes']} answers told · {record['dropped']} frames dropped"
        words += f" · {size(int(str(record['state_bytes'])))} remembered"
        self._messages.print(Text(words, style="dim"), soft_wrap=True)
        if record["saved"] is not None:
            print_note(f'kept in {record["saved"]}; ask it: timeviper ask {record["saved"]} "…"')


def status_line(status: Status) -> Text:
    """How far a live video is, in one line.

    Args:
        status: as the follower says.

    Returns:
        Time, frames, what waits, what was dropped, how far behind, bytes remembered.
    """
    parts = [
        format_time(status.seconds),
        f"{status.frames:,} frames",
        f"{size(status.nbytes)} remembered",
        f"{status.lag_seconds:.1f} s behind",
    ]
    if status.waiting:
        parts.append(f"{status.waiting} waiting")
    line = Text(" · ".join(parts), style="dim", no_wrap=True, overflow="ellipsis")
    if status.dropped:
        line.append(f" · {status.dropped} dropped", style="yellow")
    return line


def _printable(text: str) -> str:
    return "".join(c if c.isprintable() else " " for c in text)
