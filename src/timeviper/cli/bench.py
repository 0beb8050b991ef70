"""`timeviper bench`: measure a model on films with known answers, here or behind an endpoint."""

from __future__ import annotations

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, TypeVar

import typer
from rich.markdown import Markdown
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from timeviper.cli.terminal import messages, print_json, print_note, results
from timeviper.core.errors import RequestError

if TYPE_CHECKING:
    from timeviper.evaluation.synthreel.answerers import Answerer
    from timeviper.evaluation.synthreel.grid import Grid
    from timeviper.evaluation.synthreel.run import Plan, Step, Tell

T = TypeVar("T")
TASKS = "retrieval,at_time,when,first,ordering,count"
bench = typer.Typer(
    help="Measure models on films whose answers are known.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)

Out = Annotated[Path, typer.Option(help="Folder of answers and report; the same command goes on.")]
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
AsJson = Annotated[bool, typer.Option("--json", help="Print one JSON object.")]


@bench.callback()
def measured() -> None:
    """Measure models on films whose answers are known."""


@bench.command()
def synthreel(  # noqa: PLR0913
    out: Out = Path("synthreel"),
    model: Annotated[
        str, typer.Option(help="A model that ships, or a checkpoint folder.")
    ] = "tiny",
    tasks: Tasks = TASKS,
    frames: Frames = "64,256",
    depths: Depths = "0,0.5,1",
    seeds: Seeds = 1,
    seed: Seed = None,
    also: Also = 0,
    film: FilmSize = "320x180@1",
    haystack: Haystack = "drawn",
    max_tokens: MaxTokens = 64,
    control: Annotated[
        str, typer.Option(help="`blind` shows nothing, `oracle` only the moment asked about.")
    ] = "none",
    endpoint: Annotated[
        str | None,
        typer.Option(help="Ask an OpenAI-compatible server, such as http://host:8000/v1."),
    ] = None,
    endpoint_model: Annotated[str, typer.Option(help="Name of the model there.")] = "",
    endpoint_frames: Annotated[int, typer.Option(help="Pictures sent of each film, evenly.")] = 64,
    endpoint_video: Annotated[
        str | None,
        typer.Option(help="Send the film as `file` (a path the server reads) or `data`."),
    ] = None,
    endpoint_key: Annotated[
        str, typer.Option(help="Environment variable that holds the key.")
    ] = "OPENAI_API_KEY",
    workers: Annotated[
        int | None, typer.Option(help="Processes that render films; as many as cores allow.")
    ] = None,
    films: Annotated[
        Path | None, typer.Option(help="Folder of films, to share between benchmarks.")
    ] = None,
    keep_films: Annotated[
        bool, typer.Option(help="Keep films, or remove each when it has been asked.")
    ] = True,
    films_only: Annotated[bool, typer.Option(help="Render the films and ask nothing.")] = False,
    shard: Annotated[
        str, typer.Option(help="I/N: the I-th of N parts, for N processes with one --out.")
    ] = "1/1",
    transv: Annotated[
        str, typer.Option(help="`off` drops no vision tokens, `drop` drops without transfer.")
    ] = "shipped",
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:N.")] = None,
    threads: Annotated[
        int | None, typer.Option(help="CPU threads; one a core if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Ask a model about drawn films of any length and report how often it is right.

    Every task is asked in its own words and, where it has options, once under each rotation of
    them. Ended at any moment, the same command goes on where it was.

    - a first look at the model that ships: `timeviper bench synthreel`
    - the whole benchmark: `timeviper bench synthreel --tasks all --frames 64,1024,10240
      --depths 0,0.25,0.5,0.75,1 --seeds 5 --out full`
    - does it guess? `... --control blind`; can it read? `... --control oracle`
    - another model: `... --endpoint http://host:8000/v1 --endpoint-model NAME`
    - many cores, one GPU: `... --films-only` first, then `--shard 1/4` to `--shard 4/4` at once
    """
    from timeviper.evaluation.synthreel.answerers import Control
    from timeviper.evaluation.synthreel.run import Plan, Shard

    grid = make_grid(
        tasks, frames, depths, seeds, seed=seed, also=also, film=film, haystack=haystack
    )
    grid = replace(grid, max_tokens=max_tokens)
    shown = one_of("--control", control, {c.value: c for c in Control})
    plan = Plan(
        grid=grid,
        out=out,
        films=films or out / "films",
        control=shown,
        shard=Shard.parse(shard),
        workers=_workers(workers, films_only),
        keep_films=keep_films,
    )
    if films_only:
        _render(plan, as_json)
        return
    if endpoint is None:
        answerer, where = _engine(model, transv, device, threads)
    else:
        sent = (endpoint_frames, endpoint_video, endpoint_key)
        answerer, where = _endpoint(endpoint, endpoint_model, sent), "endpoint"
    _ask(plan, answerer, where)
    _show(out, as_json)


@bench.command()
def export(  # noqa: PLR0913
    out: Annotated[Path, typer.Option(help="Folder of the exported task.")],
    format: Annotated[str, typer.Option(help="`lmms-eval`.")] = "lmms-eval",
    tasks: Tasks = TASKS,
    frames: Frames = "64,256",
    depths: Depths = "0,0.5,1",
    seeds: Seeds = 1,
    seed: Seed = None,
    also: Also = 0,
    film: FilmSize = "320x180@1",
    haystack: Haystack = "drawn",
    workers: Annotated[
        int | None, typer.Option(help="Processes that render films; one a core if not given.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Write the benchmark as a task that another harness runs on any model it knows.

    The folder holds films, questions with every rotation of their options, and the task's yaml
    with its functions. Nothing is downloaded.

    - `timeviper bench export --out task --frames 64,1024`, then `lmms_eval --include_path task
      --tasks synthreel --model NAME`
    """
    from timeviper.evaluation.synthreel.lmms import export as export_lmms
    from timeviper.evaluation.synthreel.lmms import exportable
    from timeviper.synth.tasks import Task

    one_of("--format", format, {"lmms-eval": None})
    if tasks == "all":
        tasks = ",".join(task.value for task in Task if exportable(task))
    grid = make_grid(
        tasks, frames, depths, seeds, seed=seed, also=also, film=film, haystack=haystack
    )
    with _progress("rendering") as tell:
        written = export_lmms(grid, out, tell, workers=_workers(workers, films_only=True))
    if as_json:
        print_json({"task": str(written), "films": len(grid.cells())})
    else:
        results().print(f"wrote {written} with {len(grid.cells())} films", soft_wrap=True)


@bench.command()
def report(
    out: Annotated[Path, typer.Argument(help="Folder of a benchmark.")],
    as_json: AsJson = False,
) -> None:
    """Sum up what a folder holds: tables, heat maps and the manifest, without asking anything."""
    _show(out, as_json)


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


def _workers(asked: int | None, films_only: bool) -> int:
    from timeviper.video.clips import available_cores

    if asked is not None:
        return asked
    # While a model computes, two cores are left to it.
    return available_cores() if films_only else max(0, min(16, available_cores() - 2))


def _engine(
    model: str, transv: str, device: str | None, threads: int | None
) -> tuple[Answerer, str]:
    from timeviper.core.device import explain_device
    from timeviper.evaluation.synthreel.answerers import EngineAnswerer, Transfer
    from timeviper.inference.engine import Engine
    from timeviper.weights.folders import resolve

    transfer = one_of("--transv", transv, {t.value: t for t in Transfer})
    folder = resolve(model)
    engine = Engine.load(model, device=device, threads=threads)
    where = f"{engine.device} ({explain_device(engine.device)})"
    return EngineAnswerer(engine, folder, transfer=transfer), where


def _endpoint(url: str, model: str, sent: tuple[int, str | None, str]) -> Answerer:
    from timeviper.evaluation.synthreel.endpoint import Endpoint, EndpointAnswerer, Sending

    frames, video, key = sent
    sending = one_of(
        "--endpoint-video", video or "frames", {sending.value: sending for sending in Sending}
    )
    return EndpointAnswerer(
        Endpoint(url=url, model=model, frames=frames, sending=sending, key_variable=key)
    )


def _ask(plan: Plan, answerer: Answerer, where: str) -> None:
    from timeviper.evaluation.synthreel.films import make_folder
    from timeviper.evaluation.synthreel.manifest import machine, note_session
    from timeviper.evaluation.synthreel.run import run

    shard = f"{plan.shard.number}/{plan.shard.of}"
    make_folder(plan.out)
    begun = False

    def tell(step: Step) -> None:
        nonlocal begun
        if not begun:
            begun = True
            note_session(plan.out, "begin", {"shard": shard, **machine(where)})
        show(step)

    try:
        with _progress("asking") as show:
            run(plan, answerer, tell)
    except KeyboardInterrupt:
        note_session(plan.out, "interrupted", {"shard": shard})
        print_note(f"every answer so far is in {plan.out}; the same command goes on from here")
        raise
    note_session(plan.out, "end", {"shard": shard})


def _render(plan: Plan, as_json: bool) -> None:
    import time

    from timeviper.evaluation.synthreel.run import render_films

    begin = time.perf_counter()
    try:
        with _progress("rendering") as tell:
            frames = render_films(plan, tell)
    except KeyboardInterrupt:
        print_note(f"films so far are in {plan.films}; the same command goes on from here")
        raise
    seconds = time.perf_counter() - begin
    rate = round(frames / seconds) if frames else 0
    if as_json:
        print_json({"films": str(plan.films), "frames": frames, "frames_per_second": rate})
    else:
        results().print(f"{frames:,} new frames in {plan.films}, {rate:,} a second")


@contextmanager
def _progress(words: str) -> Generator[Tell, None, None]:
    console = messages()
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn())
    with Progress(
        *columns,
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    ) as bars:
        bar = bars.add_task(words, total=None)

        def show(step: Step) -> None:
            so_far = f" · {step.right / step.answers:.0%} right" if step.answers else ""
            description = f"{words} {step.name}{so_far}"
            bars.update(bar, completed=step.done, total=step.total, description=description)

        yield show


def _show(out: Path, as_json: bool) -> None:
    from timeviper.evaluation.synthreel.manifest import complete, read_grid
    from timeviper.evaluation.synthreel.report import table_markdown, write_report
    from timeviper.evaluation.synthreel.rows import read_rows
    from timeviper.evaluation.synthreel.run import answer_files

    grid = read_grid(out)
    rows = read_rows(answer_files(out))
    summed = write_report(out, rows, grid.depths)
    complete(out, rows)
    pictures = _heatmaps(out, summed)
    if as_json:
        print_json({"out": str(out), "heatmaps": pictures, **summed})
        return
    results().print(Markdown(table_markdown(summed)))
    results().print(f"answers, tables and manifest are in {out}", soft_wrap=True)


def _heatmaps(out: Path, summed: dict[str, Any]) -> Sequence[str]:
    from timeviper.evaluation.synthreel.heatmap import draw_heatmap, heat_cells

    written: list[str] = []
    for task in (None, *summed["tasks"]):
        cells = heat_cells(summed, task)
        if not cells:
            continue
        path = out / ("heatmap.png" if task is None else f"heatmap-{task}.png")
        try:
            draw_heatmap(path, cells, title=task or "all tasks with a moment")
        except RequestError as error:
            print_note(f"no heat maps: expected {error.want}, got {error.got}; {error.do}")
            return written
        written.append(str(path))
    return written
