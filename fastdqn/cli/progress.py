"""What a person sees of a run while it goes on. All of it goes to stderr: stdout is for programs."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Literal, Protocol, TextIO

from fastdqn.errors import UserError
from fastdqn.runs.metrics import Snapshot

Mode = Literal["auto", "live", "plain", "json", "none"]

PLAIN_SECONDS = 5.0
"""Time between two plain lines."""


class Progress(Protocol):
    """A view of a run, open for the length of a `with` block."""

    def report(self, snapshot: Snapshot) -> None:
        """Show the state of the run; called about four times a second, and at the end."""

    def say(self, line: str) -> None:
        """Show a message."""

    def __enter__(self) -> Progress:
        """Start showing."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None, /
    ) -> None:
        """Show what has not been shown."""


class Silent:
    """Shows nothing, and is what the views that need no end are built on."""

    def report(self, snapshot: Snapshot) -> None:
        """Do nothing."""

    def say(self, line: str) -> None:
        """Do nothing."""

    def __enter__(self) -> Silent:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Do nothing."""


class Lines(Silent):
    """Writes to a stream until it is gone. A lost terminal ends no training: the run folder has it all.

    Args:
        stream: Where the lines go.
    """

    def __init__(self, stream: TextIO) -> None:
        self._stream: TextIO | None = stream

    def write(self, line: str) -> None:
        """Write a line."""
        if self._stream is None:
            return
        try:
            print(line, file=self._stream, flush=True)
        except (OSError, ValueError):  # a closed pipe or terminal; a closed file
            self._stream = None


class Plain(Lines):
    """One line every few seconds, for logs.

    Args:
        stream: Where the lines go.
        every_seconds: Time between two lines.
        now: A monotonic clock.
    """

    def __init__(
        self,
        stream: TextIO,
        every_seconds: float = PLAIN_SECONDS,
        now: Callable[[], float] = time.monotonic,
    ) -> None:
        super().__init__(stream)
        self._every, self._now = every_seconds, now
        self._next = now()
        self._unshown: Snapshot | None = None

    def report(self, snapshot: Snapshot) -> None:
        """Write the snapshot if it is time."""
        self._unshown = snapshot
        if self._now() >= self._next:
            self._next = self._now() + self._every
            self._show()

    def say(self, line: str) -> None:
        """Write a message at once."""
        self.write(line)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Write the last snapshot if it is newer than the last line."""
        self._show()

    def _show(self) -> None:
        from fastdqn.views.dashboard import plain_line

        if self._unshown:
            self.write(plain_line(self._unshown))
            self._unshown = None


class Json(Lines):
    """One JSON object a line: `{"snapshot": {...}}` for a report, `{"message": "..."}` for a message."""

    def report(self, snapshot: Snapshot) -> None:
        """Write the snapshot."""
        self.write(json.dumps({"snapshot": {**snapshot.row(), "note": snapshot.note}}))

    def say(self, line: str) -> None:
        """Write the message."""
        self.write(json.dumps({"message": line}))


def check_mode(mode: Mode, stream: TextIO | None = None) -> None:
    """Raise where a mode cannot be had.

    Raises:
        UserError: `live` without a terminal.
    """
    if mode == "live" and not (stream or sys.stderr).isatty():
        raise UserError(
            "--progress live: stderr is no terminal, so there is nothing to draw on.\n"
            "  Type: --progress plain, or leave the flag away"
        )


def open_progress(mode: Mode, title: str, past: Path | None = None, stream: TextIO | None = None) -> Progress:
    """Return the view that a mode stands for.

    Args:
        mode: `auto` draws on a terminal, and writes lines elsewhere.
        title: What is being run.
        past: A metrics.jsonl whose curve the dashboard goes on with.
        stream: Where it goes; `None` is stderr.
    """
    stream = stream or sys.stderr
    if mode == "none":
        return Silent()
    if mode == "json":
        return Json(stream)
    if mode == "plain" or not can_draw(stream, forced=mode == "live"):
        return Plain(stream)
    from fastdqn.views.dashboard import Dashboard, History, remember

    history = History(title)
    if past:
        remember(history, past)
    return Dashboard(history, stream)


@contextmanager
def loading(what: str, stream: TextIO | None = None) -> Iterator[None]:
    """Say on a terminal, while the block runs, what takes seconds; leave no trace of it."""
    stream = stream or sys.stderr
    if not can_draw(stream, forced=False):
        yield
        return
    with suppress(OSError):
        print(f"loading {what} ...", end="", file=stream, flush=True)
    try:
        yield
    finally:
        with suppress(OSError):
            print("\r\033[K", end="", file=stream, flush=True)


def can_draw(stream: TextIO, forced: bool) -> bool:
    """Return whether a stream is a terminal that a picture can be drawn on; `forced` asks for no more."""
    utf8 = (stream.encoding or "").lower().replace("-", "") == "utf8"
    return stream.isatty() and (
        forced or (utf8 and os.environ.get("TERM", "dumb") not in ("dumb", "unknown"))
    )
