"""Views of a run's snapshot: a dashboard for a terminal (rich), one plain line, an SVG picture.

Everything but `Dashboard` is a pure function of a snapshot and a history. Lines are laid out by hand, without
rich's tables: most of the time the thread that draws is the one that trains.
"""

from __future__ import annotations

import io
import math
import sys
import textwrap
import threading
import time
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from types import TracebackType
from typing import Any, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.terminal_theme import TerminalTheme
from rich.text import Text

from fastdqn.json_files import checked, parse_object
from fastdqn.runs.metrics import PHASES, Snapshot
from fastdqn.views.chart import Curve, draw, scale

_LABEL, _VALUE, _HEAD = "dim", "bold", "cyan"
_DONE, _LEFT = "cyan", "bright_black"

_PLOT_ROWS, _MAX_PLOT_ROWS = 9, 15
_LOG_LINES = 4
_AXIS = 8  # columns of the plot's labels
_TICK_SECONDS = 0.5
_ROOMY = 28  # rows at which all messages and a full plot have room


# Colours of the picture; a terminal has its own. Black, red, green, yellow, blue, magenta, cyan, white.
_HUES = [(224, 108, 117), (152, 195, 121), (229, 192, 123), (97, 175, 239), (198, 120, 221)]
PAPER = TerminalTheme(
    (24, 26, 31),
    (205, 210, 218),
    [(24, 26, 31), *_HUES, (72, 165, 190), (171, 178, 191)],
    [(92, 99, 112), *_HUES, (86, 214, 244), (255, 255, 255)],
)


@dataclass
class History:
    """What a dashboard remembers of a run.

    Attributes:
        title: What is being run.
        games: Unclipped return of each game, at the frame when it was reported.
        means: Mean return of the last 20 games.
        lines: The last messages.
    """

    title: str
    games: Curve = field(default_factory=Curve)
    means: Curve = field(default_factory=Curve)
    lines: deque[str] = field(default_factory=lambda: deque(maxlen=_LOG_LINES))
    _episodes: int = 0
    _updates: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=40))

    def add(self, snapshot: Snapshot) -> None:
        """Remember a snapshot."""
        # `returns` may hold games that were seen before: those since the last row of the log.
        fresh = max(0, min(snapshot.episodes - self._episodes, len(snapshot.returns)))
        for value in snapshot.returns[len(snapshot.returns) - fresh :]:
            self.games.add(snapshot.frames, value)
        if snapshot.return_mean is not None and snapshot.episodes != self._episodes:
            self.means.add(snapshot.frames, snapshot.return_mean)
        self._episodes = snapshot.episodes
        self._updates.append((snapshot.seconds, snapshot.updates))

    def forget_speed(self) -> None:
        """Begin to measure anew: another process goes on."""
        self._updates.clear()

    @property
    def updates_per_second(self) -> float:
        """Updates per second over the last snapshots (10 s at four a second)."""
        if len(self._updates) < 2:
            return 0.0
        (start, first), (end, last) = self._updates[0], self._updates[-1]
        return max(0.0, (last - first) / (end - start)) if end > start else 0.0


def render(
    snapshot: Snapshot | None,
    history: History,
    width: int,
    height: int | None = None,
    *,
    waited_seconds: float = 0.0,
) -> RenderableType:
    """Return the dashboard.

    Args:
        snapshot: The state now, `None` before the first.
        history: What came before it.
        width: Columns to use.
        height: Rows to use; as many as are needed if `None`. The plot grows into what is left. Where there is too
            little, first the plot shrinks, then the end is cut.
        waited_seconds: Time since the snapshot came, or since the start where there is none.
    """
    log = _log(history.lines, width, _LOG_LINES if height is None or height >= _ROOMY else 1)
    if snapshot is None:
        waited = duration(waited_seconds) if waited_seconds >= 1 else ""
        return Group(_heading(history.title, "starting", waited, width), *log)
    snapshot = replace(snapshot, seconds=snapshot.seconds + waited_seconds)
    top = _progress(snapshot, history.title, width)
    figures = _figures(snapshot, history, width)
    # Room for all messages is kept where there is any, so that a new one does not move the picture.
    messages = _LOG_LINES if height is not None and height >= _ROOMY else len(log)
    around = len(top) + len(figures) + messages + 3 + 2  # 3 empty lines, 2 beside the plot
    rows = _PLOT_ROWS if height is None else min(_MAX_PLOT_ROWS, height - around)
    plot = _returns(snapshot, history, width, rows - 1 + rows % 2) if rows >= 3 else []
    blocks = [block for block in (top, plot, figures, log) if block]
    stacked = [line for block in blocks for line in [*block, Text()]][:-1]
    return Group(*stacked[:height])


