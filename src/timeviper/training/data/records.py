"""Read one record of any known form into a sample: marks meet media, words become turns."""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

from timeviper.core.errors import RequestError
from timeviper.core.seeding import seed_of
from timeviper.processing.conversation import check_lesson
from timeviper.processing.messages import (
    ImagePart,
    Message,
    Part,
    Role,
    TextPart,
    VideoPart,
    read_turns,
)
from timeviper.training.data.samples import Opener, Origin, Reason, Sample, SampleError

_MARK = re.compile(r"(<image>|<video>)")
_ROLES: dict[str, Role] = {
    "system": "system",
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "assistant": "assistant",
}
# What a caption answers; which one is drawn from the caption itself.
_CAPTION_ASKS = (
    "Describe what is shown.",
    "What can be seen?",
    "Say in a few words what this shows.",
    "Write a caption.",
)


@dataclass(frozen=True, kw_only=True, eq=False)
class Record:
    """A record as it lies in its file.

    Args:
        data: the JSON object.
        origin: where it stands.
        root: folder that paths of media start from.
        openers: media that come with it, by the name that the record calls them.
    """

    data: Mapping[str, Any]
    origin: Origin
    root: Path
    openers: Mapping[str, Opener] = field(default_factory=dict[str, Opener])


# One turn before its marks met the media: role, and words or ready parts.
_Turn = tuple[Role, str | tuple[Part, ...]]


def read_record(record: Record) -> Sample:
    """Read a record into a sample.

    Args:
        record: an object with `conversations` (LLaVA, sharegpt), `messages` (chat) or `caption`;
            media under `image`, `images`, `video` or `videos`; optionally `video_start` and
            `video_end` of the part to look at, `start_seconds` and `end_seconds` of the moment
            that the answer names.

    Returns:
        The sample; its media were not opened.

    Raises:
        SampleError: anything else, with its place.
    """
    form = next((name for name in _FORMS if name in record.data), None)
    if form is None:
        raise _malformed(
            record,
            want=f"a record with {', '.join(_FORMS)}",
            got=f"keys {', '.join(map(str, record.data)) or 'none'}",
            do="write the conversation under one of these keys",
        )
    try:
        media = _Media(record)
        turns = tuple(media.meet(role, words) for role, words in _FORMS[form](record, media))
        media.check_all_met()
    except RequestError as error:
        raise SampleError.of(error, Reason.MALFORMED, record.origin) from None
    start, end = _target(record)
    sample = Sample(
        turns=turns,
        origin=record.origin,
        form=form,
        start_seconds=start,
        end_seconds=end,
        openers=record.openers,
    )
    try:
        check_lesson(turns)
    except RequestError as error:
        raise SampleError.of(error, Reason.CONVERSATION, record.origin) from None
    return sample


class _Media:
    """The media of a record, handed out in order to the marks that name them."""

    def __init__(self, record: Record) -> None:
        self.record = record
        images = _names(record, "image") + _names(record, "images")
        videos = _names(record, "video") + _names(record, "videos")
        self.given = {"<image>": len(images), "<video>": len(videos)}
        self.marks = {"<image>": 0, "<video>": 0}
        # LLaVA-Video marks its videos with <image>: without images that mark means a video.
        self.one_mark = bool(videos) and not images
        look = _look(record, len(videos))
        self.images = iter([ImagePart(source=self._place(name)) for name in images])
        self.videos = iter(
            [
                VideoPart(source=self._place(name), start_seconds=look[0], end_seconds=look[1])
                for name in videos
            ]
        )

    def meet(self, role: Role, words: str | tuple[Part, ...]) -> Message:
        """A turn whose marks are replaced by their media."""
        if isinstance(words, str):
            return Message(role=role, parts=tuple(self._parts(words)))
        return Message(role=role, parts=tuple(self._placed(part) for part in words))

    def next(self, mark: str) -> Part | None:
        """The medium that the next such mark stands for; None when none is left."""
        if mark == "<image>" and self.one_mark:
            mark = "<video>"
        self.marks[mark] += 1
        return next(self.images if mark == "<image>" else self.videos, None)

    def check_all_met(self) -> None:
        """Refuse more or fewer marks than media.

        Raises:
            SampleError: the numbers differ.
        """
        if self.marks == self.given:
            return
        found = ", ".join(
            f"{count} {mark} for {self.given[mark]} {mark.strip('<>')}s"
            for mark, count in self.marks.items()
            if count != self.given[mark]
        )
        raise SampleError(
            Reason.MARKS,
            self.record.origin,
            want="one mark for each image and video of the record",
            got=found,
            do="add or remove marks or media",
        )

    def _parts(self, words: str) -> Iterator[Part]:
        pieces = _MARK.split(words)
        for number, piece in enumerate(pieces):
            if number % 2:
                medium = self.next(piece)
                # A missing one is told once, with the numbers, by `check_all_met`.
                yield from () if medium is None else (medium,)
                continue
            # The line break between a mark and the words is of the file, not of the question.
            text = piece.removeprefix("\n") if number else piece
            text = text.removesuffix("\n") if number == len(pieces) - 3 and not pieces[-1] else text
            if text:
                yield TextPart(text)

    def _placed(self, part: Part) -> Part:
        if isinstance(part, ImagePart):
            return ImagePart(source=self._place(part.source))
        if isinstance(part, VideoPart):
            source = part.source
            return VideoPart(
                source=self._place(source) if isinstance(source, str)
                else tuple(self._place(name) for name in source),
                fps=part.fps,
                num_frames=part.num_frames,
                max_frames=part.max_frames,
                start_seconds=part.start_seconds,
                end_seconds=part.end_seconds,
            )  # fmt: skip
        return part

    def _place(self, name: str) -> str:
        if not _is_unicode(name):
            raise _malformed(
                self.record, want="names in valid Unicode", got=repr(name), do="rename the file"
            )
        if name in self.record.openers:
            return name
        return str((self.record.root / name).absolute())


