"""Tables, plots and one JSON out of the study's results; trains nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from timeviper.evaluation.metrics import Share

# Colours that people with colour-blindness tell apart (Okabe and Ito 2008), each with a mark.
COLOURS = ("#0072B2", "#E69F00", "#009E73", "#D55E00", "#CC79A7", "#56B4E9", "#000000", "#F0E442")
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "*")
ALL = "all"
# Claim: title, and the variants that it compares.
CLAIMS: dict[str, tuple[str, tuple[str, ...]]] = {
    "stacks": (
        "Hybrid, attention only, Mamba only",
        ("hybrid", "attention", "attention-nope", "mamba"),
    ),
    "dropping": (
        "Dropping vision tokens, trained",
        (
            "hybrid",
            "uniform-0.5",
            "transv-0.5",
            "uniform-0.9",
            "transv-0.9",
            "uniform-0.95",
            "transv-0.95",
            "attention-0.9",
            "transv-attention-0.9",
        ),
    ),
    "layers": (
        "The layer of the site, 0.9",
        (
            "uniform-early-0.9",
            "transv-early-0.9",
            "uniform-0.9",
            "transv-0.9",
            "uniform-late-0.9",
            "transv-late-0.9",
        ),
    ),
    "merging": ("Tokens a frame", ("tokens-16", "tokens-8", "hybrid")),
    "policies": ("Uniform over the stream or the whole video, 0.9", ("uniform-0.9", "whole-0.9")),
    "times": ("How time is told", ("hybrid", "marks-4", "marks-16", "sentence")),
}


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Answers of one variant under one plan, at one length, of one task; seeds pooled."""

    variant: str
    plan: str
    frames: int
    task: str
    share: Share


def cells(results: Iterable[Mapping[str, Any]]) -> list[Cell]:
    """Pool the seeds, and add the sum of all tasks as the task `all`."""
    pooled: dict[tuple[str, str, int, str], Share] = {}
    for result in results:
        for row in result["evaluation"]:
            share = Share(right=row["right"], total=row["total"])
            for task in (row["task"], ALL):
                key = (result["variant"], row["plan"], row["frames"], task)
                pooled[key] = pooled.get(key, Share(right=0, total=0)) + share
    return [
        Cell(variant=v, plan=p, frames=f, task=t, share=share)
        for (v, p, f, t), share in pooled.items()
    ]


def table(found: Sequence[Cell], rows: Sequence[tuple[str, str]], frames: int) -> str:
    """A markdown table: a row a variant and plan, a column a task.

    Args:
        found: all cells.
        rows: variant and plan of each row; those without results are left out.
        frames: length.
    """
    known = {(c.variant, c.plan, c.task): c.share for c in found if c.frames == frames}
    tasks = [*sorted({t for _, _, t in known} - {ALL}), ALL]
    lines = [f"| {frames} frames | {' | '.join(tasks)} |", "|---" * (len(tasks) + 1) + "|"]
    for variant, plan in rows:
        shares = [known.get((variant, plan, task)) for task in tasks]
        if any(shares):
            name = variant if plan == "own" else plan
            lines.append(f"| {name} | {' | '.join(said(s) for s in shares)} |")
    return "\n".join(lines)


def said(share: Share | None) -> str:
    """Per cent with its interval: `93 (90-95)`."""
    if share is None or not share.total:
        return "-"
    low, high = share.interval
    return f"{100 * share.value:.0f} ({100 * low:.0f}-{100 * high:.0f})"


def markdown(results: Sequence[Mapping[str, Any]], speed: Sequence[Mapping[str, Any]]) -> str:
    """All tables."""
    found = cells(results)
    lengths = sorted({c.frames for c in found})
    lines = ["# Results", "", runs_table(results), ""]
    for title, names in CLAIMS.values():
        if not any(c.variant in names for c in found):
            continue
        lines += [f"## {title}", ""]
        for frames in lengths:
            lines += [table(found, [(n, "own") for n in names], frames), ""]
    free = list(dict.fromkeys(c.plan for c in found if c.variant == "hybrid" and c.plan != "own"))
    if free:
        lines += ["## Dropping without training: the hybrid under plans it never saw", ""]
        for frames in lengths:
            rows = [("hybrid", plan) for plan in ("own", *free)]
            lines += [table(found, rows, frames), ""]
    if speed:
        lines += ["## Time and memory, alone on the GPU", "", speed_table(speed), ""]
    return "\n".join(lines)


