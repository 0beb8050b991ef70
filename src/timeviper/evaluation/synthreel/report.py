"""Sum up the answers of a benchmark: shares with intervals by task, length and depth."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from timeviper.core.errors import RequestError
from timeviper.evaluation.metrics import Share
from timeviper.evaluation.synthreel.rows import Form, Row
from timeviper.synth.tasks import Task

REPORT = "report"
THRESHOLDS = (0.3, 0.5, 0.7)
# Tasks whose answers have degrees: what the mean of their values is called.
_VALUES = {Task.WHEN.value: "miou", Task.DENSE_CAPTION.value: "f1", Task.SUMMARY.value: "f1"}
_DETAILS = ("precision", "recall", "order")
ALL = "all"


def measures(rows: Iterable[Row]) -> dict[str, Any]:
    """Everything that is counted about some answers.

    Args:
        rows: answers of one task, or of several for an overall share.

    Returns:
        `free`, `choice` (each rotation for itself) and `circular` (right only if right under all
        rotations) as shares with Wilson 95 % intervals; `chance` of the last two by picking the
        same option always; `films` and `frames_shown` (fewest, most); for tasks with degrees the
        means of their values.
    """
    rows = list(rows)
    free = [row for row in rows if row.form is Form.FREE]
    choice = [row for row in rows if row.form is Form.CHOICE]
    circles = circular(choice)
    out: dict[str, Any] = {
        "free": _share(row.right for row in free).to_dict(),
        "choice": _share(row.right for row in choice).to_dict() if choice else None,
        "circular": _share(circles.values()).to_dict() if circles else None,
        "chance": _mean([1 / row.options for row in choice]),
        "films": len({row.name.split("+")[0] for row in rows}),
        "frames_shown": [min(r.looked for r in rows), max(r.looked for r in rows)] if rows else [],
    }
    return out | _degrees(free)


def circular(rows: Iterable[Row]) -> dict[str, bool]:
    """Whether each question was answered rightly under all its rotations.

    Args:
        rows: of multiple choice; a question of which a rotation is missing is left out.
    """
    turns: dict[str, list[Row]] = {}
    for row in rows:
        turns.setdefault(row.name, []).append(row)
    return {
        name: all(row.right for row in found)
        for name, found in turns.items()
        if len({row.rotation for row in found}) == found[0].options
    }


def summarise(rows: Sequence[Row], depths: Sequence[float]) -> dict[str, Any]:
    """The report as JSON values.

    Args:
        rows: all answers.
        depths: of the grid; a question's own depth counts to the nearest.

    Returns:
        `overall`; `tasks` by name with `all`, `by_frames`, `by_depth` and `cells` (frames, depth
        and the measures of that cell).
    """
    tasks = sorted({row.task for row in rows}, key=[task.value for task in Task].index)
    return {
        "answers": len(rows),
        "overall": measures(rows),
        "tasks": {task: _task([r for r in rows if r.task == task], depths) for task in tasks},
    }


def nearest(depth: float | None, depths: Sequence[float]) -> float | None:
    """The grid's depth that a question's own depth counts to; None stays None."""
    return None if depth is None else min(depths, key=lambda d: (abs(d - depth), d))


def table_csv(report: Mapping[str, Any]) -> str:
    """One line for each task, length and depth, and for each of them over all others."""
    columns = (
        "task", "frames", "depth", "form", "right", "total", "share", "low", "high", "chance",
    )  # fmt: skip
    out = io.StringIO()
    writer = csv.writer(out, lineterminator="\n")
    writer.writerow(columns)
    for task, found in report["tasks"].items():
        places = [(ALL, ALL, found["all"])]
        places += [(frames, ALL, one) for frames, one in found["by_frames"].items()]
        places += [(ALL, depth, one) for depth, one in found["by_depth"].items()]
        places += [(cell["frames"], cell["depth"], cell) for cell in found["cells"]]
        for frames, depth, one in places:
            for form in ("free", "choice", "circular"):
                share = one[form]
                if share is None:
                    continue
                chance = one["chance"] if form != "free" else ""
                low, high = share["interval"]
                counted = (share["right"], share["total"], share["value"], low, high)
                writer.writerow((task, frames, depth, form, *counted, chance))
    return out.getvalue()


def table_markdown(report: Mapping[str, Any]) -> str:
    """Tables for people: free answers and multiple choice by task and length, then degrees."""
    parts = [
        "Free answers: share of right ones with its Wilson 95 % interval.",
        _grid_table(report, "free"),
        "Multiple choice, circular: right only if right under every rotation of the options.",
        _grid_table(report, "circular"),
    ]
    lines = [
        f"| {task} | " + ", ".join(f"{k} {_number(found['all'][k])}" for k in kept) + " |"
        for task, found in report["tasks"].items()
        if (kept := [k for k in _degree_names() if found["all"].get(k) is not None])
    ]
    if lines:
        head = "| task | means over all lengths |\n|---|---|"
        parts += ["Answers with degrees.", "\n".join([head, *lines])]
    return "\n\n".join(parts) + "\n"


def write_report(out: Path, rows: Sequence[Row], depths: Sequence[float]) -> dict[str, Any]:
    """Write `report.json`, `report.csv` and `report.md` into a folder.

    Args:
        out: folder of the benchmark.
        rows: all answers.
        depths: of the grid.

    Returns:
        The report.

    Raises:
        RequestError: nothing was answered yet, or the folder cannot be written.
    """
    if not rows:
        raise RequestError(
            want=f"answers in {out}", got="none", do="run the benchmark before its report"
        )
    report = summarise(rows, depths)
    texts = {
        "json": json.dumps(report, indent=2) + "\n",
        "csv": table_csv(report),
        "md": table_markdown(report),
    }
    try:
        for ending, text in texts.items():
            (out / f"{REPORT}.{ending}").write_text(text, encoding="utf-8")
    except OSError as error:
        raise RequestError(
            want=f"room and permission to write {out}",
            got=error.strerror or error,
            do="free some space; the answers are kept",
        ) from None
    return report


def _task(rows: Sequence[Row], depths: Sequence[float]) -> dict[str, Any]:
    def own_depth(row: Row) -> float | None:
        return nearest(row.depth, depths)

    placed = [row for row in rows if row.depth is not None]
    cells = _grouped(rows, lambda row: (row.frames, own_depth(row)))
    return {
        "all": measures(rows),
        "by_frames": {str(k): measures(v) for k, v in _grouped(rows, lambda r: r.frames).items()},
        "by_depth": {str(k): measures(v) for k, v in _grouped(placed, own_depth).items()},
        "cells": [{"frames": f, "depth": d, **measures(v)} for (f, d), v in cells.items()],
    }


def _grouped(rows: Iterable[Row], key: Callable[[Row], Any]) -> dict[Any, list[Row]]:
    groups: dict[Any, list[Row]] = {}
    for row in rows:
        groups.setdefault(key(row), []).append(row)
    return dict(sorted(groups.items(), key=lambda pair: str(pair[0]).rjust(16)))


def _degrees(free: Sequence[Row]) -> dict[str, float | None]:
    """Means of values for tasks that have degrees; nothing for others or for a mixture."""
    tasks = {row.task for row in free}
    name = _VALUES.get(next(iter(tasks))) if len(tasks) == 1 else None
    if name is None:
        return {}
    out = {name: _mean([row.value for row in free])}
    if name == "miou":
        for least in THRESHOLDS:
            out[f"r1@{least}"] = _mean([float(row.value >= least) for row in free])
    for detail, found in (
        ("precision", [row.precision for row in free]),
        ("recall", [row.recall for row in free]),
        ("order", [row.order for row in free]),
    ):
        told = [value for value in found if value is not None]
        if told:
            out[detail] = _mean(told)
    return out


def _degree_names() -> tuple[str, ...]:
    return ("miou", *(f"r1@{t}" for t in THRESHOLDS), "f1", *_DETAILS)


def _grid_table(report: Mapping[str, Any], form: str) -> str:
    frames = sorted({int(n) for task in report["tasks"].values() for n in task["by_frames"]})
    head = "| task | " + " | ".join(f"{n:,} frames" for n in frames) + " | all | chance |"
    lines = [head, "|---" * (len(frames) + 3) + "|"]
    for task, found in report["tasks"].items():
        if found["all"][form] is None:
            continue
        cells = [found["by_frames"].get(str(n)) for n in frames]
        words = [_share_words(cell[form] if cell else None) for cell in (*cells, found["all"])]
        chance = _number(found["all"]["chance"]) if form == "circular" else "–"
        lines.append(f"| {task} | " + " | ".join(words) + f" | {chance} |")
    return "\n".join(lines)


def _share_words(share: Mapping[str, Any] | None) -> str:
    if share is None or not share["total"]:
        return "–"
    low, high = share["interval"]
    return f"{share['value']:.2f} [{low:.2f}, {high:.2f}] n={share['total']}"


def _share(right: Iterable[bool]) -> Share:
    told = list(right)
    return Share(right=sum(told), total=len(told))


def _mean(values: Sequence[float]) -> float | None:
    return round(sum(values) / len(values), 4) if values else None


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
