"""A sweep while it is trained: one table of all its runs (rich), and all of them in one line."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from fastdqn.runs.sweep import RunStatus, State
from fastdqn.views.dashboard import duration, number

_ORDER: Sequence[State] = ("running", "failed", "stopped", "waiting", "done")
_COLOURS: dict[State, str] = {
    "running": "cyan",
    "failed": "red",
    "stopped": "yellow",
    "waiting": "dim",
    "done": "green",
}
_AROUND = 6  # rows of a table's head and borders, and of what stands below it


def totals(runs: Sequence[RunStatus]) -> str:
    """Return all runs in one line: how many are in which state, frames, speed, time left."""
    counts = Counter(run.state for run in runs)
    states = ", ".join(f"{counts[state]} {state}" for state in _ORDER if counts[state])
    frames, total = sum(frames_of(run) for run in runs), sum(run.total_frames for run in runs)
    fps = sum(run.fps or 0.0 for run in runs if run.state == "running")
    left = sum(run.total_frames - frames_of(run) for run in runs if run.state in ("running", "waiting"))
    eta = f", {fps:,.0f} frames/s, {duration(left / fps)} left" if fps else ""
    return f"{states}; {frames:,} of {total:,} frames{eta}"


def frames_of(run: RunStatus) -> int:
    """Return the frames of a run for a sum: one that is done has all, also where it ended early."""
    return run.total_frames if run.state == "done" else min(run.frames, run.total_frames)


def table(runs: Sequence[RunStatus], rows: int | None = None) -> RenderableType:
    """Return the table.

    Args:
        runs: All of them.
        rows: Rows of the terminal; those who wait or are done are counted where they have no room.
    """
    ordered = sorted(runs, key=lambda run: _ORDER.index(run.state))
    shown = ordered if rows is None else ordered[: max(1, rows - _AROUND)]
    result = Table(expand=False)
    result.add_column("run", no_wrap=True, overflow="ellipsis")
    result.add_column("state")
    for name in ("frames", "%", "FPS", "return", "ETA"):
        result.add_column(name, justify="right", no_wrap=True)
    for run in shown:
        share = frames_of(run) / max(1, run.total_frames)
        result.add_row(
            run.name,
            Text(run.state, style=_COLOURS[run.state]),
            f"{run.frames:,}",
            f"{share:.0%}",
            number(run.fps) if run.state == "running" else "-",
            number(run.return_mean),
            duration(run.eta_seconds) if run.state == "running" else "-",
        )
    hidden = Counter(run.state for run in ordered[len(shown) :])
    more = f"and {', '.join(f'{count} {state}' for state, count in hidden.items())} more" if hidden else ""
    return Group(result, *([Text(more)] if more else []), Text(totals(runs)))
