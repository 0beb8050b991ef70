"""Heat maps are real PNG files of the right size with the right numbers."""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from tests.unit.evaluation.synthreel.bench import row
from tests.unit.evaluation.synthreel.test_report import choices
from timeviper.core.errors import RequestError
from timeviper.evaluation.metrics import Share
from timeviper.evaluation.synthreel.heatmap import draw_heatmap, heat_cells
from timeviper.evaluation.synthreel.report import summarise

CELLS = {
    (64, 0.0): Share(right=4, total=4),
    (64, 1.0): Share(right=2, total=4),
    (1024, 0.0): Share(right=0, total=4),
}


def test_a_png_of_the_told_size_whose_cells_differ(tmp_path: Path) -> None:
    path = tmp_path / "heat.png"
    size = draw_heatmap(path, CELLS, title="retrieval")
    assert path.read_bytes()[:8] == b"\x89PNG\r\n\x1a\n"
    with Image.open(path) as image:
        assert image.size == size
        pixels = np.asarray(image.convert("RGB")).astype(int)
    # Bright for all right, dark for none, in the two upper cells.
    bright, dark = pixels.sum(2) > 600, pixels.sum(2) < 150
    assert bright.any()
    assert dark.sum() > 500
    wider = draw_heatmap(
        path, {(64 * n, 0.0): Share(right=1, total=1) for n in range(1, 9)}, title="many"
    )
    assert wider[0] > size[0]
    assert wider[1] < size[1]


def test_other_answers_other_picture(tmp_path: Path) -> None:
    one, two = tmp_path / "1.png", tmp_path / "2.png"
    draw_heatmap(one, CELLS, title="x")
    draw_heatmap(two, CELLS | {(1024, 1.0): Share(right=1, total=4)}, title="x")
    assert not np.array_equal(np.asarray(Image.open(one)), np.asarray(Image.open(two)))


def test_cells_are_circular_where_there_are_options() -> None:
    rows = [row("retrieval-64-d000-0"), *choices("retrieval-64-d000-0", "1110")]
    rows += [row("motion-64-d100-0", depth=1.0, options=0), row("count-64-d000-0", depth=None)]
    report = summarise(rows, (0.0, 1.0))
    assert heat_cells(report) == {
        (64, 0.0): Share(right=0, total=1),
        (64, 1.0): Share(right=1, total=1),
    }
    assert heat_cells(report, "motion") == {(64, 1.0): Share(right=1, total=1)}
    assert heat_cells(report, "count") == {}


def test_nothing_to_draw_and_no_matplotlib_are_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(RequestError, match="tasks with depths"):
        draw_heatmap(tmp_path / "x.png", {}, title="x")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(RequestError, match=r"timeviper\[eval\]"):
        draw_heatmap(tmp_path / "x.png", CELLS, title="x")
    assert not (tmp_path / "x.png").exists()
