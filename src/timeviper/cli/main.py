"""The program `timeviper`: its commands by name. A command loads its rooms when it is called."""

from __future__ import annotations

from typing import Annotated

import typer

import timeviper
from timeviper.cli.ask import ask
from timeviper.cli.bench import bench
from timeviper.cli.data import data
from timeviper.cli.demo import demo
from timeviper.cli.doctor import doctor
from timeviper.cli.encode import encode
from timeviper.cli.guard import GuardedGroup
from timeviper.cli.info import info
from timeviper.cli.inspect import inspect
from timeviper.cli.plan import plan
from timeviper.cli.synth import make
from timeviper.cli.train import train
from timeviper.cli.watch import watch

app = typer.Typer(
    cls=GuardedGroup,
    name="timeviper",
    help="Ask questions about hours of video on one machine.",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
synth = typer.Typer(help="Draw videos whose answers are known.", no_args_is_help=True)

app.command()(ask)
app.command()(demo)
app.command()(doctor)
app.command()(encode)
app.command()(info)
app.command()(inspect)
app.command()(plan)
app.command()(train)
app.command()(watch)
app.add_typer(bench, name="bench")
app.add_typer(data, name="data")
app.add_typer(synth, name="synth")
synth.command("make")(make)


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"timeviper {timeviper.__version__}")
        raise typer.Exit


@app.callback()
def options(
    debug: Annotated[
        bool, typer.Option("--debug", help="Show the traceback when something fails.")
    ] = False,
    version: Annotated[
        bool,
        typer.Option(
            "--version", callback=_print_version, is_eager=True, help="Print the version."
        ),
    ] = False,
) -> None:
    """Ask questions about hours of video on one machine."""


@synth.callback()
def drawn_worlds() -> None:
    """Draw videos whose answers are known."""