def plain_line(snapshot: Snapshot) -> str:
    """Return the snapshot as one line for a log."""
    wanted = snapshot.solved_return
    parts = [
        duration(snapshot.seconds),
        f"{snapshot.frames:,} of {snapshot.total_frames:,} frames ({_percent(_done(snapshot))})",
        f"{snapshot.fps_recent:,.0f} frames/s",
        f"{duration(snapshot.eta_seconds)} left",
        f"games {snapshot.episodes:,}",
        f"mean {_score(snapshot.return_mean)}" + (f" of {wanted:g}" if wanted is not None else ""),
        f"best {_score(snapshot.return_best)}",
        f"loss {number(snapshot.loss)}",
        f"Q {number(snapshot.q_mean)}",
        f"epsilon {snapshot.epsilon:.3f}",
    ]
    return "  ".join(parts) + (f"  ({snapshot.note})" if snapshot.note else "")


def to_svg(snapshot: Snapshot, history: History, path: Path, width: int = 100) -> None:
    """Write a picture of the dashboard."""
    console = Console(
        file=io.StringIO(),
        record=True,
        width=width,
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
    )
    console.print(render(snapshot, history, width))
    console.save_svg(str(path), title=f"fastdqn train {history.title.split(' ')[0]}", theme=PAPER)


def snapshot_from_row(row: Mapping[str, Any]) -> Snapshot:
    """Return the snapshot that a row of metrics.jsonl was made from.

    Raises:
        ValueError: A field is missing or of another type.
    """
    values = {**row, **checked(row.get("timing"), dict[str, Any], "timing")}
    known = {one.name for one in fields(Snapshot)}
    snapshot: Snapshot = checked({name: values[name] for name in known & set(values)}, Snapshot, "")
    return snapshot


def remember(history: History, metrics: Path) -> Snapshot | None:
    """Add what a run has logged to a history; return the last snapshot, `None` if there is nothing to read."""
    last = None
    for line in metrics.read_bytes().splitlines() if metrics.exists() else []:
        try:
            last = snapshot_from_row(parse_object(line))
        except ValueError:  # a line cut short by a kill
            continue
        history.add(last)
    history.forget_speed()
    return last


class Dashboard:
    """The dashboard on a terminal, drawn when a report comes.

    Where none comes for a second, a thread draws: the time goes on while the update is compiled, a replay is saved
    or games are played again.

    Args:
        history: Title and past of the run.
        stream: The terminal.
        now: A monotonic clock, in seconds.
    """

    def __init__(self, history: History, stream: TextIO, now: Callable[[], float] = time.monotonic) -> None:
        self._history = history
        self._snapshot: Snapshot | None = None
        self._now = now
        self._reported = self._drawn = now()
        self._lock = threading.RLock()
        self._closed = threading.Event()
        self._ticker = threading.Thread(target=self._tick, name="dashboard", daemon=True)
        self._console = TerminalConsole(file=stream)
        self._live: Live | None = Live(
            console=self._console,
            auto_refresh=False,
            # A stray print() would tear the picture; a stdout that goes elsewhere would not.
            redirect_stdout=sys.stdout.isatty(),
            redirect_stderr=True,
            vertical_overflow="crop",
        )

    def __enter__(self) -> Dashboard:
        # Nothing is drawn yet: a run that cannot begin leaves a message alone.
        self._ticker.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Leave the last picture standing."""
        self._closed.set()
        self._ticker.join()
        if self._live:
            try:
                self._live.stop()
            except OSError:
                self._live = None

    def report(self, snapshot: Snapshot) -> None:
        """Draw the state of the run."""
        with self._lock:
            self._snapshot, self._reported = snapshot, self._now()
            self._history.add(snapshot)
            self._draw()

    def say(self, line: str) -> None:
        """Show a message among the last ones."""
        with self._lock:
            self._history.lines.append(line)
            self._draw()

    def _tick(self) -> None:
        while not self._closed.wait(_TICK_SECONDS):
            with self._lock:
                if self._now() - self._drawn >= 1.0:
                    self._draw()

    def _draw(self) -> None:
        with self._lock:
            if self._live is None:
                return
            self._drawn = self._now()
            size = self._console.size
            # Two columns stay free for the ^C that a terminal echoes: a broken line would shift the picture.
            picture = render(
                self._snapshot,
                self._history,
                size.width - 2,
                size.height - 1,
                waited_seconds=self._drawn - self._reported,
            )
            try:
                self._live.start()
                self._live.update(picture, refresh=True)
            except OSError:  # the terminal is gone; the run goes on, its folder has everything
                self._live = None


class TerminalConsole(Console):
    """A console whose loss is an error for its caller to answer: rich would end the process."""

    def on_broken_pipe(self) -> None:
        """Raise what is being handled."""
        raise


def duration(seconds: float | None) -> str:
    """Return a time as 0:42, 12:05 or 3:04:05; `?` where it is not known."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    minutes, second = divmod(int(seconds), 60)
    hours, minute = divmod(minutes, 60)
    return f"{hours}:{minute:02d}:{second:02d}" if hours else f"{minute}:{second:02d}"