def runs_table(results: Sequence[Mapping[str, Any]]) -> str:
    """What was trained: sizes, steps, whether it was cut by time, last losses, gates."""
    lines = [
        "| variant | seed | layers' parameters | transfer | steps | complete | last loss | gates |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in sorted(results, key=lambda r: (r["variant"], r["seed"])):
        sizes = r["parameters"]
        last = r["losses"][-5:]
        loss = f"{sum(last) / len(last):.3f}" if last else "-"
        gates = ", ".join(f"{a:+.3f}" for a in r["alphas"]) or "-"
        done = "yes" if r["complete"] else f"cut, of {r['of']}"
        lines.append(
            f"| {r['variant']} | {r['seed']} | {sizes['layers']:,} | {sizes['transfers']:,} "
            f"| {r['steps']} | {done} | {loss} | {gates} |"
        )
    return "\n".join(lines)


def speed_table(speed: Sequence[Mapping[str, Any]]) -> str:
    """Encoding, asking, answering, memory."""
    lines = [
        "| variant | frames | tokens | encode, tokens/s | question, ms | answer, tokens/s "
        "| state, MB | peak, MB |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for r in speed:
        peak = "-" if r["peak_bytes"] is None else f"{r['peak_bytes'] / 1e6:.0f}"
        lines.append(
            f"| {r['variant']} | {r['frames']} | {r['tokens']} | {r['encode_tokens_per_second']:,} "
            f"| {1e3 * r['question_seconds']:.0f} | {r['answer_tokens_per_second']:.0f} "
            f"| {r['state_bytes'] / 1e6:.1f} | {peak} |"
        )
    return "\n".join(lines)


def plot(found: Sequence[Cell], names: Sequence[str], title: str, path: Path) -> None:
    """Accuracy over length, a panel a task, a line a variant, bars for the intervals."""
    shown = [c for c in found if c.variant in names and c.plan == "own"]
    tasks = [*sorted({c.task for c in shown} - {ALL}), ALL]
    columns = min(4, len(tasks))
    rows = -(-len(tasks) // columns)
    figure, axes = plt.subplots(rows, columns, figsize=(3 * columns, 2.6 * rows), squeeze=False)
    for panel, task in zip(axes.flat, tasks, strict=False):
        for number, name in enumerate(names):
            line = sorted(
                (c for c in shown if c.variant == name and c.task == task), key=lambda c: c.frames
            )
            _line(panel, line, name, number, len(names))
        panel.set_title(task, fontsize=9)
        panel.set_xscale("log", base=2)
        panel.set_ylim(-0.02, 1.02)
        panel.grid(alpha=0.3)
        panel.tick_params(labelsize=7)
    for panel in list(axes.flat)[len(tasks) :]:
        panel.axis("off")
    handles, labels = axes.flat[0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="lower right", fontsize=8, ncols=2)
    figure.suptitle(f"{title}: whole answers right, by frames; 95 % intervals", fontsize=10)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _line(panel: Any, line: Sequence[Cell], name: str, number: int, of: int) -> None:
    if not line:
        return
    # Side by side, so that bars of equal lengths do not hide each other.
    x = [c.frames * 1.06 ** (number - (of - 1) / 2) for c in line]
    y = [c.share.value for c in line]
    low = [max(0.0, v - c.share.interval[0]) for v, c in zip(y, line, strict=True)]
    high = [max(0.0, c.share.interval[1] - v) for v, c in zip(y, line, strict=True)]
    style = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
    dashes = "-" if number < len(COLOURS) else "--"
    panel.errorbar(
        x, y, yerr=[low, high], label=name, capsize=2, ms=4, lw=1, ls=dashes, **style
    )  # fmt: skip


def kept(out: Path) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Runs and speeds of a folder's study.json, which is enough to write the report again."""
    whole = json.loads((out / "study.json").read_text())
    return whole["runs"], whole["speed"]


def write(
    out: Path, results: Sequence[Mapping[str, Any]], speed: Sequence[Mapping[str, Any]] = ()
) -> None:
    """Write study.json, study.md and a plot for each claim into a folder.

    Args:
        out: the folder.
        results: of all variants.
        speed: rows of `study_speed.measure`.
    """
    found = cells(results)
    answers = [
        {"variant": c.variant, "plan": c.plan, "frames": c.frames, "task": c.task}
        | c.share.to_dict()
        for c in found
    ]
    whole = {"runs": list(results), "answers": answers, "speed": list(speed)}
    (out / "study.json").write_text(json.dumps(whole) + "\n")
    (out / "study.md").write_text(markdown(results, speed))
    for name, (title, variants) in CLAIMS.items():
        present = [v for v in variants if any(c.variant == v for c in found)]
        if present:
            plot(found, present, title, out / f"{name}.png")