def _conversations(record: Record, media: _Media) -> Iterator[_Turn]:
    """LLaVA and sharegpt: `from` and `value`."""
    for number, item in enumerate(_objects(record, "conversations")):
        who, words = item.get("from"), item.get("value")
        if who not in _ROLES or not isinstance(words, str):
            raise _malformed(
                record,
                want=f"from (one of {', '.join(_ROLES)}) and value (text) in turn {number + 1}",
                got=f"{who!r} and a value of type {type(words).__name__}",
                do="correct the turn",
            )
        yield _ROLES[who], words


def _messages(record: Record, media: _Media) -> Iterator[_Turn]:
    """Chat messages: words with marks, or parts with or without the media's names."""
    for item in _objects(record, "messages"):
        content = item.get("content")
        if isinstance(content, list):
            parts = [_with_name(p, media) for p in cast("list[object]", content)]
            item = {**item, "content": parts}
        turn = read_turns([item])[0]
        yield turn.role, turn.text if isinstance(content, str) else turn.parts


def _caption(record: Record, media: _Media) -> Iterator[_Turn]:
    """A caption of all media of the record."""
    words = record.data["caption"]
    if not isinstance(words, str):
        raise _malformed(record, want="caption as text", got=repr(words), do="correct it")
    ask = _CAPTION_ASKS[seed_of(0, "caption", ascii(words)) % len(_CAPTION_ASKS)]
    marks = "".join(mark * count for mark, count in media.given.items())
    yield "user", marks + ask
    yield "assistant", words


# key that tells the form -> its reader
_FORMS: dict[str, Callable[[Record, _Media], Iterator[_Turn]]] = {
    "conversations": _conversations,
    "messages": _messages,
    "caption": _caption,
}


def _with_name(part: object, media: _Media) -> object:
    """A part such as `{"type": "video"}` with the next name of the record's list."""
    if not isinstance(part, Mapping):
        return part
    known = cast("Mapping[str, Any]", part)
    kind = known.get("type")
    if kind not in ("image", "video") or kind in known:
        return known
    medium = media.next(f"<{kind}>")
    if not isinstance(medium, (ImagePart, VideoPart)):
        raise SampleError(
            Reason.MARKS,
            media.record.origin,
            want=f"a name for each part of type {kind}",
            got=f"{media.given[f'<{kind}>']} under {kind}s",
            do=f"add the missing {kind} or drop the part",
        )
    named: dict[str, Any] = {**known, kind: medium.source}
    if isinstance(medium, VideoPart):
        range_ = {"video_start": medium.start_seconds, "video_end": medium.end_seconds}
        named = {**{k: v for k, v in range_.items() if v is not None}, **named}
    return named


def _objects(record: Record, key: str) -> Sequence[Mapping[str, Any]]:
    items = record.data[key]
    if not isinstance(items, list) or not all(isinstance(i, Mapping) for i in cast("Any", items)):
        raise _malformed(
            record, want=f"{key} as a list of objects", got=_short(items), do="correct the record"
        )
    return cast("list[Mapping[str, Any]]", items)


def _names(record: Record, key: str) -> list[str]:
    value = record.data.get(key)
    if value is None:
        return []
    names = cast("list[object]", value) if isinstance(value, list) else [value]
    if not all(isinstance(name, str) and name and "\0" not in name for name in names):
        raise _malformed(
            record, want=f"{key} as a path or a list of paths", got=_short(value), do="correct it"
        )
    return cast("list[str]", names)


def _look(record: Record, videos: int) -> tuple[float | None, float | None]:
    """The part of its one video that a record asks to look at."""
    start, end = _seconds(record, "video_start"), _seconds(record, "video_end")
    if (start is not None or end is not None) and videos != 1:
        raise _malformed(
            record,
            want="one video for video_start and video_end",
            got=f"{videos} videos",
            do="write the range into the message's video part",
        )
    return start, end


def _target(record: Record) -> tuple[float | None, float | None]:
    start, end = _seconds(record, "start_seconds"), _seconds(record, "end_seconds")
    if (start is None) != (end is None) or (start is not None and end is not None and end < start):
        raise SampleError(
            Reason.RANGE,
            record.origin,
            want="start_seconds and end_seconds, in this order",
            got=f"{start} and {end}",
            do="correct or remove both",
        )
    return start, end


def _seconds(record: Record, key: str) -> float | None:
    value = record.data.get(key)
    if value is None:
        return None
    number = isinstance(value, (int, float)) and not isinstance(value, bool)
    if not number or not 0 <= value < math.inf:
        raise _malformed(
            record, want=f"{key} as seconds of 0 or more", got=_short(value), do="correct it"
        )
    return float(value)


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _malformed(record: Record, *, want: str, got: object, do: str) -> SampleError:
    return SampleError(Reason.MALFORMED, record.origin, want=want, got=got, do=do)


def _short(value: object) -> str:
    words = repr(value)
    return words if len(words) <= 80 else words[:77] + "..."
