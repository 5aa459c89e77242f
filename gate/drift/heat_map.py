"""The heat map: the matrix goes in, SVG and PNG go out, the same bytes for the same matrix and version of matplotlib.

Panels: a line per calibration, a column per mix. In a panel: down the fine-tune, across the attacked task; numbers are percent.
Grey: most answers could not be judged.
"""

from __future__ import annotations

import io
import math
from typing import TYPE_CHECKING, Literal

from gate.drift.matrix import Drift, lines_of, mixes, spread
from gate.records import Calibration, Measure, Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes

SHORT = {
    Task.TEXT_GENERATION: "text",
    Task.SUMMARIZATION: "summary",
    Task.CODE_GENERATION: "code",
    Task.TRANSLATION: "translation",
    Task.CLASSIFICATION: "classes",
}


def heat_map(drift: Drift, kind: Literal["svg", "png"]) -> bytes:
    """The drawing."""
    import matplotlib as mpl
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.backends.backend_svg import FigureCanvasSVG
    from matplotlib.figure import Figure

    calibrations = (drift.plan.calibration, *drift.plan.beside)
    panels = mixes(drift.plan)
    with mpl.rc_context({"svg.hashsalt": "taskgate", "svg.fonttype": "none", "font.family": "sans-serif"}):
        size = (1.6 + 4.2 * len(panels), 0.9 + 2.5 * len(calibrations))
        figure = Figure(figsize=size, layout="constrained")
        (FigureCanvasSVG if kind == "svg" else FigureCanvasAgg)(figure)
        grid = figure.subplots(len(calibrations), len(panels), squeeze=False)
        for row, calibration in enumerate(calibrations):
            for column, mix in enumerate(panels):
                _panel(grid[row][column], drift, calibration, mix)
        figure.suptitle("Attacks answered (%), mean over seeds: fine-tuned on (down) × attacked task (across)", fontsize=10)
        out = io.BytesIO()
        metadata = {"Date": None, "Creator": "taskgate"} if kind == "svg" else {"Software": "taskgate"}
        figure.savefig(out, format=kind, dpi=110, metadata=metadata)
    return out.getvalue()


def _panel(axes: Axes, drift: Drift, calibration: Calibration, mix: str) -> None:
    lines = lines_of(drift.plan, mix)
    found = [[spread(drift.of(arm), task, calibration, Measure.ANSWERED) for task in Task] for _, arm in lines]
    values = [[100 * cell.mean if cell is not None and cell.readable else float("nan") for cell in line] for line in found]
    axes.set_facecolor("lightgrey")
    axes.imshow(values, vmin=0, vmax=100, cmap="Oranges", aspect="auto")
    for y, line in enumerate(values):
        for x, value in enumerate(line):
            text = "n/a" if math.isnan(value) else f"{value:.0f}"
            axes.text(x, y, text, ha="center", va="center", fontsize=8, color="white" if value > 65 else "black")
    axes.set_xticks(range(len(SHORT)), list(SHORT.values()), fontsize=7)
    labels = [SHORT[Task(label)] if label in list(Task) else "base" for label, _ in lines]
    axes.set_yticks(range(len(lines)), labels, fontsize=7)
    axes.set_title(f"{calibration}, {f'with {mix}' if mix else 'nothing mixed in'}", fontsize=8)
