"""Reports: shares by hand, circles, degrees, tables."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from tests.unit.evaluation.synthreel.bench import row
from timeviper.core.errors import RequestError
from timeviper.evaluation.synthreel.report import (
    circular,
    measures,
    nearest,
    summarise,
    table_csv,
    table_markdown,
    write_report,
)
from timeviper.evaluation.synthreel.rows import Form, Row

DEPTHS = (0.0, 0.5, 1.0)


def choices(name: str, right: str, **changes: object) -> list[Row]:
    """Answers to each rotation: `1101` is wrong under the third."""
    return [
        row(name, right=mark == "1", form=Form.CHOICE, rotation=turn, options=4, **changes)
        for turn, mark in enumerate(right)
    ]


def test_right_only_if_right_under_every_rotation() -> None:
    rows = choices("a", "1111") + choices("b", "1101") + choices("c", "111")
    # Of the last one a rotation is missing: it says nothing yet.
    assert circular(rows) == {"a": True, "b": False}


def test_measures_by_hand() -> None:
    rows = [row("a"), row("b"), row("c", right=False)]
    rows += choices("a", "1111") + choices("b", "1101") + choices("c", "0000")
    found = measures(rows)
    assert (found["free"]["right"], found["free"]["total"]) == (2, 3)
    # Wilson by hand for 2 of 3: (2/3 + z²/6 ± z·sqrt(2/27 + z²/36)) / (1 + z²/3), z² = 3.8415.
    assert found["free"]["interval"] == [0.2077, 0.9385]
    assert (found["choice"]["right"], found["choice"]["total"]) == (7, 12)
    assert (found["circular"]["right"], found["circular"]["total"]) == (1, 3)
    assert found["chance"] == 0.25
    assert found["films"] == 3


def test_a_question_of_two_options_has_a_chance_of_a_half() -> None:
    rows = [row("absent-64-d000-0", form=Form.CHOICE, rotation=n, options=2) for n in (0, 1)]
    found = measures(rows)
    assert found["chance"] == 0.5
    assert found["circular"]["right"] == 1


def test_open_tasks_have_no_choice_and_no_chance() -> None:
    found = measures([row("what-64-d000-0", options=0)])
    assert (found["choice"], found["circular"], found["chance"]) == (None, None, None)


def test_grounding_has_a_mean_overlap_and_recalls() -> None:
    values = (0.2, 0.4, 0.6, 0.8)
    rows = [row(f"when-64-d000-{n}", value=v, right=v >= 0.5) for n, v in enumerate(values)]
    found = measures(rows)
    assert found["miou"] == 0.5
    assert (found["r1@0.3"], found["r1@0.5"], found["r1@0.7"]) == (0.75, 0.5, 0.25)
    assert found["free"]["right"] == 2
    # A mixture of tasks has no overlap.
    assert "miou" not in measures([*rows, row("count-64-d000-0")])


def test_captions_have_precision_recall_and_order() -> None:
    one = row("dense_caption-64-d000-0", value=0.8, precision=1.0, recall=0.6667, order=1.0)
    two = row("dense_caption-64-d000-1", value=0.4, precision=0.5, recall=0.3333, order=0.0)
    found = measures([one, two])
    assert found["f1"] == 0.6
    assert (found["precision"], found["recall"], found["order"]) == (0.75, 0.5, 0.5)
    summary = measures([row("summary-64-d000-0", value=0.5, precision=0.5, recall=0.5)])
    assert summary["f1"] == 0.5
    assert "order" not in summary


def test_a_depth_counts_to_the_nearest_of_the_grid() -> None:
    assert [nearest(d, DEPTHS) for d in (0.0, 0.24, 0.25, 0.26, 0.9, None)] == [
        0.0, 0.0, 0.0, 0.5, 1.0, None,
    ]  # fmt: skip


def sample() -> list[Row]:
    rows = []
    for frames in (64, 1024):
        for depth in (0.0, 1.0):
            name = f"retrieval-{frames}-d{depth * 100:03.0f}-0"
            good = (frames, depth) != (1024, 1.0)
            rows.append(row(name, frames=frames, depth=depth, right=good))
            marks = "1111" if good else "1110"
            rows += choices(name, marks, frames=frames, depth=depth)
    # A question without a moment counts in no depth.
    rows.append(row("count-64-d000-0", depth=None, right=False))
    return rows


def test_a_report_has_tasks_lengths_depths_and_cells() -> None:
    report = summarise(sample(), DEPTHS)
    assert list(report["tasks"]) == ["count", "retrieval"]
    retrieval = report["tasks"]["retrieval"]
    assert {n: one["circular"]["value"] for n, one in retrieval["by_frames"].items()} == {
        "64": 1.0,
        "1024": 0.5,
    }
    assert {d: one["free"]["value"] for d, one in retrieval["by_depth"].items()} == {
        "0.0": 1.0,
        "1.0": 0.5,
    }
    assert [(c["frames"], c["depth"], c["free"]["right"]) for c in retrieval["cells"]] == [
        (64, 0.0, 1), (64, 1.0, 1), (1024, 0.0, 1), (1024, 1.0, 0),
    ]  # fmt: skip
    assert report["tasks"]["count"]["by_depth"] == {}
    assert report["overall"]["free"]["total"] == 5


def test_the_csv_has_a_line_for_every_cell_and_form() -> None:
    lines = list(csv.DictReader(io.StringIO(table_csv(summarise(sample(), DEPTHS)))))
    cell = [
        line
        for line in lines
        if (line["task"], line["frames"], line["depth"]) == ("retrieval", "1024", "1.0")
    ]
    assert {line["form"]: (line["right"], line["total"]) for line in cell} == {
        "free": ("0", "1"),
        "choice": ("3", "4"),
        "circular": ("0", "1"),
    }
    assert all(float(line["low"]) <= float(line["share"]) <= float(line["high"]) for line in lines)
    assert {line["chance"] for line in lines if line["form"] == "circular"} == {"0.25"}


def test_the_table_for_people_shows_shares_with_intervals() -> None:
    text = table_markdown(summarise([*sample(), row("when-64-d000-0", value=0.75)], DEPTHS))
    assert "| 64 frames | 1,024 frames | all | chance |" in text
    assert "| retrieval | 1.00 [0.34, 1.00] n=2 | 0.50 [0.09, 0.91] n=2 |" in text
    assert "miou 0.75" in text
    # No line is longer or shorter than its head.
    for table in text.split("\n\n"):
        widths = {line.count("|") for line in table.splitlines() if line.startswith("|")}
        assert len(widths) <= 1, table


def test_the_three_files_are_written_and_agree(tmp_path: Path) -> None:
    report = write_report(tmp_path, sample(), DEPTHS)
    assert json.loads((tmp_path / "report.json").read_text()) == report
    assert (tmp_path / "report.csv").read_text() == table_csv(report)
    assert (tmp_path / "report.md").read_text() == table_markdown(report)


def test_no_answers_and_no_place_are_told(tmp_path: Path) -> None:
    with pytest.raises(RequestError, match="run the benchmark before"):
        write_report(tmp_path, [], DEPTHS)
    with pytest.raises(RequestError, match="the answers are kept"):
        write_report(tmp_path / "none", sample(), DEPTHS)
