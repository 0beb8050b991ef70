"""`timeviper info`: what a state file holds, without a model."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer
from rich.table import Table
from rich.text import Text

from timeviper.cli.sizes import size
from timeviper.cli.terminal import print_json, print_note, results
from timeviper.core.errors import StateFileError
from timeviper.inference.state_info import StateHeader, read_info, read_thumbnails, verify_file
from timeviper.processing.timestamps import format_time

if TYPE_CHECKING:
    from timeviper.inference.state_info import StateInfo


def info(
    file: Annotated[Path, typer.Argument(help="A state file, as `timeviper encode` writes.")],
    verify: Annotated[
        bool, typer.Option("--verify", help="Compare every byte with its hash.")
    ] = False,
    thumbnails: Annotated[
        Path | None, typer.Option(help="Write the small pictures into this folder.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> None:
    """Show what a state file holds: its video, its model, its size, what waits in it."""
    header = verify_file(file) if verify else read_info(file)
    pictures = [] if thumbnails is None else _write_pictures(header, thumbnails)
    if as_json:
        about = {"file": str(file), "bytes": header.sealed.file_bytes, "verified": verify}
        print_json(about | header.info.to_json() | {"pictures": pictures})
        return
    _show(header, verified=verify)
    for picture in pictures:
        results().print(Text(picture), soft_wrap=True)


def _write_pictures(header: StateHeader, folder: Path) -> list[str]:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written: list[str] = []
        for picture in read_thumbnails(header):
            path = folder / f"{picture.seconds:010.3f}.jpg"
            path.write_bytes(picture.jpeg)
            written.append(str(path))
        return written
    except OSError as error:
        raise StateFileError(
            want=f"a folder to write pictures to at {folder}", got=error, do="name another"
        ) from None


def _show(header: StateHeader, *, verified: bool) -> None:
    console, told = results(), header.info
    table = Table.grid(padding=(0, 2))
    table.add_column(style="bold")
    table.add_column(overflow="fold")
    for label, words in _rows(header, verified=verified):
        table.add_row(label, Text(words))
    console.print(table)
    for note in told.notes:
        print_note(note)


def _rows(header: StateHeader, *, verified: bool) -> list[tuple[str, str]]:
    told = header.info
    length = format_time(told.duration_seconds)
    spent = told.timing.decode + told.timing.encode + told.timing.prefill
    whole = "every byte as written" if verified else "whole; --verify compares every byte"
    pictures = f"{len(told.thumbnails)} pictures" if told.thumbnails else "none"
    return [
        ("video", f"{told.source or 'without a name'}: {told.frames:,} frames of {length}"),
        ("read", f"{told.tokens:,} tokens in {spent:.1f} s, in {told.dtype}"),
        ("model", told.identity.model),
        ("file", f"{size(header.sealed.file_bytes)}, compress {told.compress}, {whole}"),
        ("memory", f"{size(told.state_bytes)}: {_layers(told)}"),
        ("waiting", _waiting(told)),
        ("thumbnails", pictures),
        ("fingerprints", _hashes(told)),
        ("written by", f"timeviper {told.made_by}, format {told.version}"),
    ]


def _layers(told: StateInfo) -> str:
    kinds = [layer.kind for layer in told.layers]
    keys = [max(layer.lengths, default=0) for layer in told.layers if layer.kind == "attention"]
    parts = [f"{kinds.count('mamba')} Mamba layers"]
    if keys:
        parts.append(f"{len(keys)} attention layers of {' and '.join(_distinct(keys))} keys")
    return ", ".join(parts)


def _distinct(counts: list[int]) -> list[str]:
    return [f"{count:,}" for count in dict.fromkeys(counts)]


def _waiting(told: StateInfo) -> str:
    parts: list[str] = []
    for site in told.sites:
        if site is None:
            continue
        if site.dropped is not None:
            parts.append(f"{sum(site.dropped):,} dropped tokens for the question to hear of")
        if site.parked is not None:
            parts.append(f"{sum(site.parked):,} tokens for the question to rank")
    return ", ".join(parts) or "nothing"


def _hashes(told: StateInfo) -> str:
    named: dict[str, Any] = {
        "pixels": told.pixels,
        "weights": told.identity.weights,
        "config": told.identity.config,
        "processor": told.identity.processor,
    }
    return ", ".join(f"{name} {str(digest)[:12]}" for name, digest in named.items())
