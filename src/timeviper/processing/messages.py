"""Parse Hugging Face style messages into typed values; an unknown key or part is an error."""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeVar, cast

from timeviper.core.errors import RequestError

Role = Literal["system", "user", "assistant"]
T = TypeVar("T")
Name = TypeVar("Name", bound=str)
_ROLES: tuple[Role, ...] = ("system", "user", "assistant")


@dataclass(frozen=True, slots=True)
class TextPart:
    """Plain words; nothing in them is a placeholder or a special token."""

    text: str


@dataclass(frozen=True, kw_only=True)
class VideoPart:
    """A video and how to look at it.

    Args:
        source: path of a file or folder, or paths of the frames.
        fps: frames a second; excludes `num_frames`.
        num_frames: how many frames over the whole range; excludes `fps`.
        max_frames: most frames taken.
        start_seconds: start of the range; None is the start of the video.
        end_seconds: end of the range; None is the end of the video.
    """

    source: str | tuple[str, ...]
    fps: float | None = None
    num_frames: int | None = None
    max_frames: int | None = None
    start_seconds: float | None = None
    end_seconds: float | None = None

    def __post_init__(self) -> None:
        """Refuse rates, counts and ranges that mean nothing."""
        if self.fps is not None and self.num_frames is not None:
            raise RequestError(
                want="either fps or num_frames", got="both", do="leave one of them out"
            )
        start, end = self.start_seconds or 0.0, self.end_seconds
        if end is not None and end <= start:
            raise RequestError(
                want="a range that ends after it starts",
                got=f"{start:g} to {end:g} seconds",
                do="correct video_start or video_end",
            )


@dataclass(frozen=True, kw_only=True)
class ImagePart:
    """One still picture: a frame without a time."""

    source: str


Part = TextPart | VideoPart | ImagePart


@dataclass(frozen=True, kw_only=True)
class Message:
    """One turn of a conversation."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The words of all text parts."""
        return "".join(part.text for part in self.parts if isinstance(part, TextPart))


def parse_messages(messages: object) -> tuple[Message, ...]:
    """Read a conversation.

    Args:
        messages: a list of `{"role": ..., "content": ...}`; the content is a string or a list of
            parts `{"type": "text", "text"}`, `{"type": "video", "video", ...}` with `fps`,
            `num_frames` (or `nframes`), `max_frames`, `video_start`, `video_end`, or
            `{"type": "image", "image"}`.

    Returns:
        The turns; the last one is the user's question.

    Raises:
        RequestError: anything else, with the place and what was expected there.
    """
    turns = read_turns(messages)
    check_conversation(turns)
    return turns


def read_turns(messages: object) -> tuple[Message, ...]:
    """Read turns in the form of `parse_messages`, in whatever order they stand.

    Raises:
        RequestError: an entry that is not a turn, with its place.
    """
    items = _sequence(messages, "messages")
    return tuple(_message(item, f"messages[{i}]") for i, item in enumerate(items))


def check_conversation(turns: Sequence[Message]) -> None:
    """Refuse an order of turns that cannot be answered.

    Raises:
        RequestError: a system turn that is not the first, turns that do not alternate between
            user and assistant, an empty question, media outside a user's turn, or more than one.
    """
    talk = check_order(turns)
    if len(talk) % 2 == 0:
        raise RequestError(
            want="a conversation that ends with the user's question",
            got=f"{len(talk)} turns of user and assistant",
            do="add a question or drop the last answer",
        )
    media = [(t.role, p) for t in turns for p in t.parts if not isinstance(p, TextPart)]
    if len(media) > 1 or any(role != "user" for role, _ in media):
        raise RequestError(
            want="at most one video or image, in a user's turn",
            got=f"{len(media)} in turns of {', '.join(role for role, _ in media)}",
            do="ask about one video at a time",
        )


def check_order(turns: Sequence[Message]) -> Sequence[Message]:
    """Refuse turns that do not alternate, and empty questions.

    Returns:
        The turns of user and assistant, without the system's.

    Raises:
        RequestError: a system turn that is not the first, turns that do not alternate between
            user and assistant, or an empty question.
    """
    talk = turns[1:] if turns and turns[0].role == "system" else turns
    for number, turn in enumerate(talk):
        wanted = "assistant" if number % 2 else "user"
        if turn.role != wanted:
            raise RequestError(
                want="an optional system turn, then user and assistant in turns",
                got=f"{turn.role} in the place of {wanted}",
                do="correct the order of the messages",
            )
        if wanted == "user" and not turn.text.strip():
            raise RequestError(want="a question", got="an empty one", do="write a question")
    return talk


