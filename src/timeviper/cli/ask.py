"""`timeviper ask`: one question about one video."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer
from rich.text import Text

from timeviper.cli.following import following
from timeviper.cli.sizes import size
from timeviper.cli.terminal import messages, print_json, print_note, results
from timeviper.cli.timeline import Moment, timeline
from timeviper.core.errors import RequestError
from timeviper.processing.timestamps import format_time, parse_times

# "the fire engine" of "When does the fire engine appear?"
_THING = re.compile(r"\b((?:the|an?) [^,?]+?)(?: appears?\b| shown\b| visible\b|[,?]|$)")

if TYPE_CHECKING:
    from timeviper.inference.engine import Answer


def ask(  # noqa: PLR0913
    video: Annotated[Path, typer.Argument(help="A video file, or a folder of pictures.")],
    question: Annotated[str, typer.Argument(help='Such as "When does the cat appear?"')],
    model: Annotated[
        str, typer.Option(help="A model that ships, or a checkpoint folder.")
    ] = "tiny",
    fps: Annotated[float | None, typer.Option(help="Frames to look at each second.")] = None,
    num_frames: Annotated[
        int | None, typer.Option(help="Frames in all instead, evenly spread.")
    ] = None,
    max_frames: Annotated[int | None, typer.Option(help="Most frames to look at.")] = None,
    start: Annotated[str | None, typer.Option(help="Look from here: seconds or MM:SS.")] = None,
    end: Annotated[str | None, typer.Option(help="Look up to here: seconds or MM:SS.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Answer a question about a video."""
    begin, stop = (_seconds(name, text) for name, text in (("start", start), ("end", end)))
    # Wishes and file first: what is wrong with them shows before torch and a model are loaded.
    from timeviper.video.sampling import SamplingPolicy
    from timeviper.video.source import open_video

    SamplingPolicy(fps=fps, num_frames=num_frames, max_frames=max_frames, start=begin, end=stop)
    source = open_video(video)
    from timeviper.inference.engine import AskOptions, Engine

    options = AskOptions(
        fps=fps, num_frames=num_frames, max_frames=max_frames, start=begin, end=stop
    )
    engine = Engine.load(model, device=device)
    with following(f"reading {video.name}") as watch:
        answer = engine.ask(source, question, options, watch=watch)
    if as_json:
        print_json(answer.to_dict())
    else:
        _show(question, answer)


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


def _seconds(name: str, text: str | None) -> float | None:
    if text is None:
        return None
    times = parse_times(text)
    if len(times) != 1:
        raise RequestError(
            want=f"one time for --{name}", got=repr(text), do="write seconds (90) or MM:SS (01:30)"
        )
    return times[0]


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
