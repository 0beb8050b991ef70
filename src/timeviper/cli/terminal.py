"""What the program says and where: results on stdout, everything else on stderr."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.text import Text

from timeviper.core.errors import TimeviperError


def messages() -> Console:
    """Console on stderr for progress, notes and errors."""
    return Console(stderr=True, highlight=False)


def results() -> Console:
    """Console on stdout for what was asked for."""
    return Console(highlight=False)


def counting() -> Progress:
    """Bars of how many are done, on stderr; silent where that is not a terminal."""
    console = messages()
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TimeRemainingColumn(),
        console=console,
        transient=True,
        disable=not console.is_terminal,
    )


def print_json(record: Mapping[str, object]) -> None:
    """Write one JSON object on stdout, and nothing else.

    Args:
        record: plain values; a number that JSON cannot hold is an error of ours.
    """
    sys.stdout.write(json.dumps(record, indent=2, ensure_ascii=False, allow_nan=False) + "\n")
    sys.stdout.flush()


def print_error(error: TimeviperError) -> None:
    """Say on stderr what was expected, what was got and what to do."""
    lines = [("expected", error.want), ("got", error.got), ("do", error.do)]
    text = Text("error", style="bold red")
    for label, words in lines:
        # Text, not markup: a file name may hold brackets.
        text.append(f"\n  {label:<9}", style="bold").append(words, style="not bold default")
    messages().print(text, soft_wrap=True)


def print_note(words: str, console: Console | None = None) -> None:
    """Say something on stderr that the user should know but need not act upon.

    Args:
        words: a sentence.
        console: where bars are drawn meanwhile, if anywhere.
    """
    (console or messages()).print(Text(f"note: {words}", style="yellow"), soft_wrap=True)
