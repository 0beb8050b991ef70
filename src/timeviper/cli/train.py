"""`timeviper train`: a run from a JSON config, alone or by torchrun; it goes on where it was."""

from __future__ import annotations

import json
import os
import signal
import sys
import time
import warnings
from collections.abc import Callable, Generator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, cast

import typer
from rich.table import Table

from timeviper.cli.guard import EXIT_BAD_INPUT
from timeviper.cli.sizes import size
from timeviper.cli.terminal import messages, print_error, print_json, results

if TYPE_CHECKING:
    from timeviper.training.budget import Forecast
    from timeviper.training.distributed import Group
    from timeviper.training.monitor import Samples
    from timeviper.training.run import TrainConfig
    from timeviper.training.stages import Stage

_SAME_WISH_SECONDS = 5.0


def train(  # noqa: PLR0913
    config: Annotated[Path, typer.Argument(help="JSON file of the run; see docs/training.md.")],
    changes: Annotated[
        list[str] | None,
        typer.Option("--set", help="Change a setting: stages.0.steps=100, folder=out. Repeat it."),
    ] = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="Show what would learn and what it takes; stop.")
    ] = False,
    processes: Annotated[
        int, typer.Option(min=1, help="Processes that --dry-run reckons with.")
    ] = 1,
    minutes: Annotated[
        float | None, typer.Option(min=0, help="Save and stop after so long.")
    ] = None,
    device: Annotated[
        str | None, typer.Option(help="cpu or cuda; the GPU where there is one.")
    ] = None,
    project: Annotated[
        str | None, typer.Option(help="Project of Weights & Biases to log to as well.")
    ] = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="With --dry-run or at the end, print one JSON object.")
    ] = False,
) -> None:
    """Train the stages of a config, one after the other.

    The same command again goes on from the last checkpoint, also with another number of
    processes; a finished stage is not repeated. Each leaves its model in FOLDER/NAME/model.
    Ctrl-C saves first.

    Examples:
      timeviper train run.json --dry-run --processes 8

      timeviper train run.json --set stages.0.steps=100 --minutes 30

      torchrun --nproc-per-node 8 -m timeviper train run.json
    """
    began = time.monotonic()
    data = apply(read_json(config), changes or [])
    from timeviper.core.config import from_dict
    from timeviper.training.run import TrainConfig

    settings = from_dict(TrainConfig, data, where=str(config))
    if dry_run:
        _dry_run(settings, config.parent, processes, as_json=as_json)
        return
    from timeviper.training.distributed import join

    # Told once a block: what it returns includes a view, which nothing changes in place.
    warnings.filterwarnings("ignore", "FSDP2-wrapped module", UserWarning)
    group = join(device)
    end = float("inf") if minutes is None else began + 60 * minutes
    with _asked_to_stop() as asked, _ends_with_its_peers():
        done = _train(
            settings,
            config.parent,
            group,
            project=project,
            stopping=lambda: asked() or time.monotonic() > end,
        )
    if group.main:
        record = {"complete": done, "seconds": round(time.monotonic() - began, 1)}
        print_json(record) if as_json else messages().print(
            "complete" if done else "stopped; the same command goes on from here"
        )
    group.leave()


@contextmanager
def _ends_with_its_peers() -> Generator[None]:
    """Tell that another process of the run was lost, and end."""
    from timeviper.training.distributed import PeerError

    try:
        yield
    except PeerError as error:
        print_error(error)
        sys.stdout.flush()
        sys.stderr.flush()
        # Threads of gloo that lost their peer may abort a process that ends in the usual way.
        os._exit(EXIT_BAD_INPUT)


def read_json(path: Path) -> dict[str, Any]:
    """The object in a JSON file.

    Raises:
        ConfigError: no such file, or another content.
    """
    from timeviper.core.errors import ConfigError

    try:
        value: object = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(
            want=f"{path} to be a JSON file", got=error, do="correct the path or the file"
        ) from None
    if not isinstance(value, dict):
        raise ConfigError(want=f"an object in {path}", got=value, do="see docs/training.md")
    return cast("dict[str, Any]", value)


