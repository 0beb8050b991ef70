"""`timeviper doctor`: what this machine offers, which backend each operation gets, and why."""

from __future__ import annotations

import os
import platform
from importlib import metadata
from typing import Annotated, Any

import typer
from rich.table import Table

import timeviper
from timeviper.cli.terminal import print_json, results

_PACKAGES = ("torch", "transformers", "tokenizers", "safetensors", "av", "numpy", "pillow")


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
    device: Annotated[
        str | None, typer.Option(help="Ask about this device instead of the one found.")
    ] = None,
) -> None:
    """Show the device, the backend chosen for each operation and why, and versions."""
    record = examine(device)
    if as_json:
        print_json(record)
    else:
        _show(record)


def examine(device: str | None = None) -> dict[str, Any]:
    """Look at this machine.

    Args:
        device: name of a device, or None for the one that would be used.

    Returns:
        Plain values under `versions`, `system`, `device` and `operations`.

    Raises:
        ConfigError: the named device does not exist here.
    """
    import torch

    from timeviper.core.device import explain_device, pick_device
    from timeviper.core.precision import default_precision
    from timeviper.ops.backend import explain

    chosen = pick_device(device)
    return {
        "versions": {"timeviper": timeviper.__version__, "python": platform.python_version()}
        | {name: metadata.version(name) for name in _PACKAGES}
        | {"ffmpeg": _ffmpeg()},
        "system": {
            "platform": platform.platform(),
            "cpu_cores": os.cpu_count(),
            "cpu_threads": torch.get_num_threads(),
        },
        "device": {
            "name": str(chosen),
            "why": explain_device(chosen),
            "precision": str(default_precision(chosen)),
        },
        "operations": {
            choice.op: {"backend": choice.name, "why": choice.why}
            for choice in explain(chosen.type)
        },
    }


def _ffmpeg() -> str:
    import av

    return ", ".join(
        f"{name} {'.'.join(map(str, av.library_versions[name]))}"
        for name in ("libavformat", "libavcodec")
    )


def _show(record: dict[str, Any]) -> None:
    table = Table.grid(padding=(0, 2))
    for part in ("versions", "system", "device"):
        table.add_row(f"[bold]{part}[/bold]", "")
        for key, value in record[part].items():
            table.add_row(f"  {key}", str(value))
    table.add_row("[bold]operations[/bold]", "")
    for name, found in record["operations"].items():
        table.add_row(f"  {name}", f"{found['backend']} [dim]({found['why']})[/dim]")
    results().print(table)
