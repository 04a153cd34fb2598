"""Curves of runs, as a picture: returns, evaluations, values, loss and speed over the frames played."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter
from numpy.typing import NDArray

from fastdqn.config import Config
from fastdqn.errors import UserError
from fastdqn.json_files import checked, read_rows, shown
from fastdqn.outputs import new_file
from fastdqn.runs.folder import RunFolder

Row = dict[str, Any]
Points = tuple[NDArray[np.float64], NDArray[np.float64]]
"""Frames played, and a figure."""

_LARGEST = 3.5e38
SUFFIXES = (".png", ".svg", ".pdf")

_ROW: dict[str, Any] = {
    "frames": int,
    "updates": int,
    "returns": list[float],
    "return_mean": float | None,
    "q_mean": float | None,
    "loss": float | None,
    "timing": dict[str, Any],
}
_EVALUATION_ROW: dict[str, Any] = {"frames": int, "mean": float}

_COLOURS = ("#1f77b4", "#d62728", "#2ca02c", "#9467bd", "#ff7f0e", "#17becf", "#8c564b", "#e377c2")


@dataclass(frozen=True)
class Curves:
    """What a run has written of itself.

    Attributes:
        config: Its configuration.
        rows: Of metrics.jsonl.
        evaluations: Of evaluations.jsonl; empty where it was not evaluated while it trained.
    """

    config: Config
    rows: list[Row]
    evaluations: list[Row]


@dataclass(frozen=True)
class Picture:
    """What was drawn.

    Attributes:
        path: The file.
        curves: What each curve shows, for people: the game, the preset, the seeds.
    """

    path: str
    curves: list[str]

    def row(self) -> dict[str, Any]:
        """Return the fields, for JSON."""
        return asdict(self)


@dataclass(frozen=True)
class Panel:
    """One set of axes.

    Attributes:
        title: What is drawn.
        get: The figure in a row, `None` where it has none.
        evaluations: Whether the rows are those of evaluations.jsonl.
        log: Whether the axis is logarithmic.
    """

    title: str
    get: Callable[[Row], float | None]
    evaluations: bool = False
    log: bool = False


RETURN = Panel("return in training: mean of the last 20 games", lambda row: row["return_mean"])
EVALUATION = Panel("return in evaluations", lambda row: row["mean"], evaluations=True)
# Before the first update games are played at random, many times faster: that would hide the rest.
SPEED = Panel(
    "frames per second, while learning", lambda row: row["timing"]["fps_recent"] if row["updates"] else None
)
OTHERS = (
    Panel("mean value (Q) in the batches", lambda row: row["q_mean"]),
    Panel("loss", lambda row: row["loss"], log=True),
    SPEED,
)


def plot(runs: Sequence[Path], out: Path | None = None) -> Picture:
    """Draw the curves of runs; several that differ in the seed alone become a line and a band.

    Args:
        runs: Their folders.
        out: The picture: .png, .svg or .pdf; curves.png if `None`, in the run's folder where there is but one.

    Raises:
        UserError: There is no run, a folder is none or has logged nothing yet, or the picture's name ends
            otherwise.
    """
    if not runs:
        raise UserError("runs: there is none to be drawn")
    if out is None:
        out = (runs[0] if len(runs) == 1 else Path()) / "curves.png"
    if out.suffix.lower() not in SUFFIXES:
        raise UserError(f"out = {out}: the name must end in {', '.join(SUFFIXES)}")
    groups = group_by_configuration([read(path) for path in runs])
    with new_file(out, "out") as temporary:
        draw(groups).savefig(temporary, dpi=120, format=out.suffix[1:].lower())
    return Picture(str(out), [_label(name, group) for name, group in groups.items()])


def group_by_configuration(runs: Sequence[Curves]) -> dict[str, list[Curves]]:
    """Put together the runs whose configurations are the same but for the seed, and the threads that they took.

    Returns:
        The groups in the order of their first runs. A name is the game, the preset, and the values in which
        groups of the same game and preset differ.
    """
    groups: dict[Config, list[Curves]] = {}
    for curves in runs:
        config = curves.config
        alike = replace(config, seed=0, pipeline=replace(config.pipeline, threads=0))
        groups.setdefault(alike, []).append(curves)
    return {_name(config, list(groups)): members for config, members in groups.items()}


def _name(config: Config, others: Sequence[Config]) -> str:
    values = config.flat()
    alike = [one.flat() for one in others if (one.game, one.preset) == (config.game, config.preset)]
    differing = [name for name, value in values.items() if any(other[name] != value for other in alike)]
    return " ".join([config.game, config.preset, *(f"{name}={values[name]}" for name in differing)])


def read(path: Path) -> Curves:
    """Read the logs of a run.

    Raises:
        UserError: The folder is no run, or it has logged nothing yet.
    """
    run = RunFolder.open(path)
    rows = _rows(run.metrics, _ROW)
    if not rows:
        raise UserError(
            f"{run.metrics} has no row yet: the first is written after {run.config.log_every_frames:,} frames."
        )
    return Curves(run.config, rows, _rows(run.path / "evaluations.jsonl", _EVALUATION_ROW))


def draw(groups: dict[str, list[Curves]]) -> Figure:
    """Return the picture: the returns above, the rest below in one row."""
    evaluated = any(curves.evaluations for group in groups.values() for curves in group)
    top = (RETURN, EVALUATION) if evaluated else (RETURN,)
    figure = Figure(figsize=(11, 7), layout="constrained")
    grid = figure.add_gridspec(2, 6, height_ratios=(3, 2))
    columns = 6 // len(top)
    places = [(panel, grid[0, i * columns : (i + 1) * columns]) for i, panel in enumerate(top)]
    places += [(panel, grid[1, 2 * i : 2 * i + 2]) for i, panel in enumerate(OTHERS)]
    for panel, place in places:
        axes = figure.add_subplot(place)
        for colour, (name, group) in zip(cycle(len(groups)), groups.items(), strict=True):
            _draw_group(axes, panel, group, colour, _label(name, group))
        _finish(axes, panel)
    handles, labels = figure.axes[0].get_legend_handles_labels()
    labels = [textwrap.fill(label, 75, break_on_hyphens=False) for label in labels]  # two have room
    figure.legend(handles, labels, loc="outside upper left", frameon=False, ncols=2)
    return figure


def band(lines: Sequence[Points]) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Bring lines to common frames, as far as all of them go.

    Returns:
        The frames [F], and each line's figures there [L, F]; `None` where they share no frames.
    """
    start, end = max(x[0] for x, _ in lines), min(x[-1] for x, _ in lines)
    frames = np.unique(np.concatenate([x for x, _ in lines]))
    frames = frames[(frames >= start) & (frames <= end)]
    if not len(frames):
        return None
    return frames, np.stack([np.interp(frames, x, y) for x, y in lines])


