"""The pictures of a report: aggregates with intervals, performance profiles, sample efficiency."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from fastdqn.outputs import new_file
from fastdqn.runs.aggregate import STATISTICS
from fastdqn.views.plot import cycle, short_count
from fastdqn.views.sweep_report import KINDS, Report


def draw(report: Report, folder: Path) -> list[str]:
    """Draw what a report has aggregates for.

    Args:
        report: It.
        folder: Where the pictures go.

    Returns:
        Their names.
    """
    if not report.data["games_in_aggregates"]:
        return []
    figures = {"aggregates.png": aggregates(report.data), "curves.png": curves(report.data)}
    for name, figure in figures.items():
        with new_file(folder / name, "out") as file:
            figure.savefig(file, format="png", dpi=110)
    return list(figures)


def aggregates(data: Mapping[str, Any]) -> Figure:
    """Return a panel for each statistic: points and intervals, last checkpoints filled, best ones hollow."""
    methods = data["methods"]
    figure = Figure(figsize=(11, 1.6 + 0.5 * len(methods)), layout="constrained")
    panels = figure.subplots(1, len(STATISTICS), sharey=True, squeeze=False)[0]
    for axes, statistic in zip(panels, STATISTICS, strict=True):
        for row, (colour, method) in enumerate(zip(cycle(len(methods)), methods.values(), strict=True)):
            for kind, height, fill in zip(KINDS, (0.12, -0.12), (colour, "white"), strict=True):
                value, low, high = method["aggregate"][kind][statistic]
                if low is not None:
                    axes.plot([low, high], [row + height] * 2, color=colour, linewidth=2)
                axes.plot(value, row + height, "o", color=colour, markerfacecolor=fill)
        axes.set_title(statistic, fontsize=10, loc="left")
        axes.set_yticks(range(len(methods)), [_as_text(name) for name in methods], fontsize=9)
        axes.invert_yaxis() if axes is panels[0] else None
        _plain(axes)
    figure.supxlabel("human-normalised; filled: last checkpoint, hollow: best; lines: 95 %", fontsize=9)
    return figure


def curves(data: Mapping[str, Any]) -> Figure:
    """Return the performance profiles beside the sample efficiency curves."""
    methods = data["methods"]
    figure = Figure(figsize=(11, 4.2), layout="constrained")
    left, right = figure.subplots(1, 2)
    for colour, (name, method) in zip(cycle(len(methods)), methods.items(), strict=True):
        profile, efficiency = method["profile"], method["efficiency"]
        for axes, curve, x, y in (
            (left, profile, "thresholds", "share"),
            (right, efficiency, "frames", "IQM"),
        ):
            if curve:
                axes.plot(curve[x], curve[y], color=colour, label=_as_text(name))
                if curve["low"]:
                    axes.fill_between(curve[x], curve["low"], curve["high"], color=colour, alpha=0.18)
    if not any(method["efficiency"] for method in methods.values()):
        words = "The runs share too few rows for a curve:\nlog_every_frames decides how many there are."
        right.text(0.5, 0.5, words, transform=right.transAxes, ha="center", va="center", fontsize=9)
    left.set_title("share of runs above a score (last checkpoint)", fontsize=10, loc="left")
    left.set_xlabel("human-normalised score", fontsize=9)
    left.set_ylim(0, 1)
    right.set_title("IQM of human-normalised scores", fontsize=10, loc="left")
    right.set_xlabel("frames", fontsize=9)
    right.xaxis.set_major_locator(MaxNLocator(5))
    right.xaxis.set_major_formatter(FuncFormatter(lambda frames, _: short_count(frames)))
    for axes in (left, right):
        _plain(axes)
    handles, labels = left.get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside upper left", frameon=False, ncols=3)
    return figure


def _as_text(name: str) -> str:
    """Return a name that Matplotlib shows as it is: dollars begin formulas, a first `_` hides a label."""
    shown = name.encode(errors="replace").decode().replace("$", r"\$")
    return f" {shown}" if shown.startswith("_") else shown


def _plain(axes: Axes) -> None:
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
