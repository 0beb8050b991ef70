"""What `timeviper bench` does when its options are read: ask, render, show; with progress bars."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Generator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.markdown import Markdown

from timeviper.cli.bench_options import one_of
from timeviper.cli.terminal import counting, print_json, print_note, results
from timeviper.core.errors import RequestError

if TYPE_CHECKING:
    from timeviper.evaluation.synthreel.answerers import Answerer
    from timeviper.evaluation.synthreel.run import Plan, Step, Tell


def workers_for(asked: int | None, films_only: bool, shards: int = 1) -> int:
    """Processes that render.

    Args:
        asked: by the user, or None.
        films_only: whether nothing else is to be done meanwhile.
        shards: processes like this one that share the machine.
    """
    if asked is not None:
        return asked
    cores = _cores() // shards
    # While a model computes, two cores are left to it.
    return max(1, cores) if films_only else max(0, min(16, cores - 2))


def threads_for(asked: int | None, shards: int) -> int | None:
    """CPU threads of this process: its share of the cores where others share them.

    Args:
        asked: by the user, or None.
        shards: processes like this one.
    """
    return max(1, _cores() // shards) if asked is None and shards > 1 else asked


def engine_answerer(
    model: str, transv: str, device: str | None, threads: int | None
) -> tuple[Answerer, str]:
    """Our engine as an answerer.

    Args:
        model: name or folder.
        transv: word of `Transfer`.
        device: such as `cuda:1`, or None.
        threads: CPU threads, or None.

    Returns:
        The answerer, and where it computes in words.

    Raises:
        RequestError: an unknown word; others as `Engine.load`.
    """
    from timeviper.core.device import explain_device
    from timeviper.evaluation.synthreel.answerers import EngineAnswerer, Transfer
    from timeviper.inference.engine import Engine
    from timeviper.weights.folders import resolve

    transfer = one_of("--transv", transv, {t.value: t for t in Transfer})
    folder = resolve(model)
    engine = Engine.load(model, device=device, threads=threads)
    where = f"{engine.device} ({explain_device(engine.device)})"
    return EngineAnswerer(engine, folder, transfer=transfer), where


def endpoint_answerer(url: str, model: str, sent: tuple[int, str | None, str]) -> Answerer:
    """A server as an answerer.

    Args:
        url: its address.
        model: name of the model there.
        sent: pictures of a film, word of `Sending` or None, variable of the key.

    Raises:
        RequestError: what no server can be asked.
    """
    from timeviper.evaluation.synthreel.endpoint import Endpoint, EndpointAnswerer, Sending

    frames, video, key = sent
    sending = one_of(
        "--endpoint-video", video or "frames", {sending.value: sending for sending in Sending}
    )
    return EndpointAnswerer(
        Endpoint(url=url, model=model, frames=frames, sending=sending, key_variable=key)
    )


def ask_all(plan: Plan, answerer: Answerer, where: str) -> None:
    """Ask what was not asked yet, with a bar, and note begin and end.

    Args:
        plan: what to run.
        answerer: who answers.
        where: it computes, in words.

    Raises:
        KeyboardInterrupt: after a word on how to go on.
    """
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
        with progress("asking") as show:
            run(plan, answerer, tell)
    except KeyboardInterrupt:
        note_session(plan.out, "interrupted", {"shard": shard})
        print_note(f"every answer so far is in {plan.out}; the same command goes on from here")
        raise
    note_session(plan.out, "end", {"shard": shard})


def render_all(plan: Plan, as_json: bool) -> None:
    """Render the films of a plan and say how fast.

    Args:
        plan: with the folder of films and the number of workers.
        as_json: print one JSON object.

    Raises:
        KeyboardInterrupt: after a word on how to go on.
    """
    from timeviper.evaluation.synthreel.run import render_films

    begin = time.perf_counter()
    try:
        with progress("rendering") as tell:
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
def progress(words: str) -> Generator[Tell, None, None]:
    """A bar over films.

    Args:
        words: what is being done.

    Yields:
        What hears of every film; silent where stderr is not a terminal.
    """
    with counting() as bars:
        bar = bars.add_task(words, total=None)

        def show(step: Step) -> None:
            so_far = f" · {step.right / step.answers:.0%} right" if step.answers else ""
            description = f"{words} {step.name}{so_far}"
            bars.update(bar, completed=step.done, total=step.total, description=description)

        yield show


def show_report(out: Path, as_json: bool) -> None:
    """Write and print the report of a folder, its heat maps and its manifest.

    Args:
        out: folder of a benchmark.
        as_json: print one JSON object.

    Raises:
        RequestError: no benchmark, or one without answers.
    """
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


def _cores() -> int:
    return len(os.sched_getaffinity(0)) if sys.platform == "linux" else os.cpu_count() or 1