def _draw_group(axes: Axes, panel: Panel, group: Sequence[Curves], colour: str, label: str) -> None:
    """Draw one run as a line; several as their mean, a band from least to most, and each as a faint line."""
    drawn = [(curves, line) for curves in group if len((line := _points(curves, panel))[0])]
    lines = [line for _, line in drawn]

    def marker(line: Points) -> str:  # a point alone is no line
        return "o" if panel.evaluations or len(line[0]) == 1 else ""

    if len(drawn) == 1:
        (curves, line), *_ = drawn
        if panel is RETURN:
            games = [
                (row["frames"], value)
                for row in curves.rows
                for value in row["returns"]
                if abs(value) <= _LARGEST
            ]
            axes.plot(
                *zip(*games, strict=True), ".", color=colour, alpha=0.25, markersize=4
            ) if games else None
        axes.plot(*line, color=colour, marker=marker(line), markersize=4, linewidth=1.6, label=label)
        return
    for line in lines:
        axes.plot(*line, color=colour, marker=marker(line), markersize=2, alpha=0.3, linewidth=0.7)
    common = band(lines) if lines else None
    if common is None:  # nothing in common, or nothing at all: the legend has the colour
        axes.plot([], [], color=colour, label=label)
        return
    frames, values = common
    mean = (frames, values.mean(0))
    axes.plot(*mean, color=colour, marker=marker(mean), markersize=4, linewidth=1.8, label=label)
    axes.fill_between(frames, values.min(0), values.max(0), color=colour, alpha=0.18, linewidth=0)


def _points(curves: Curves, panel: Panel) -> Points:
    rows = curves.evaluations if panel.evaluations else curves.rows
    points = [(row["frames"], panel.get(row)) for row in rows]
    # Runs compute in float32; infinity and what lies beyond are nothing that Matplotlib can find ticks for.
    kept = [(frames, value) for frames, value in points if value is not None and abs(value) <= _LARGEST]
    return np.array([frames for frames, _ in kept], float), np.array([value for _, value in kept], float)


def _label(name: str, group: Sequence[Curves]) -> str:
    seeds = ", ".join(str(seed) for seed in sorted(curves.config.seed for curves in group))
    if len(group) == 1:
        return f"{name}, seed {seeds}"
    return f"{name}, {len(group)} runs (seeds {seeds}): mean, band from the lowest run to the highest"


def _finish(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, fontsize=10, loc="left")
    axes.set_xlim(left=0)
    axes.xaxis.set_major_locator(MaxNLocator(5))  # "1.25M" beside "1.5M" has no room in the narrow panels
    axes.xaxis.set_major_formatter(FuncFormatter(lambda frames, _: short_count(frames)))
    axes.set_xlabel("frames", fontsize=9)
    axes.tick_params(labelsize=9)
    axes.grid(alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    # Matplotlib has no logarithmic axis for a run without an update, or whose losses are all 0 or no numbers.
    if panel.log and any((np.asarray(line.get_ydata(), float) > 0).any() for line in axes.get_lines()):
        axes.set_yscale("log")
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
    if panel is SPEED:
        axes.set_ylim(bottom=0)


def short_count(frames: float) -> str:
    """Return a number of frames as an axis shows it: 1.5M."""
    for unit, size in (("G", 1e9), ("M", 1e6), ("k", 1e3)):
        if frames >= size:
            return f"{frames / size:g}{unit}"
    return f"{frames:g}"


def cycle(count: int) -> list[str]:
    """Return so many colours, the same ones again where there are more curves than colours."""
    return [_COLOURS[i % len(_COLOURS)] for i in range(count)]


def _rows(path: Path, hints: dict[str, Any]) -> list[Row]:
    """Read a file of one JSON object a line; a last line that a kill cut short is left out.

    Raises:
        UserError: Another line is no JSON object, or has a figure of another type.
    """
    if not path.exists():
        return []
    try:
        return [_checked_row(number, row, hints) for number, row in read_rows(path)]
    except ValueError as error:
        raise UserError(f"{path}, {error}; the file is damaged.") from None


def _checked_row(number: int, row: Row, hints: dict[str, Any]) -> Row:
    """Return what is drawn of a row, checked: `hints` has the type of each figure."""
    try:
        values = {name: checked(row.get(name), hint, name) for name, hint in hints.items()}
        if not 0 <= values["frames"] <= 2**62:
            raise ValueError(f"frames = {shown(values['frames'])}: must be 0 or above, and at most 2^62")
        if "timing" in values:
            values["timing"] = {
                "fps_recent": checked(values["timing"].get("fps_recent"), float, "fps_recent")
            }
    except ValueError as error:
        raise ValueError(f"line {number}: {error}") from None
    return values