def _message(item: object, where: str) -> Message:
    data = _mapping(item, where)
    _known(data, {"role", "content"}, where)
    role = _one_of(data.get("role"), _ROLES, f"{where}.role")
    content = data.get("content")
    if isinstance(content, str):
        return Message(role=role, parts=(TextPart(content),))
    parts = _sequence(content, f"{where}.content")
    return Message(
        role=role, parts=tuple(_part(p, f"{where}.content[{i}]") for i, p in enumerate(parts))
    )


def _part(item: object, where: str) -> Part:
    data = _mapping(item, where)
    kind = _one_of(data.get("type"), ("text", "video", "image"), f"{where}.type")
    if kind == "text":
        _known(data, {"type", "text"}, where)
        return TextPart(_text(data.get("text"), f"{where}.text"))
    if kind == "image":
        _known(data, {"type", "image"}, where)
        return ImagePart(source=_path(data.get("image"), f"{where}.image"))
    return _video(data, where)


def _video(data: Mapping[str, Any], where: str) -> VideoPart:
    keys = {"type", "video", "fps", "num_frames", "nframes", "max_frames"}
    _known(data, keys | {"video_start", "video_end"}, where)
    if data.get("num_frames") is not None and data.get("nframes") is not None:
        raise RequestError(
            want=f"either num_frames or nframes in {where}", got="both", do="leave one of them out"
        )
    source = data.get("video")
    if isinstance(source, (list, tuple)):
        frames = tuple(
            _path(frame, f"{where}.video[{i}]")
            for i, frame in enumerate(_sequence(cast(object, source), f"{where}.video"))
        )
    else:
        frames = _path(source, f"{where}.video")
    count = "num_frames" if data.get("num_frames") is not None else "nframes"
    return VideoPart(
        source=frames,
        fps=_optional(data, "fps", _rate, where),
        num_frames=_optional(data, count, _count, where),
        max_frames=_optional(data, "max_frames", _count, where),
        start_seconds=_optional(data, "video_start", _seconds, where),
        end_seconds=_optional(data, "video_end", _seconds, where),
    )


def _optional(
    data: Mapping[str, Any], key: str, read: Callable[[object, str], T], where: str
) -> T | None:
    value = data.get(key)
    return None if value is None else read(value, f"{where}.{key}")


def _rate(value: object, where: str) -> float:
    number = _number(value, where)
    if number <= 0:
        raise _wrong(where, "a number above zero", value)
    return number


def _seconds(value: object, where: str) -> float:
    number = _number(value, where)
    if number < 0:
        raise _wrong(where, "zero seconds or more", value)
    return number


def _number(value: object, where: str) -> float:
    if not isinstance(value, bool) and isinstance(value, (int, float)):
        # A whole number of hundreds of digits is beyond float.
        number = float(value) if abs(value) < 1e300 else math.inf
        if math.isfinite(number):
            return number
    raise _wrong(where, "a finite number", value)


def _count(value: object, where: str) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise _wrong(where, "a whole number of one or more", value)
    return value


def _text(value: object, where: str) -> str:
    if not isinstance(value, str):
        raise _wrong(where, "a string", value)
    return value


def _path(value: object, where: str) -> str:
    text = os.fspath(cast("os.PathLike[str]", value)) if isinstance(value, os.PathLike) else value
    if not isinstance(text, str) or not text:
        raise _wrong(where, "a path", value)
    return text


def _sequence(value: object, where: str) -> Sequence[object]:
    if not isinstance(value, (list, tuple)) or not value:
        raise _wrong(where, "a list with at least one entry", value)
    return cast("Sequence[object]", value)


def _mapping(value: object, where: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise _wrong(where, "an object", value)
    return cast("Mapping[str, Any]", value)


def _known(data: Mapping[str, Any], keys: set[str], where: str) -> None:
    unknown = sorted(str(key) for key in data if key not in keys)
    if unknown:
        raise RequestError(
            want=f"keys {', '.join(sorted(keys))} in {where}",
            got=f"unknown key {', '.join(map(repr, unknown))}",
            do="remove the key or correct its spelling",
        )


def _one_of(value: object, options: Sequence[Name], where: str) -> Name:
    for option in options:
        if value == option:
            return option
    raise _wrong(where, "one of " + ", ".join(options), value)


def _wrong(where: str, want: str, value: object) -> RequestError:
    shown = repr(value)
    return RequestError(
        want=f"{where} to be {want}",
        got=shown if len(shown) <= 80 else shown[:77] + "...",
        do="correct the message",
    )
