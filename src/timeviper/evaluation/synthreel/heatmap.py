"""Draw length by depth as a heat map PNG; needs matplotlib, which the extra `eval` brings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from timeviper.core.errors import RequestError
from timeviper.evaluation.metrics import Share

# One inch a cell is readable up to a dozen of lengths.
_CELL_INCHES, _EDGE_INCHES, _DPI = 0.9, 2.2, 120


def heat_cells(
    report: Mapping[str, Any], task: str | None = None
) -> dict[tuple[int, float], Share]:
    """Shares by length and depth.

    Args:
        report: as `report.summarise` gives it.
        task: one task, or None for all tasks with a moment together.

    Returns:
        Circular shares where a task has options, else free ones; cells without answers are missing.
    """
    cells: dict[tuple[int, float], Share] = {}
    for name, found in report["tasks"].items():
        for cell in found["cells"] if task in (None, name) else ():
            share = cell["circular"] or cell["free"]
            if cell["depth"] is None or not share["total"]:
                continue
            place = (cell["frames"], cell["depth"])
            one = Share(right=share["right"], total=share["total"])
            cells[place] = cells.get(place, Share(right=0, total=0)) + one
    return cells


def draw_heatmap(
    path: Path, cells: Mapping[tuple[int, float], Share], *, title: str
) -> tuple[int, int]:
    """Write a heat map.

    Args:
        path: PNG file.
        cells: shares by (frames, depth).
        title: above the picture.

    Returns:
        Width and height of the picture in pixels.

    Raises:
        RequestError: matplotlib is not installed, or there is nothing to draw.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError:
        raise RequestError(
            want="matplotlib for the heat map",
            got="none installed",
            do="pip install 'timeviper[eval]'; the tables need nothing",
        ) from None
    if not cells:
        raise RequestError(
            want="answers about moments for a heat map", got="none", do="choose tasks with depths"
        )
    frames = sorted({place[0] for place in cells})
    depths = sorted({place[1] for place in cells})
    inches = (_EDGE_INCHES + _CELL_INCHES * len(frames), _EDGE_INCHES + _CELL_INCHES * len(depths))
    figure = Figure(figsize=(max(inches[0], 5.0), inches[1]), dpi=_DPI, layout="constrained")
    FigureCanvasAgg(figure)
    _paint(figure, cells, frames, depths)
    figure.suptitle(title, fontsize=10)
    figure.savefig(path, format="png", dpi=_DPI)
    width, height = figure.canvas.get_width_height()
    return width, height


def _paint(
    figure: Any,
    cells: Mapping[tuple[int, float], Share],
    frames: Sequence[int],
    depths: Sequence[float],
) -> None:
    axes = figure.add_subplot()
    empty = Share(right=0, total=0)
    values = [[cells.get((n, d), empty).value for n in frames] for d in depths]
    # Cividis reads the same for all kinds of colour vision and in grey.
    image = axes.imshow(values, cmap="cividis", vmin=0, vmax=1, aspect="auto")
    axes.set_xticks(range(len(frames)), [f"{n:,}" for n in frames])
    axes.set_yticks(range(len(depths)), [f"{d:.0%}" for d in depths])
    axes.set_xlabel("length in frames, one a second")
    axes.set_ylabel("depth: start above, end below")
    for row, depth in enumerate(depths):
        for column, length in enumerate(frames):
            share = cells.get((length, depth), empty)
            words = f"{share.value:.2f}\n{share.right}/{share.total}" if share.total else "–"
            colour = "black" if share.total and share.value > 0.5 else "white"
            shade = colour if share.total else "black"
            axes.text(column, row, words, ha="center", va="center", fontsize=8, color=shade)
    figure.colorbar(image, ax=axes, label="share of right answers")
