"""Draw a plan: a bar for each part of the memory, seconds by stage, and what to change."""

from __future__ import annotations

from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

_GIB = 2**30
_WIDTH = 40
# A whole cell in eighths, so that small parts still show.
_EIGHTHS = " ▏▎▍▌▋▊▉"
_STAGES = {
    "video": "decode the file, an hour of 720p at 30 frames a second",
    "tower": "vision tower",
    "prefill": "decoder over the video",
    "reading": "both, by all cores",
    "question": "first token of an answer",
    "token": "each further token",
}


def show(record: dict[str, Any], console: Console) -> None:
    """Print a plan.

    Args:
        record: as `cli.plan` makes it.
        console: where to.
    """
    console.print(_title(record), soft_wrap=True)
    higher = "prefill" if record["prefill_peak"] >= record["question_peak"] else "question"
    words = "while the video is read" if higher == "prefill" else "while a question is answered"
    console.print(Text(f"\nGiB at the highest moment, {words}", style="bold"))
    console.print(_bars(record, higher))
    console.print(_verdict(record), soft_wrap=True)
    console.print()
    console.print(_times(record["seconds"]))
    if record["advice"]:
        console.print()
        console.print(_changes(record))


def bar(share: float, width: int = _WIDTH) -> str:
    """A bar of block characters.

    Args:
        share: from 0 to 1; more is cut.
        width: cells of a whole bar.

    Returns:
        The characters; a share above 0 shows at least a sliver.
    """
    eighths = min(8 * width, max(round(8 * width * share), int(share > 0)))
    return ("█" * (eighths // 8) + _EIGHTHS[eighths % 8]).rstrip()


def _title(record: dict[str, Any]) -> Text:
    text = Text(record["model"], style="bold")
    videos = f"{record['batch']} videos of " if record["batch"] > 1 else ""
    text.append(
        f"  {videos}{record['frames']:,} frames ({record['vision_tokens']:,} vision tokens), "
        f"{record['precision']}, chunks of {record['chunk']:,} tokens, {record['device']}",
        style="not bold",
    )
    return text


def _bars(record: dict[str, Any], moment: str) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_column(style="cyan")
    parts = dict(record[moment])
    parts["holes between blocks"] = record["reserved"] - record["allocated"]
    parts["CUDA context"] = record["device_bytes"] - record["reserved"]
    whole = max(record["limit_bytes"], record["device_bytes"])
    for name, count in parts.items():
        if count:
            table.add_row(name, f"{count / _GIB:.2f}", bar(count / whole))
    style = "bold green" if record["fits"] else "bold red"
    needed = record["device_bytes"]
    table.add_row("needed", f"{needed / _GIB:.2f}", bar(needed / whole), style=style)
    limit = record["limit_bytes"]
    table.add_row("there", f"{limit / _GIB:.2f}", bar(limit / whole), style="bold")
    if host := record["host_bytes"]:
        table.add_row("in host memory beside it", f"{host / _GIB:.2f}", "", style="dim")
    return table


def _verdict(record: dict[str, Any]) -> Text:
    most = f"{record['largest_frames']:,} frames"
    if record["fits"]:
        text = Text("\nfits", style="bold green")
        return text.append(f"; up to {most} would", style="not bold default")
    text = Text("\ndoes not fit", style="bold red")
    words = f"; up to {most} would" if record["largest_frames"] else "; not even one frame would"
    return text.append(words, style="not bold default")


def _times(seconds: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    table.add_column()
    table.add_column(justify="right")
    table.add_row(Text("seconds", style="bold"), Text(seconds["from"], style="dim"))
    for name, words in _STAGES.items():
        if (spent := seconds["stages"].get(name)) is not None:
            table.add_row(f"  {words}", f"{spent:.3f}" if spent < 10 else f"{spent:,.0f}")
    return table


def _changes(record: dict[str, Any]) -> Table:
    table = Table.grid(padding=(0, 2))
    title = "what saves memory" if record["fits"] else "what to change"
    table.add_row(Text(title, style="bold"), Text("GiB saved", style="dim"), "")
    for one in record["advice"]:
        enough = "" if record["fits"] else "enough" if one["fits"] else "not enough alone"
        table.add_row(f"  {one['change']}", f"{one['saves'] / _GIB:.2f}", enough)
    return table