def apply(data: dict[str, Any], changes: list[str]) -> dict[str, Any]:
    """A config with settings changed.

    Args:
        data: JSON values.
        changes: `path=value`; a path is names and list places with dots between them, a value
            is JSON, or else a text.

    Returns:
        A changed copy.

    Raises:
        ConfigError: a change without `=`, or a path that leads nowhere.
    """
    from timeviper.core.errors import ConfigError

    data = json.loads(json.dumps(data))
    for change in changes:
        path, sign, text = change.partition("=")
        *way, last = path.split(".")
        try:
            if not (sign and last):
                raise KeyError(change)
            place: Any = data
            for name in way:
                place = place[int(name)] if isinstance(place, list) else place[name]
            if isinstance(place, list):
                cast("list[Any]", place)[int(last)] = _value(text)
            else:
                place[last] = _value(text)
        except (LookupError, ValueError, TypeError):
            raise ConfigError(
                want="--set PATH=VALUE with a path that is there, as in stages.0.steps=100",
                got=repr(change),
                do="correct the path; a new key may only be its last part",
            ) from None
    return data


def _value(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError:
        return text


def _train(
    config: TrainConfig,
    home: Path,
    group: Group,
    *,
    project: str | None,
    stopping: Callable[[], bool],
) -> bool:
    from timeviper.training.monitor import Monitor
    from timeviper.training.run import run, stage_folder

    opened: list[Monitor] = []

    def watch(stage: Stage, samples: Samples) -> Callable[[dict[str, float]], None]:
        if not group.main:
            return lambda line: None
        _show_stage(config, home, stage, group.ranks)
        folder = stage_folder(config, home, stage) / "curves"

        def say(words: str) -> None:
            # Not markup: an answer may hold brackets.
            messages().print(words, soft_wrap=True, markup=False)

        monitor = Monitor(
            say,
            folder=folder,
            project=project,
            samples=samples,
            sample_every=config.sample_every,
        )
        opened.append(monitor)
        return monitor

    try:
        return run(config, home=home, group=group, tell=watch, stopping=stopping)
    finally:
        for monitor in opened:
            monitor.close()


@contextmanager
def _asked_to_stop() -> Generator[Callable[[], bool]]:
    """Let Ctrl-C, or a scheduler's SIGTERM, end the run after a checkpoint; again, at once."""
    asked: list[float] = []

    def ask(number: int, frame: object) -> None:
        # torchrun passes on the Ctrl-C that every process has already had.
        if asked and time.monotonic() - asked[0] > _SAME_WISH_SECONDS:
            raise KeyboardInterrupt
        if not asked:
            messages().print("stopping after the next checkpoint; once more to stop at once")
        asked.append(time.monotonic())

    before = {one: signal.signal(one, ask) for one in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield lambda: bool(asked)
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _forecast(config: TrainConfig, home: Path, stage: Stage, ranks: int) -> Forecast:
    from timeviper.training.budget import forecast
    from timeviper.training.run import located
    from timeviper.training.start import start_config

    model = start_config(located(config.start, home))
    return forecast(model, stage, config, ranks=ranks)


def _show_stage(config: TrainConfig, home: Path, stage: Stage, ranks: int) -> None:
    messages().print(_table(_forecast(config, home, stage, ranks)))


def _dry_run(config: TrainConfig, home: Path, ranks: int, *, as_json: bool) -> None:
    found = [_forecast(config, home, stage, ranks) for stage in config.stages]
    if as_json:
        print_json({"stages": [asdict(one) | {"total_bytes": one.total_bytes} for one in found]})
        return
    for one in found:
        results().print(_table(one))
        results().print(_costs(one, ranks))


def _table(one: Forecast) -> Table:
    table = Table(title=f"stage {one.stage}", title_justify="left", box=None, padding=(0, 2))
    table.add_column("part")
    for name in ("parameters", "trained", "rate", "decay"):
        table.add_column(name, justify="right")
    for row in one.rows:
        cells = (f"{row.rate:.0e}", f"{row.decay:g}") if row.trained else ("", "")
        learns = row.optimizer if row.trained else "frozen"
        style = "bold" if row.trained else "dim"
        table.add_row(row.part.value, f"{row.parameters:,}", learns, *cells, style=style)
    return table


def _costs(one: Forecast, ranks: int) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_row("  parameters", f"{one.parameters:,}", f"of which {one.trained:,} learn")
    table.add_row("  tokens a step", f"{one.tokens_per_step:,}", f"at most, {ranks} processes")
    table.add_row("  tokens", f"{one.tokens:,}", "at most")
    table.add_row("  memory of a process", size(one.total_bytes), "roughly, of which")
    for name, count in (
        ("weights", one.weight_bytes),
        ("gradients", one.gradient_bytes),
        ("moments", one.moment_bytes),
        ("activations", one.activation_bytes),
    ):
        table.add_row(f"    {name}", size(count), "")
    return table
