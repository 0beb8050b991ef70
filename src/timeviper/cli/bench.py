"""`timeviper bench`: measure a model on films with known answers, here or behind an endpoint."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from timeviper.cli import bench_options as opt
from timeviper.cli.bench_runs import (
    ask_all,
    endpoint_answerer,
    engine_answerer,
    progress,
    render_all,
    show_report,
    threads_for,
    workers_for,
)
from timeviper.cli.terminal import print_json, results

bench = typer.Typer(
    help="Measure models on films whose answers are known.",
    no_args_is_help=True,
    rich_markup_mode="markdown",
)


@bench.callback()
def measured() -> None:
    """Measure models on films whose answers are known."""


@bench.command()
def synthreel(  # noqa: PLR0913
    out: opt.Out = Path("synthreel"),
    model: opt.Model = "tiny",
    tasks: opt.Tasks = opt.TASKS,
    frames: opt.Frames = "64,256",
    depths: opt.Depths = "0,0.5,1",
    seeds: opt.Seeds = 1,
    seed: opt.Seed = None,
    also: opt.Also = 0,
    film: opt.FilmSize = "320x180@1",
    haystack: opt.Haystack = "drawn",
    max_tokens: opt.MaxTokens = 64,
    control: opt.ShownPart = "none",
    endpoint: opt.Address = None,
    endpoint_model: opt.ThereModel = "",
    endpoint_frames: opt.ThereFrames = 64,
    endpoint_video: opt.ThereVideo = None,
    endpoint_key: opt.ThereKey = "OPENAI_API_KEY",
    workers: opt.Workers = None,
    films: opt.Films = None,
    keep_films: opt.KeepFilms = True,
    films_only: opt.FilmsOnly = False,
    shard: opt.Part = "1/1",
    transv: opt.Transv = "shipped",
    device: opt.Device = None,
    threads: opt.Threads = None,
    as_json: opt.AsJson = False,
) -> None:
    """Ask a model about drawn films of any length and report how often it is right.

    Every task is asked in its own words and, where it has options, once under each rotation of
    them. Ended at any moment, the same command goes on where it was.

    Tasks: what, when, at_time, first, last, ordering, count, most_frequent, absent, retrieval,
    multi_key, multi_value, reading, chain, motion, change, dense_caption, summary.

    - a first look at the model that ships: `timeviper bench synthreel`
    - the whole benchmark: `timeviper bench synthreel --tasks all --frames 64,1024,10240
      --depths 0,0.25,0.5,0.75,1 --seeds 5 --out full`
    - does it guess? `... --control blind`; can it read? `... --control oracle`
    - another model: `... --endpoint http://host:8000/v1 --endpoint-model NAME`
    - many cores, one GPU: `... --films-only` first, then `--shard 1/4` to `--shard 4/4` at once
    """
    from timeviper.evaluation.synthreel.answerers import Control
    from timeviper.evaluation.synthreel.run import Plan, Shard

    grid = opt.make_grid(
        tasks, frames, depths, seeds, seed=seed, also=also, film=film, haystack=haystack
    )
    grid = replace(grid, max_tokens=max_tokens)
    part = Shard.parse(shard)
    shown = opt.one_of("--control", control, {c.value: c for c in Control})
    plan = Plan(
        grid=grid,
        out=out,
        films=films or out / "films",
        control=shown,
        shard=part,
        workers=workers_for(workers, films_only, part.of),
        keep_films=keep_films,
    )
    if films_only:
        render_all(plan, as_json)
        return
    if endpoint is None:
        answerer, where = engine_answerer(model, transv, device, threads_for(threads, part.of))
    else:
        sent = (endpoint_frames, endpoint_video, endpoint_key)
        answerer, where = endpoint_answerer(endpoint, endpoint_model, sent), "endpoint"
    ask_all(plan, answerer, where)
    show_report(out, as_json)


@bench.command()
def export(  # noqa: PLR0913
    out: Annotated[Path, typer.Option(help="Folder of the exported task.")],
    format: Annotated[str, typer.Option(help="`lmms-eval`.")] = "lmms-eval",
    tasks: opt.Tasks = opt.TASKS,
    frames: opt.Frames = "64,256",
    depths: opt.Depths = "0,0.5,1",
    seeds: opt.Seeds = 1,
    seed: opt.Seed = None,
    also: opt.Also = 0,
    film: opt.FilmSize = "320x180@1",
    haystack: opt.Haystack = "drawn",
    workers: opt.Workers = None,
    as_json: opt.AsJson = False,
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

    opt.one_of("--format", format, {"lmms-eval": None})
    if tasks == "all":
        tasks = ",".join(task.value for task in Task if exportable(task))
    grid = opt.make_grid(
        tasks, frames, depths, seeds, seed=seed, also=also, film=film, haystack=haystack
    )
    with progress("rendering") as tell:
        written = export_lmms(grid, out, tell, workers=workers_for(workers, films_only=True))
    if as_json:
        print_json({"task": str(written), "films": len(grid.cells())})
    else:
        results().print(f"wrote {written} with {len(grid.cells())} films", soft_wrap=True)


@bench.command()
def report(
    out: Annotated[Path, typer.Argument(help="Folder of a benchmark.")],
    as_json: opt.AsJson = False,
) -> None:
    """Sum up what a folder holds: tables, heat maps and the manifest, without asking anything."""
    show_report(out, as_json)
