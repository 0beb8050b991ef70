"""Tables, plots and one JSON out of the study's results; trains nothing."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any

import matplotlib as mpl

mpl.use("Agg")
import matplotlib.pyplot as plt

from recipes.study_compare import differences
from timeviper.evaluation.metrics import Share

# Colours that people with colour-blindness tell apart (Okabe and Ito 2008), each with a mark.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#000000", "#CC79A7", "#E69F00", "#56B4E9")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
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
        ),
    ),
    "ranked": (
        "Dropping 0.9: evenly or by the question's attention",
        ("uniform-0.9", "transv-0.9", "attention-0.9", "transv-attention-0.9"),
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


FREE = "Dropping without training: the hybrid under plans that it never saw"
# Plans of the hybrid that are drawn; the tables have all.
FREE_DRAWN = (
    "own",
    "uniform 0.9 at 1",
    "uniform 0.9 at 3",
    "uniform 0.9 at 7",
    "attention 0.9 at 3",
    "attention 0.9 at 7",
)
# Columns of the table of differences: what is answered at all.
COMPARED = ("at_time", "first", "multi_key", ALL)
Guesses = Sequence[Mapping[str, Any]]


@dataclass(frozen=True, kw_only=True)
class Cell:
    """Answers of one variant under one plan, at one length, of one task; seeds pooled."""

    variant: str
    plan: str
    frames: int
    task: str
    share: Share


@dataclass(frozen=True, kw_only=True)
class Report:
    """What the tables and plots are made of.

    Args:
        results: of all variants.
        speed: rows of `study_speed.measure`.
        guesses: rows of `study_compare.guesses`.
    """

    results: Sequence[Mapping[str, Any]]
    speed: Sequence[Mapping[str, Any]] = ()
    guesses: Guesses = ()

    @property
    def cut(self) -> dict[str, str]:
        """Steps of the variants that time cut, which are not compared with the others."""
        return {
            r["variant"]: f"{r['steps']} of {r['of']} steps"
            for r in self.results
            if not r["complete"]
        }


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


def table(
    found: Sequence[Cell],
    rows: Sequence[tuple[str, str]],
    frames: int,
    *,
    guesses: Guesses = (),
    cut: Mapping[str, str] = MappingProxyType({}),
) -> str:
    """A markdown table: a row a variant and plan, a column a task; guesses in the first rows.

    Args:
        found: all cells.
        rows: variant and plan of each row; those without results are left out.
        frames: length.
        guesses: rows of `study_compare.guesses`; what lies above them is bold.
        cut: steps of the variants that did not take all.
    """
    known = {(c.variant, c.plan, c.task): c.share for c in found if c.frames == frames}
    tasks = [*sorted({t for _, _, t in known} - {ALL}), ALL]
    totals = {task: max(s.total for (_, _, t), s in known.items() if t == task) for task in tasks}
    heads = [f"{task}, n {totals[task]:,}" for task in tasks]
    lines = [f"| {frames:,} frames | {' | '.join(heads)} |", "|---" * (len(tasks) + 1) + "|"]
    bars = {g["task"]: max(g["constant"], g["among"]) for g in guesses if g["frames"] == frames}
    for kind, name in (("constant", "one answer always"), ("among", "a guess among what is shown")):
        shares = {g["task"]: g[kind] for g in guesses if g["frames"] == frames}
        if shares:
            parts = [f"{100 * shares[t]:.0f}" if shares.get(t) else "-" for t in tasks]
            lines.append(f"| *{name}* | {' | '.join(parts)} |")
    for variant, plan in rows:
        shares = [known.get((variant, plan, task)) for task in tasks]
        if any(shares):
            name = variant if plan == "own" else plan
            name += f" (cut: {cut[variant]})" if variant in cut else ""
            parts = [said(s, bars.get(t)) for s, t in zip(shares, tasks, strict=True)]
            lines.append(f"| {name} | {' | '.join(parts)} |")
    return "\n".join(lines)


def said(share: Share | None, bar: float | None = None) -> str:
    """Per cent with its interval, `93 (90-95)`; bold if all of it lies above a bar."""
    if share is None or not share.total:
        return "-"
    low, high = share.interval
    text = f"{100 * share.value:.0f} ({100 * low:.0f}-{100 * high:.0f})"
    return f"**{text}**" if bar is not None and low > bar else text


def markdown(report: Report) -> str:
    """All tables."""
    found = cells(report.results)
    lengths = sorted({c.frames for c in found})
    lines = ["# Results", "", runs_table(report.results), ""]
    if report.guesses:
        lines += ["Bold in what follows: the whole interval lies above both guesses.", ""]
    sections = {
        title: [(n, "own") for n in names]
        for title, names in CLAIMS.values()
        if any(c.variant in names for c in found)
    }
    free = list(dict.fromkeys(c.plan for c in found if c.variant == "hybrid" and c.plan != "own"))
    if free:
        sections[FREE] = [("hybrid", plan) for plan in ("own", *free)]
    for title, rows in sections.items():
        lines += [f"## {title}", ""]
        for frames in lengths:
            told = table(found, rows, frames, guesses=report.guesses, cut=report.cut)
            lines += [told, ""]
    whole = {
        (c.variant, c.frames, c.task): c.share
        for c in found
        if c.plan == "own" and c.variant not in report.cut
    }
    lines += ["## Differences, in points", "", differences(whole, COMPARED), ""]
    if report.speed:
        lines += ["## Time and memory, alone on the GPU", "", speed_table(report.speed), ""]
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
        "|---|--:|--:|--:|--:|--:|--:|--:|",
    ]
    for r in speed:
        peak = "-" if r["peak_bytes"] is None else f"{r['peak_bytes'] / 1e6:.0f}"
        lines.append(
            f"| {r['variant']} | {r['frames']:,} | {r['tokens']:,} "
            f"| {r['encode_tokens_per_second']:,} | {1e3 * r['question_seconds']:.0f} "
            f"| {r['answer_tokens_per_second']:.0f} "
            f"| {r['state_bytes'] / 1e6:.1f} | {peak} |"
        )
    return "\n".join(lines)


def plot(
    found: Sequence[Cell], rows: Sequence[tuple[str, str]], title: str, path: Path, report: Report
) -> None:
    """Accuracy over length, a panel a task, a line a variant, bars for the intervals.

    Args:
        found: all cells.
        rows: variant and plan of each line.
        title: of the figure.
        path: of the picture.
        report: tells the guesses, and which variants were cut and are not drawn.
    """
    drawn = [row for row in rows if row[0] not in report.cut]
    shown = [c for c in found if (c.variant, c.plan) in drawn]
    tasks = [*sorted({c.task for c in shown} - {ALL}), ALL]
    most = max(c.share.interval[1] for c in shown)
    columns = min(4, len(tasks) + 1)
    height = -(-(len(tasks) + 1) // columns)
    figure, axes = plt.subplots(
        height, columns, figsize=(3.1 * columns, 2.8 * height), squeeze=False, sharey=True
    )
    names = [variant if plan == "own" else plan for variant, plan in drawn]
    for panel, task in zip(axes.flat, tasks, strict=False):
        for number, row in enumerate(drawn):
            line = sorted(
                (c for c in shown if (c.variant, c.plan) == row and c.task == task),
                key=lambda c: c.frames,
            )
            _line(panel, line, names, number)
        _dress(panel, [c for c in shown if c.task == task], task, report.guesses)
        panel.set_ylim(-0.02, min(1.02, most + 0.05))
    for panel in list(axes.flat)[len(tasks) :]:
        panel.axis("off")
    _legend(axes.flat[len(tasks)], axes.flat[0], [v for v, _ in rows if v in report.cut], report)
    figure.suptitle(f"{title}: share of whole answers that are right, 95 % intervals", fontsize=11)
    figure.tight_layout()
    figure.savefig(path, dpi=90)
    plt.close(figure)


def _dress(panel: Any, shown: Sequence[Cell], task: str, guesses: Guesses) -> None:
    """Title, ticks at the lengths, and what a guess gets."""
    totals = {c.frames: c.share.total for c in sorted(shown, key=lambda c: c.frames)}
    panel.set_title(f"{task}, n {' / '.join(f'{n:,}' for n in totals.values())}", fontsize=9)
    bars = {
        g["frames"]: max(g["constant"], g["among"])
        for g in guesses
        if g["task"] == task and g["frames"] in totals
    }
    if bars:
        panel.plot(list(bars), list(bars.values()), color="0.45", ls=":", lw=1.8, label="guess")
    panel.set_xscale("log", base=2)
    panel.set_xticks(list(totals), [f"{frames:,}" for frames in totals])
    panel.minorticks_off()
    panel.set_xlabel("frames", fontsize=8)
    panel.grid(alpha=0.3)
    panel.tick_params(labelsize=8, labelleft=True)


def _legend(corner: Any, panel: Any, cut: Sequence[str], report: Report) -> None:
    handles, labels = panel.get_legend_handles_labels()
    corner.legend(handles, labels, loc="upper left", fontsize=9, frameon=False)
    if cut:
        told = "\n".join(f"{name}: {report.cut[name]}" for name in cut)
        corner.text(0.03, 0.02, f"cut by time, not drawn:\n{told}", fontsize=8, va="bottom")


def _line(panel: Any, line: Sequence[Cell], names: Sequence[str], number: int) -> None:
    if not line:
        return
    # Side by side, so that bars of equal lengths do not hide each other.
    x = [c.frames * 1.07 ** (number - (len(names) - 1) / 2) for c in line]
    y = [c.share.value for c in line]
    low = [max(0.0, v - c.share.interval[0]) for v, c in zip(y, line, strict=True)]
    high = [max(0.0, c.share.interval[1] - v) for v, c in zip(y, line, strict=True)]
    # Dropping with and without a transfer share a colour; without is hollow and dashed.
    pairs = [name.removeprefix("transv-").removeprefix("uniform-") for name in names]
    place = list(dict.fromkeys(pairs)).index(pairs[number])
    plain = f"transv-{pairs[number]}" in names and not names[number].startswith("transv-")
    panel.errorbar(
        x, y, yerr=[low, high], label=names[number], capsize=2, ms=4.5, lw=1.2,
        ls="--" if plain else "-", color=COLOURS[place % len(COLOURS)],
        marker=MARKERS[place % len(MARKERS)], mfc="white" if plain else None,
    )  # fmt: skip


def kept(out: Path) -> Report:
    """The report of a folder's study.json, which is enough to write it again."""
    whole = json.loads((out / "study.json").read_text())
    return Report(results=whole["runs"], speed=whole["speed"], guesses=whole.get("guesses", ()))


def write(out: Path, report: Report) -> None:
    """Write study.json, study.md and a plot for each claim into a folder."""
    found = cells(report.results)
    answers = [
        {"variant": c.variant, "plan": c.plan, "frames": c.frames, "task": c.task}
        | c.share.to_dict()
        for c in found
    ]
    whole = {
        "runs": list(report.results),
        "answers": answers,
        "speed": list(report.speed),
        "guesses": list(report.guesses),
    }
    (out / "study.json").write_text(json.dumps(whole) + "\n")
    (out / "study.md").write_text(markdown(report))
    plots = {name: (title, [(n, "own") for n in names]) for name, (title, names) in CLAIMS.items()}
    plots["free"] = (FREE, [("hybrid", plan) for plan in FREE_DRAWN])
    present = {(c.variant, c.plan) for c in found}
    for name, (title, wanted) in plots.items():
        rows = [row for row in wanted if row in present]
        whole_rows = [row for row in rows if row[0] not in report.cut]
        # One line compares nothing, and a claim that was mostly cut has only its table.
        if len(whole_rows) > 1 and 2 * len(whole_rows) >= len(rows):
            plot(found, rows, title, out / f"{name}.png", report)
