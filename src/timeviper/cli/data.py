"""`timeviper data check`: what is wrong with training data, before a GPU is spent."""

from __future__ import annotations

from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from timeviper.cli.guard import EXIT_BAD_INPUT
from timeviper.cli.terminal import counting, print_json, results
from timeviper.core.errors import ConfigError

if TYPE_CHECKING:
    from timeviper.training.data.check import Report
    from timeviper.training.data.dataset import FileDataset
    from timeviper.training.data.reading import ReadingConfig

data = typer.Typer(help="Look at training data.", no_args_is_help=True)


@data.callback()
def training_data() -> None:
    """Look at training data."""


@data.command()
def check(  # noqa: PLR0913
    files: Annotated[
        list[Path] | None,
        typer.Argument(help="JSON arrays, JSON lines or webdataset .tar shards of one data set."),
    ] = None,
    config: Annotated[
        Path | None, typer.Option(help="Check the files of a data config, looked at as it says.")
    ] = None,
    media_root: Annotated[
        Path | None,
        typer.Option(help="Folder that media paths start from; else each file's own folder."),
    ] = None,
    model: Annotated[
        str, typer.Option(help="Whose tokens are counted: a model that ships, or a folder.")
    ] = "tiny",
    budget: Annotated[
        int | None, typer.Option(help="Tokens of a pack; the model's context when not given.")
    ] = None,
    fps: Annotated[float | None, typer.Option(help="Frames to look at each second.")] = None,
    max_frames: Annotated[int | None, typer.Option(help="Most frames of a video.")] = None,
    cut: Annotated[
        bool, typer.Option("--cut", help="Look at fewer frames where a video is too long.")
    ] = False,
    durations: Annotated[
        Path | None,
        typer.Option(help="Read and write here how long media are; training opens none of them."),
    ] = None,
    workers: Annotated[int, typer.Option(min=1, help="Threads that open media.")] = 4,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Read every sample as training would, open its media, count its tokens.

    Ends with code 2 when any sample is bad.

    Example: timeviper data check videos.jsonl --media-root /data/videos --budget 16384
    """
    if config is not None:
        told = (files, media_root, budget, fps, max_frames, cut or None)
        if any(value is not None for value in told):
            raise ConfigError(
                want="either --config or files and how to look at them",
                got="both",
                do="leave out one; the config says the rest",
            )
        task = _from_config(config)
    else:
        datasets = _datasets(files, media_root)
        task = _Task(datasets, _reading(model, budget, fps, max_frames, cut=cut))
    report = _run(task, model, durations or task.durations, workers)
    record = report.to_dict() | {"model": model}
    if as_json:
        print_json(record)
    else:
        _show(report, record)
    if report.bad:
        raise typer.Exit(EXIT_BAD_INPUT)


@dataclass(frozen=True)
class _Task:
    """What is checked, and how it is looked at."""

    datasets: list[FileDataset]
    reading: ReadingConfig
    durations: Path | None = None


def _datasets(files: list[Path] | None, media_root: Path | None) -> list[FileDataset]:
    # Files first: what is wrong with their names shows before torch is loaded.
    from timeviper.training.data.dataset import FileDataset

    return [FileDataset(files or (), media_root=media_root)]


def _reading(
    model: str, budget: int | None, fps: float | None, max_frames: int | None, *, cut: bool
) -> ReadingConfig:
    from timeviper.training.data.reading import ReadingConfig, TooLong
    from timeviper.weights.loader import resolve
    from timeviper.weights.native import read_config

    context = read_config(resolve(model)).decoder.max_position_embeddings
    return ReadingConfig(
        budget=context if budget is None else budget,
        fps=fps,
        max_frames=max_frames,
        too_long=TooLong.CUT if cut else TooLong.REPORT,
    )


def _from_config(path: Path) -> _Task:
    from timeviper.training.data.config import open_datasets, read_data_config
    from timeviper.training.data.dataset import FileDataset

    config = read_data_config(path)
    found = open_datasets(config, folder=path.parent)
    known = None if config.durations is None else path.parent / config.durations
    # Reels are drawn, so that nothing can be wrong with them.
    return _Task([one for one in found if isinstance(one, FileDataset)], config.reading, known)


def _run(task: _Task, model: str, durations: Path | None, workers: int) -> Report:
    from timeviper.processing.processor import Processor
    from timeviper.training.data.check import check as look
    from timeviper.training.data.durations import Durations
    from timeviper.training.data.reading import SampleReader
    from timeviper.weights.loader import resolve

    known = Durations.load(durations) if durations and durations.exists() else Durations()
    reader = SampleReader(Processor.load(resolve(model)), task.reading, known)
    with _bar(f"checking {', '.join(one.name for one in task.datasets)}") as tell:
        report = look(task.datasets, reader, workers=workers, tell=tell)
    if durations is not None:
        known.save(durations)
    return report


@contextmanager
def _bar(words: str) -> Generator[Callable[[int, int], None]]:
    with counting() as bars:
        bar = bars.add_task(words, total=None)
        yield lambda done, total: bars.update(bar, completed=done, total=total)


def _show(report: Report, record: dict[str, Any]) -> None:
    console = results()
    facts = Table.grid(padding=(0, 2))
    facts.add_row("samples", f"{record['samples']:,}", _counts(record["formats"]))
    if len(record["datasets"]) > 1:
        facts.add_row("", "", _counts(record["datasets"]))
    facts.add_row("good", f"{record['good']:,}", _counts(record["shows"]))
    facts.add_row("bad", Text(f"{record['bad']:,}", style="bold red" if report.bad else "green"))
    packs = record["packs"]
    filled = f"of {packs['budget']:,} tokens, {packs['fill']:.1%} full"
    facts.add_row("packs", f"{packs['count']:,}", filled)
    console.print(facts)
    if report.tokens:
        console.print(_spreads(record))
    for reason, found in record["reasons"].items():
        console.print(Text(f"\n{found['count']:,} {reason}", style="bold red"))
        for example in found["examples"]:
            # Text, not markup: a file name may hold brackets.
            lines = Text(f"  {example['where']}\n", style="bold")
            for name in ("expected", "got", "do"):
                lines.append(f"    {name:<9} {example[name]}\n", style="not bold")
            console.print(lines, soft_wrap=True, end="")
    if not report.bad:
        console.print(Text("\nready to train", style="bold green"))


def _spreads(record: dict[str, Any]) -> Table:
    names = ("total", "mean", "least", "p5", "median", "p95", "most")
    table = Table("a sample has", *names, box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for what in ("tokens", "frames"):
        table.add_row(what, *(f"{record[what][name]:,}" for name in names))
    return table


def _counts(numbers: dict[str, int]) -> str:
    return ", ".join(f"{count:,} {name}" for name, count in numbers.items())