def number(value: float | None) -> str:
    """Return a figure with about four digits; `-` where there is none."""
    if value is None:
        return "-"
    if not math.isfinite(value) or value == 0:
        return f"{value:g}"
    if 1e-3 <= abs(value) < 1e5:
        digits = max(0, 3 - math.floor(math.log10(abs(value))))
        text = f"{value:,.{min(digits, 4)}f}"
        return text.rstrip("0").rstrip(".") if "." in text else text
    mantissa, _, exponent = f"{value:.2e}".partition("e")
    return f"{float(mantissa):g}e{int(exponent)}"


def _heading(title: str, note: str, clock: str, width: int) -> Text:
    """Name what is run and say what is going on; in a narrow terminal first the run's details go, then words."""
    name, _, rest = title.partition(" ")
    left = Text.assemble(" ", (name, "bold cyan"), " ", (rest, _LABEL))
    if left.cell_len + len(f"{note}   {clock}".strip()) + 2 > width:
        left = Text.assemble(" ", (name, "bold cyan"))
        room = width - left.cell_len - len(clock) - 6
        note = note if len(note) <= room else note[: max(0, room - 1)] + "…"
    return _ends(left, Text.assemble((f"{note}   {clock}".strip(), _LABEL), " "), width)


def _progress(snapshot: Snapshot, title: str, width: int) -> list[Text]:
    """Heading, bar, frames and speed."""
    done = _done(snapshot)
    percent = _percent(done)
    cells = max(1, width - 3 - len(percent))
    full = min(cells, int(done * cells))
    bar = Text.assemble(" ", ("━" * full, _DONE), ("─" * (cells - full), _LEFT), " ", (percent, _VALUE), " ")
    right = Text.assemble((duration(snapshot.eta_seconds), _VALUE), " ", ("left", _LABEL), " ")
    over_run = f" frames/s, {snapshot.fps_run:,.0f} over the run"
    for frames, speed in ((" frames", over_run), (" frames", " frames/s"), ("", "/s")):
        left = Text.assemble(
            *(" ", (f"{snapshot.frames:,}", _VALUE), " ", (f"of {snapshot.total_frames:,}{frames}", _LABEL)),
            *("   ", (f"{snapshot.fps_recent:,.0f}", _VALUE), (speed, _LABEL)),
        )
        if left.cell_len + right.cell_len + 2 < width:
            break
    heading = _heading(title, snapshot.note, duration(snapshot.seconds), width)
    return [heading, _fit(bar, width), _ends(left, right, width)]


