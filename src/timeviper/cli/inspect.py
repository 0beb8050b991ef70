"""`timeviper inspect`: what a model is made of and what it costs, without loading weights."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from timeviper.cli.looking import precision_called
from timeviper.cli.sizes import size
from timeviper.cli.terminal import print_json, results

if TYPE_CHECKING:
    from timeviper.model.config import TimeViperConfig

_STYLES = {"M": "cyan", "*": "bold magenta", "-": "dim"}


def inspect(
    model: Annotated[
        str, typer.Argument(help="A model that ships, a preset, or a checkpoint folder.")
    ],
    frames: Annotated[int, typer.Option(min=0, help="Frames of the video to reckon with.")] = 3600,
    precision: Annotated[
        str, typer.Option(help="Number format: float32, bfloat16, float16 or fp8.")
    ] = "bfloat16",
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show parameters by part, the layer map, and bytes of weights, cache and state."""
    config, numbers = read_model(model), precision_called(precision)
    # After the cheap checks: this builds modules and loads torch.
    from timeviper.cli.survey import survey

    record = survey(config, frames=frames, precision=numbers)
    if as_json:
        print_json(record)
    else:
        _show(record)


def read_model(name: str) -> TimeViperConfig:
    """The config of a model that ships, a preset or a checkpoint folder; no weight is read.

    Args:
        name: a bundled model's or preset's name, or a folder with a `config.json`.

    Returns:
        The model's config.

    Raises:
        ConfigError: no such preset, or a config with an unknown or wrong value.
        CheckpointError: the folder holds no readable config.
    """
    from timeviper.model.presets import PRESETS, preset
    from timeviper.weights.folders import bundled
    from timeviper.weights.native import read_config

    # As `ask --model` reads a name: what ships goes before a preset of the same name.
    if name in bundled():
        return read_config(bundled()[name])
    if name in PRESETS or not Path(name).exists():
        return preset(name)
    return read_config(Path(name))


def _show(record: dict[str, Any]) -> None:
    console = results()
    table = Table(title=record["name"], title_justify="left", box=None, padding=(0, 2))
    table.add_column("part")
    table.add_column("parameters", justify="right")
    for part, count in record["parameters"].items():
        table.add_row(part, f"{count:,}", style="bold" if part == "total" else "")
    console.print(table)
    console.print(f"\n  of which the decoder alone: {record['decoder_parameters']:,}\n")
    console.print(_layer_map(record), soft_wrap=True)
    console.print()
    console.print(_bytes_table(record))


def _layer_map(record: dict[str, Any]) -> Text:
    text = Text("layers  ")
    for letter in record["layers"]:
        text.append(letter, style=_STYLES[letter])
    text.append("\n        M Mamba-2   * attention   - MLP", style="dim")
    for site in record["sites"]:
        line = f"\n        {'^':>{site['layer'] + 1}} layer {site['layer']}: {site['policy']}, "
        line += f"{site['drop_rate']:.0%} of the vision tokens go"
        text.append(line + (", their content is transferred" if site["transfer"] else ""))
    return text


def _bytes_table(record: dict[str, Any]) -> Table:
    video = record["video"]
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    rows = {
        f"weights ({record['precision']})": record["weight_bytes"],
        "keys and values of one token": record["kv_bytes_per_token"],
        "Mamba state, at any length": record["state_bytes"],
        "": None,
        f"a video of {video['frames']:,} frames ({video['vision_tokens']:,} vision tokens)": None,
        "  keys and values, with room for a question": video["keys_values_bytes"],
        "  Mamba state": video["mamba_state_bytes"],
        "  dropped tokens that wait for a question": video["waiting_bytes"],
        "  tokens parked for ranking": video["parked_bytes"],
        "  total": video["total_bytes"],
    }
    for label, count in rows.items():
        table.add_row(label, "" if count is None else size(count))
    return table
