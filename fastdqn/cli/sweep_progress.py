"""What a person sees of a sweep while it goes on, on stderr: a table of all runs, lines, or JSON."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from types import TracebackType
from typing import TextIO

from rich.console import Group
from rich.live import Live
from rich.text import Text

from fastdqn.cli.progress import Lines, Mode, Silent, can_draw
from fastdqn.runs.sweep import RunStatus
from fastdqn.views.dashboard import TerminalConsole
from fastdqn.views.sweep_table import table, totals

PLAIN_SECONDS = 10.0
"""Time between two plain lines about all runs."""


class SweepProgress(Silent):
    """A view of a sweep, open for the length of a `with` block. This one shows nothing."""

    def __enter__(self) -> SweepProgress:
        return self

    def show(self, runs: Sequence[RunStatus]) -> None:
        """Show how far the runs are; called about twice a second, and at the end."""


class PlainSweep(Lines, SweepProgress):
    """A line whenever a run begins or ends, and now and then one about all of them.

    Args:
        stream: Where the lines go.
        now: A monotonic clock, in seconds.
    """

    def __init__(self, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        super().__init__(stream)
        self._now, self._next = now, now()
        self._states: dict[str, str] = {}

    def show(self, runs: Sequence[RunStatus]) -> None:
        """Write what has changed."""
        for run in runs:
            # What lay there before is in the line about all.
            before = self._states.get(run.name, run.state if run.state in ("done", "stopped") else "waiting")
            if before != run.state:
                self.write(f"{run.name}: {run.state}{': ' if run.message else ''}{run.message}")
        self._states = {run.name: run.state for run in runs}
        if self._now() >= self._next:
            self._next = self._now() + PLAIN_SECONDS
            self.write(totals(runs))

    def say(self, line: str) -> None:
        """Write a message at once."""
        self.write(line)


class JsonSweep(Lines, SweepProgress):
    """One JSON object a line: `{"runs": [...]}` for those that have changed, `{"message": "..."}` for a message.

    Args:
        stream: Where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        super().__init__(stream)
        self._written: dict[str, RunStatus] = {}

    def show(self, runs: Sequence[RunStatus]) -> None:
        """Write the runs that have changed since they were written."""
        changed = [asdict(run) for run in runs if self._written.get(run.name) != run]
        self._written = {run.name: run for run in runs}
        if changed:
            self.write(json.dumps({"runs": changed}))

    def say(self, line: str) -> None:
        """Write the message."""
        self.write(json.dumps({"message": line}))


class LiveSweep(SweepProgress):
    """The table on a terminal, drawn anew whenever it is shown; its last state stays.

    Args:
        stream: The terminal.
    """

    def __init__(self, stream: TextIO) -> None:
        self._console = TerminalConsole(file=stream)
        self._live: Live | None = Live(
            console=self._console,
            auto_refresh=False,
            redirect_stdout=sys.stdout.isatty(),
            vertical_overflow="crop",
        )
        self._said = ""
        self._runs: Sequence[RunStatus] = ()

    def show(self, runs: Sequence[RunStatus]) -> None:
        """Draw the table."""
        self._runs = runs
        self._draw(self._console.size.height - 1)

    def say(self, line: str) -> None:
        """Show a message below the table."""
        self._said = line
        self._draw(self._console.size.height - 1)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the whole table standing."""
        if self._live is None or not self._live.is_started:
            return
        if self._runs:
            self._live.vertical_overflow = "visible"
            self._draw(None)
        try:
            self._live.stop()
        except OSError:
            self._live = None

    def _draw(self, rows: int | None) -> None:
        if self._live is None:
            return
        below = [Text(self._said)] if self._said else []
        picture = Group(table(self._runs, rows if rows is None else rows - len(below)), *below)
        try:
            self._live.start()
            self._live.update(picture, refresh=True)
        except OSError:  # the terminal is gone; the sweep goes on
            self._live = None


def open_sweep_progress(mode: Mode, stream: TextIO | None = None) -> SweepProgress:
    """Return the view that a mode stands for.

    Args:
        mode: `auto` draws on a terminal, and writes lines elsewhere.
        stream: Where it goes; `None` is stderr.
    """
    stream = stream or sys.stderr
    if mode == "none":
        return SweepProgress()
    if mode == "json":
        return JsonSweep(stream)
    if mode == "plain" or not can_draw(stream, forced=mode == "live"):
        return PlainSweep(stream)
    return LiveSweep(stream)