def _returns(snapshot: Snapshot, history: History, width: int, rows: int) -> list[Text]:
    """The returns: figures, and a chart of every game (dots) and the mean (line) over the frames."""
    reached = "evaluated" if snapshot.confirm_stop else "ends"
    goal = f", {reached} at {snapshot.solved_return:g}" if snapshot.solved_return is not None else ""
    head = Text.assemble(
        *(" ", ("return", _HEAD)),
        *("   ", (_score(snapshot.return_mean), "bold bright_cyan"), " ", (f"mean of 20{goal}", _LABEL)),
        *("   ", (_score(snapshot.return_best), _VALUE), " ", ("best", _LABEL)),
        *("   ", (f"{snapshot.episodes:,}", _VALUE), " ", ("games", _LABEL)),
    )
    cells = width - _AXIS - 2
    if cells < 10:
        return [_fit(head, width)]
    games, means = history.games.points, history.means.points
    if means:  # the mean stands until the next game ends
        means.append((snapshot.frames, means[-1][1]))
    if not games and not means:
        empty = Text(" " * _AXIS + "  the first game has not ended yet", style=_LABEL)
        return [_fit(head, width), _fit(empty, width)]
    low, high = scale([value for _, value in [*games, *means]])
    chart = draw(games, means, snapshot.frames, (low, high), cells, rows)
    labels = {0: high, rows // 2: (low + high) / 2, rows - 1: low}
    lines = []
    for row, line in enumerate(chart):
        label = f"{labels[row]:,.4g}" if row in labels else ""
        space = " " * (_AXIS - 1 - len(label))
        lines.append(Text.assemble(space, (label, _LABEL), " ", ("┤" if label else "│", _LEFT), line))
    start = Text.assemble(" " * (_AXIS + 1), ("0", _LABEL))
    end = Text.assemble((f"{snapshot.frames:,} frames", _LABEL), " ")
    return [_fit(head, width), *lines, _ends(start, end, width)]


def _figures(snapshot: Snapshot, history: History, width: int) -> list[Text]:
    """Three columns: learning, replay and exploration, time per phase."""
    learning = [
        ("loss", number(snapshot.loss)),
        ("mean Q", number(snapshot.q_mean)),
        ("grad norm", number(snapshot.grad_norm)),
        ("step size", number(snapshot.learning_rate)),
        ("updates", f"{snapshot.updates:,}"),
        ("updates/s", number(history.updates_per_second)),
    ]
    memory = [
        ("filled", _percent(snapshot.replay_fill)),
        ("memory", _bytes(snapshot.replay_bytes)),
        ("a frame", _bytes(round(snapshot.replay_frame_bytes))),
        ("transitions", f"{snapshot.replay_transitions:,}"),
        ("epsilon", f"{snapshot.epsilon:.3f}"),
        ("steps", f"{snapshot.steps:,}"),
    ]
    column = 23 if width < 100 else 30
    columns = [_pairs("learning", learning, column), _pairs("replay", memory, column)]
    space = width - 2 * column - 1
    if width < 2 * column:
        return columns[0]
    if space >= 20:
        columns.append(_shares(snapshot.phase_share, space))
    rows = max(len(lines) for lines in columns)
    padded = [[*lines, *[Text(" " * lines[0].cell_len)] * (rows - len(lines))] for lines in columns]
    below = [] if space >= 20 else [_shares_in_a_line(snapshot.phase_share, width)]
    return [*(Text.assemble(*parts) for parts in zip(*padded, strict=True)), *below]


def _pairs(head: str, pairs: Sequence[tuple[str, str]], width: int) -> list[Text]:
    """Lines of a label and its value, each `width` wide."""
    lines = [_fit(Text.assemble(" ", (head, _HEAD)), width)]
    for name, value in pairs:
        lines.append(_fit(Text.assemble(" ", (f"{name:<12}", _LABEL), (value, _VALUE)), width))
    return lines


def _shares(shares: Mapping[str, float], width: int) -> list[Text]:
    """Bars of the time that each phase takes."""
    lines = [_fit(Text.assemble(("time", _HEAD)), width)]
    named = {name: shares.get(name, 0.0) for name in PHASES}
    rest = max(0.0, 1.0 - sum(named.values())) if shares else 0.0
    cells = width - 8 - 6
    for name, share in {**named, "other": rest}.items():
        # Full cells and one of an eighth's precision.
        eighths = round(min(max(share, 0.0), 1.0) * cells * 8)
        bar = "█" * (eighths // 8) + (chr(0x2590 - eighths % 8) if eighths % 8 else "")
        percent = _percent(share)
        space = " " * (cells - len(bar) + 5 - len(percent))
        lines.append(Text.assemble((f"{name:<8}", _LABEL), (bar, _DONE), space, (percent, _VALUE), " "))
    return lines


def _shares_in_a_line(shares: Mapping[str, float], width: int) -> Text:
    """The same without bars, where they have no room."""
    line = Text.assemble((" time", _HEAD))
    for name in PHASES:
        percent = _percent(shares.get(name, 0.0)).replace(" ", "")
        line.append(f"  {name} ", _LABEL).append(percent, _VALUE)
    return _fit(line, width)


def _log(messages: Iterable[str], width: int, rows: int) -> list[Text]:
    """The last messages, long ones broken, in `rows` lines at most."""
    lines = []
    for message in messages:
        parts = textwrap.wrap(message, max(width - 4, 10)) if rows > 1 else [message]
        lines += ["· " + parts[0], *("  " + part for part in parts[1:])] if parts else []
    return [_fit(Text.assemble(" ", (line, _LABEL)), width) for line in lines[-rows:]]


def _ends(left: Text, right: Text, width: int) -> Text:
    """Put one text at each end of a line; the right one goes where both do not fit."""
    space = width - left.cell_len - right.cell_len
    return _fit(left if space < 1 else Text.assemble(left, " " * space, right), width)


def _fit(text: Text, width: int) -> Text:
    text.truncate(width, overflow="ellipsis", pad=True)
    return text


def _done(snapshot: Snapshot) -> float:
    return min(1.0, snapshot.frames / max(snapshot.total_frames, 1))


def _percent(share: float) -> str:
    # Rounded down: 100 % is the whole.
    return f"{math.floor(share * 100)} %"


def _score(value: float | None) -> str:
    return "-" if value is None else f"{value:,.1f}".removesuffix(".0")


def _bytes(count: int) -> str:
    for unit, size in (("GB", 10**9), ("MB", 10**6), ("kB", 10**3)):
        if count >= size:
            return f"{count / size:.3g} {unit}"
    return f"{count} B"
