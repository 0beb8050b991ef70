"""One training sample as a value, where it comes from, and why one cannot be used."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Protocol, Self

from timeviper.core.errors import TimeviperError
from timeviper.processing.messages import ImagePart, Message, TextPart, VideoPart
from timeviper.video.base import VideoSource


class Reason(StrEnum):
    """Why a sample is bad, in the words of reports."""

    MALFORMED = "malformed record"
    MARKS = "marks and media differ"
    CONVERSATION = "no conversation to learn from"
    MISSING = "missing media"
    UNREADABLE = "unreadable media"
    RANGE = "interval outside the video"
    TOO_LONG = "longer than the budget"
    TRUNCATED = "truncated file"


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a sample stands.

    Args:
        file: its path as the user gave it.
        place: line in a text file, from 1; name of the member in a shard.
    """

    file: str
    place: int | str

    def __str__(self) -> str:
        """As editors and compilers write it."""
        return f"{self.file}:{self.place}"


class DataError(TimeviperError):
    """Files of a data set that cannot be used at all, or too many bad samples in them."""


class SampleError(TimeviperError):
    """A sample that cannot be used; it is reported and counted, and the run goes on.

    Args:
        reason: the kind of fault, for counts.
        origin: where the sample stands.
        want: what was expected.
        got: what was found instead.
        do: the next step that mends it.
    """

    def __init__(self, reason: Reason, origin: Origin, *, want: str, got: object, do: str) -> None:
        super().__init__(want=want, got=got, do=do)
        self.reason = reason
        self.origin = origin

    @classmethod
    def of(cls, error: TimeviperError, reason: Reason, origin: Origin) -> Self:
        """Another room's error about a sample."""
        return cls(reason, origin, want=error.want, got=error.got, do=error.do)

    def __str__(self) -> str:
        """Place, kind of fault, and the three parts of every message."""
        return f"{self.origin}: {self.reason.value}: {super().__str__()}"


class Opener(Protocol):
    """A medium that is no file of its own: a member of a shard, or a drawing."""

    @property
    def identity(self) -> str:
        """The same for the same pixels."""
        ...

    def open(self) -> AbstractContextManager[VideoSource]:
        """The video or picture; what it needs on disk is gone when the block ends.

        Raises:
            MediaError: it cannot be read.
        """
        ...


@dataclass(frozen=True, kw_only=True, eq=False)
class Sample:
    """A conversation to learn from.

    Args:
        turns: the conversation, ending with an answer; sources of media are paths that can be
            opened, or names in `openers`.
        origin: where it stands.
        form: name of the record format it was written in.
        start_seconds: start of the moment that the answer names, for grounding data.
        end_seconds: its end.
        openers: media that are no files of their own, by source.
    """

    turns: tuple[Message, ...]
    origin: Origin
    form: str
    start_seconds: float | None = None
    end_seconds: float | None = None
    openers: Mapping[str, Opener] = field(default_factory=dict[str, Opener])

    @property
    def media(self) -> tuple[VideoPart | ImagePart, ...]:
        """Videos and pictures in order."""
        parts = [part for turn in self.turns for part in turn.parts]
        return tuple(part for part in parts if not isinstance(part, TextPart))

    def error(self, reason: Reason, *, want: str, got: object, do: str) -> SampleError:
        """A fault of this sample."""
        return SampleError(reason, self.origin, want=want, got=got, do=do)
