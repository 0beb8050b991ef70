"""`timeviper ask`: questions about one video, or about what was encoded of it."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from timeviper.cli.following import following
from timeviper.cli.looking import (
    CACHE_GB,
    AsJson,
    Cache,
    CacheGb,
    Degrading,
    Device,
    End,
    Fps,
    Looking,
    MaxFrames,
    Model,
    NoTransv,
    NumFrames,
    PrecisionName,
    Start,
    engine_loader,
    open_store,
)
from timeviper.cli.sizes import size
from timeviper.cli.terminal import messages, print_json, print_note, results
from timeviper.cli.timeline import Moment, timeline
from timeviper.core.errors import RequestError
from timeviper.inference.degrade import Degrade
from timeviper.inference.files.sealed import SUFFIX, is_state_file
from timeviper.processing.messages import VideoPart
from timeviper.processing.timestamps import format_time, parse_times

# "the fire engine" of "When does the fire engine appear?"
_THING = re.compile(r"\b((?:the|an?) [^,?]+?)(?: appears?\b| shown\b| visible\b|[,?]|$)")
# Each question takes what waits to be ranked along, a copy of its own.
_MOST_AT_ONCE = 8

if TYPE_CHECKING:
    from timeviper.inference.engine import Answer, AskOptions, EncodedVideo, Engine, Watch
    from timeviper.inference.store import Store
    from timeviper.video.base import VideoSource


@dataclass(frozen=True, kw_only=True)
class _Look:
    """A video, how to look at it, and where it may have been kept."""

    source: VideoSource
    options: AskOptions
    store: Store | None


def ask(  # noqa: PLR0913
    video: Annotated[
        Path,
        typer.Argument(
            help="A video file, a folder of pictures, or a state file of `timeviper encode`."
        ),
    ],
    questions: Annotated[
        list[str], typer.Argument(help='Such as "When does the cat appear?"; one or several.')
    ],
    model: Model = "tiny",
    fps: Fps = None,
    num_frames: NumFrames = None,
    max_frames: MaxFrames = None,
    start: Start = None,
    end: End = None,
    device: Device = None,
    precision: PrecisionName = None,
    degrade: Degrading = Degrade.SAME_ANSWERS,
    no_transv: NoTransv = False,
    cache: Cache = None,
    cache_gb: CacheGb = CACHE_GB,
    as_json: AsJson = False,
) -> None:
    """Answer questions about a video, or about one that was encoded before.

    A state file answers at once, as the video itself would. `--cache` keeps what was read, so
    that the next question about the same video need not read it again.
    """
    # Wishes and file first: what is wrong with them shows before torch and a model are loaded.
    looking = Looking.parse(
        fps=fps, num_frames=num_frames, max_frames=max_frames, start=start, end=end
    )
    load = engine_loader(
        model, device=device, precision=precision, degrade=degrade, transv=not no_transv
    )
    # By its content; by its name only where the content is that of no state file.
    if is_state_file(video) or video.suffix == SUFFIX:
        _check_plain(video, looking, cache)
        # Length, seal and version, before a model is loaded.
        from timeviper.inference.state_info import read_info

        read_info(video)
        answers = _ask_file(video, questions, load())
    else:
        from timeviper.video.source import open_video

        source, store = open_video(video), open_store(cache, cache_gb)
        engine = load()
        with following(f"reading {video.name}") as watch:
            answers = _ask_video(
                engine,
                questions,
                _Look(source=source, options=looking.options(), store=store),
                watch,
            )
    _tell(questions, answers, as_json=as_json)


def _ask_file(path: Path, questions: Sequence[str], engine: Engine) -> list[Answer]:
    from timeviper.inference.state_file import load_state

    encoded = load_state(path, engine.encoder)
    return _asked(engine, encoded, questions)


def _ask_video(engine: Engine, questions: Sequence[str], look: _Look, watch: Watch) -> list[Answer]:
    """As `Engine.ask` one by one, reading the video once."""
    if look.store is None and len(questions) == 1:
        return [engine.ask(look.source, questions[0], look.options, watch=watch)]
    for question in questions:
        # What is wrong with one shows before the video is read.
        plan = engine.processor.plan_question(question, video=VideoPart(source="video"))
        engine.encoder.suffix(plan, duration_seconds=0.0, num_frames=0)
    if look.store is None:
        encoded, found = engine.encode(look.source, look.options, watch=watch), False
    else:
        fetched = look.store.encode(engine, look.source, look.options, watch=watch)
        encoded, found = fetched.encoded, fetched.found
    answers = _asked(engine, encoded, questions)
    if found:
        return answers
    return [replace(answers[0], timing=encoded.timing + answers[0].timing), *answers[1:]]


def _asked(engine: Engine, encoded: EncodedVideo, questions: Sequence[str]) -> list[Answer]:
    """Answers that are written together, as many at once as memory is sure to bear."""
    starts = range(0, len(questions), _MOST_AT_ONCE)
    parts = [questions[start : start + _MOST_AT_ONCE] for start in starts]
    return [answer for part in parts for answer in engine.ask_many(encoded, part)]


def _check_plain(path: Path, looking: Looking, cache: Path | None) -> None:
    given = (*looking.given, *(("--cache",) if cache is not None else ()))
    if given:
        raise RequestError(
            want="no options of how to look at a video that is encoded already",
            got=f"{', '.join(given)} for {path}",
            do="leave them out, or encode the video again with them",
        )


def _tell(questions: Sequence[str], answers: Sequence[Answer], *, as_json: bool) -> None:
    pairs = list(zip(questions, answers, strict=True))
    if not as_json:
        for question, answer in pairs:
            _show(question, answer)
    elif len(pairs) == 1:
        print_json(answers[0].to_dict())
    else:
        print_json({"answers": [{"question": q} | answer.to_dict() for q, answer in pairs]})


def moment_of(question: str, answer: Answer) -> Moment | None:
    """The part of the video that an answer speaks of.

    Args:
        question: as asked.
        answer: as answered.

    Returns:
        The interval that the answer names, else the single time that the question names, else None.
    """
    label = _subject(question, answer)
    if answer.start_seconds is not None and answer.end_seconds is not None:
        return Moment(
            label=label, start_seconds=answer.start_seconds, end_seconds=answer.end_seconds
        )
    named = [t for t in parse_times(question) if t < answer.duration_seconds]
    if len(named) != 1:
        return None
    return Moment(label=label, start_seconds=named[0], end_seconds=named[0] + 1)


def _subject(question: str, answer: Answer) -> str:
    """A few words for a row: the thing asked about, or the thing that was answered."""
    thing = _THING.search(question)
    if answer.start_seconds is not None:
        return thing.group(1) if thing else question.strip().rstrip("?")
    return printable(answer.text).rstrip(".")


def describe(answer: Answer) -> str:
    """Where the time and the memory of an answer went, in one line.

    Args:
        answer: with its timing.

    Returns:
        Frames, length, seconds of each stage, peak memory.
    """
    stages = ", ".join(f"{name} {spent:.2f} s" for name, spent in answer.timing.to_dict().items())
    seen = f"{answer.frames:,} frames of {format_time(answer.duration_seconds)}"
    return f"{seen} · {stages} · peak {size(answer.peak_bytes)}"


def printable(text: str) -> str:
    """The text without characters that could steer a terminal.

    Args:
        text: a model's words.

    Returns:
        The same words; each control character is shown as U+FFFD.
    """
    return "".join(c if c.isprintable() or c == "\n" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _show(question: str, answer: Answer) -> None:
    console = results()
    console.print(Text(printable(answer.text), style="bold"), soft_wrap=True)
    moment = moment_of(question, answer)
    # For a person only: a pipe gets the words and nothing else.
    if console.is_terminal and moment is not None:
        console.print()
        console.print(timeline(answer.duration_seconds, [moment]))
    messages().print(Text(describe(answer), style="dim"), soft_wrap=True)
    for note in answer.notes:
        print_note(note)
