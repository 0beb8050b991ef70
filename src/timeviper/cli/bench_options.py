"""Options of `timeviper bench` by name, and how their words become a grid."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer

from timeviper.core.errors import RequestError

if TYPE_CHECKING:
    from timeviper.evaluation.synthreel.grid import Grid

T = TypeVar("T")
TASKS = "retrieval,at_time,when,first,ordering,count"

Out = Annotated[Path, typer.Option(help="Folder of answers and report; the same command goes on.")]
Model = Annotated[str, typer.Option(help="A model that ships, or a checkpoint folder.")]
Tasks = Annotated[str, typer.Option(help="Tasks separated by commas, or `all`.")]
Frames = Annotated[str, typer.Option(help="Lengths in frames, one a second: 16 to 14400.")]
Depths = Annotated[str, typer.Option(help="Where the moment asked about lies: 0 start, 1 end.")]
Seeds = Annotated[int, typer.Option(help="Films of each task, length and depth.")]
Seed = Annotated[int | None, typer.Option(help="Another seed is another benchmark of this kind.")]
Also = Annotated[int, typer.Option(help="Further questions about each film; they cost no film.")]
FilmSize = Annotated[str, typer.Option("--film", help="WIDTHxHEIGHT@FPS of the films.")]
Haystack = Annotated[str, typer.Option(help="`drawn`, `footage` or `footage:FOLDER`: real clips.")]
MaxTokens = Annotated[
    int, typer.Option(help="Most tokens of an answer; captions may be six times as long.")
]
ShownPart = Annotated[
    str,
    typer.Option("--control", help="`blind` shows nothing, `oracle` only the moment asked about."),
]
Address = Annotated[
    str | None,
    typer.Option("--endpoint", help="Ask an OpenAI-compatible server, as http://host:8000/v1."),
]
ThereModel = Annotated[str, typer.Option("--endpoint-model", help="Name of the model there.")]
ThereFrames = Annotated[
    int, typer.Option("--endpoint-frames", help="Pictures sent of each film, evenly.")
]
ThereVideo = Annotated[
    str | None,
    typer.Option(
        "--endpoint-video", help="Send the film as `file` (the server reads it) or `data`."
    ),
]
ThereKey = Annotated[
    str, typer.Option("--endpoint-key", help="Environment variable that holds the key.")
]
Workers = Annotated[
    int | None, typer.Option(help="Processes that render films; as many as cores allow.")
]
Films = Annotated[Path | None, typer.Option(help="Folder of films, to share between benchmarks.")]
KeepFilms = Annotated[bool, typer.Option(help="Keep films, or remove each when it was asked.")]
FilmsOnly = Annotated[bool, typer.Option(help="Render the films and ask nothing.")]
Part = Annotated[
    str,
    typer.Option("--shard", help="I/N: the I-th of N parts, for N processes with one --out."),
]
Transv = Annotated[
    str, typer.Option(help="`off` drops no vision tokens, `drop` drops without transfer.")
]
Device = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")]
Threads = Annotated[int | None, typer.Option(help="CPU threads; one a core otherwise.")]
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


def make_grid(  # noqa: PLR0913
    tasks: str,
    frames: str,
    depths: str,
    seeds: int,
    *,
    seed: int | None,
    also: int,
    film: str,
    haystack: str,
) -> Grid:
    """The grid that the options of the command line describe.

    Args:
        tasks: names separated by commas.
        frames: whole numbers separated by commas.
        depths: numbers separated by commas.
        seeds: films a cell.
        seed: of the worlds, or None for the benchmark's own.
        also: further questions a film.
        film: `WIDTHxHEIGHT@FPS`.
        haystack: `drawn` or `footage:FOLDER`.

    Raises:
        RequestError: an option that cannot be read.
        ConfigError: values that no grid has.
    """
    from timeviper.evaluation.synthreel.grid import SEED, Grid, parse_tasks

    return Grid(
        tasks=parse_tasks(_split(tasks)),
        frames=_numbers("--frames", frames, int),
        depths=_numbers("--depths", depths, float),
        seeds=seeds,
        seed=SEED if seed is None else seed,
        also=also,
        film=_film(film),
        haystack=haystack,
    )


def one_of(option: str, word: str, known: dict[str, T]) -> T:
    """What a word of an option stands for.

    Raises:
        RequestError: a word that stands for nothing.
    """
    if word not in known:
        raise RequestError(
            want=f"{option} to be one of {', '.join(known)}", got=repr(word), do="name one of these"
        )
    return known[word]


def _split(text: str) -> list[str]:
    return [word.strip() for word in text.split(",") if word.strip()]


def _numbers(option: str, text: str, kind: Callable[[str], T]) -> tuple[T, ...]:
    try:
        return tuple(kind(word) for word in _split(text))
    except ValueError:
        raise RequestError(
            want=f"numbers separated by commas for {option}", got=repr(text), do="correct them"
        ) from None


def _film(text: str) -> Any:
    from timeviper.synth.render import Film

    size, _, fps = text.partition("@")
    width, _, height = size.partition("x")
    if not (width.isdecimal() and height.isdecimal() and (fps or "1").isdecimal()):
        raise RequestError(
            want="a film as WIDTHxHEIGHT@FPS, such as 320x180@1",
            got=repr(text),
            do="correct --film",
        )
    return Film(width=int(width), height=int(height), fps=int(fps or 1))
