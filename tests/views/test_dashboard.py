"""The dashboard: what is on it, that it fits, and what it remembers."""

from __future__ import annotations

import io
import json
import math
import re
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from fastdqn.runs.metrics import Snapshot
from fastdqn.views import chart, dashboard
from fastdqn.views.dashboard import Dashboard, History, duration, number, plain_line, remember, render

EMPTY = Snapshot(
    frames=0,
    total_frames=1_600_000,
    steps=0,
    updates=0,
    episodes=0,
    returns=[],
    return_mean=None,
    return_best=None,
    loss=None,
    q_mean=None,
    grad_norm=None,
    epsilon=1.0,
    learning_rate=4e-4,
    replay_transitions=0,
    replay_fill=0.0,
    replay_bytes=708_000_000,
    replay_frame_bytes=7_056.0,
    seconds=0.0,
    fps_recent=0.0,
    fps_run=0.0,
    eta_seconds=None,
    phase_share={},
    note="compiling the update",
)

LATE = replace(
    EMPTY,
    frames=1_234_567,
    steps=308_641,
    updates=75_910,
    episodes=400,
    returns=[20.0],
    return_mean=17.45,
    return_best=21.0,
    loss=0.01234,
    q_mean=0.4567,
    grad_norm=1.25,
    epsilon=0.01,
    replay_transitions=99_000,
    replay_fill=1.0,
    seconds=3_725.0,
    fps_recent=1_512.4,
    fps_run=1_480.0,
    eta_seconds=242.0,
    phase_share={"act": 0.12, "env": 0.08, "store": 0.02, "sample": 0.05, "learn": 0.7},
    note="",
)


def history(snapshots: int = 60) -> History:
    """A run that learns Pong."""
    past = History("Pong-v5 quick, seed 1")
    for i in range(1, snapshots + 1):
        mean = -20.4 + 38 / (1 + math.exp(-(i - 35) / 5))
        frames = LATE.frames * i // snapshots
        past.add(replace(LATE, frames=frames, episodes=i, returns=[round(mean)], return_mean=mean))
    return past


def shown(snapshot: Snapshot | None, past: History, width: int, height: int | None = None) -> list[str]:
    console = Console(file=io.StringIO(), record=True, width=width, height=height)
    console.print(render(snapshot, past, width, height))
    return console.export_text().splitlines()


@pytest.mark.parametrize("width", [80, 120])
@pytest.mark.parametrize(
    ("snapshot", "past"),
    [(None, History("Pong-v5 quick")), (EMPTY, History("Pong-v5 quick")), (LATE, history())],
    ids=["before", "early", "late"],
)
def test_every_line_fits_the_width(snapshot: Snapshot | None, past: History, width: int) -> None:
    past.lines.append("a message that is far longer than any terminal is wide " * 4)
    assert max(len(line) for line in shown(snapshot, past, width)) <= width


@pytest.mark.parametrize("width", [80, 120])
def test_a_late_snapshot_shows_everything(width: int) -> None:
    text = "\n".join(shown(LATE, history(), width))
    for wanted in (
        *("Pong-v5", "quick, seed 1", "1:02:05", "1,234,567 of 1,600,000 frames", "77 %", "4:02 left"),
        *("1,512 frames/s", "1,480 over the run", "17.4 mean of 20", "21 best", "400 games"),
        *("0.0123", "0.4567", "1.25", "0.010", "4e-4", "100 %", "708 MB", "99,000", "75,910", "308,641"),
        *("act", "12 %", "env", "8 %", "store", "2 %", "sample", "5 %", "learn", "70 %", "other", "3 %"),
    ):
        assert wanted in text, wanted


def test_the_time_left_is_shown_for_long_runs_too() -> None:
    """Fails when a long line pushes it off a terminal of 80 columns, of which 78 are used."""
    long = replace(LATE, frames=123_456_789, total_frames=200_000_000, eta_seconds=60_000.0)
    text = "\n".join(shown(long, history(), 78))
    assert "123,456,789 of 200,000,000 frames" in text
    assert "1,512 frames/s" in text
    assert "16:40:00 left" in text


def test_the_plot_grows_with_the_terminal() -> None:
    rows = [
        sum(line[8:9] in ("┤", "│") for line in shown(LATE, history(), 118, height))
        for height in (28, 39, 70)
    ]
    assert rows == [9, 15, 15]


def test_an_empty_snapshot_says_what_is_going_on() -> None:
    text = "\n".join(shown(EMPTY, History("Pong-v5 quick"), 80))
    assert "compiling the update" in text
    assert "the first game has not ended yet" in text
    assert "? left" in text


def test_before_the_first_snapshot_there_is_a_title_and_the_messages() -> None:
    past = History("Pong-v5 quick")
    past.lines.append("making 8 games")
    assert [line.strip() for line in shown(None, past, 80)] == [
        f"Pong-v5 quick{'starting':>65}",
        "· making 8 games",
    ]


@pytest.mark.parametrize(
    "note", ["compiling the update, half a minute or so", "filling the replay before the first update", ""]
)
def test_a_terminal_of_60_columns_loses_no_figure(note: str) -> None:
    """Fails where the time left, the note, the clock or the time per phase goes because a line is full."""
    long = replace(LATE, frames=123_456_789, total_frames=200_000_000, eta_seconds=60_000.0, note=note)
    text = "\n".join(shown(long, history(), 58))
    for wanted in (
        *("Pong-v5", note[:35], "1:02:05", "123,456,789 of 200,000,000", "1,512/s", "16:40:00 left"),
        *("17.4 mean of 20", "21 best", "act 12%", "env 8%", "store 2%", "sample 5%", "learn 70%"),
    ):
        assert wanted in text, wanted


def test_the_clock_goes_on_where_no_snapshot_comes() -> None:
    def first_line(snapshot: Snapshot | None) -> str:
        console = Console(file=io.StringIO(), record=True, width=80)
        console.print(render(snapshot, History("Pong-v5 quick"), 80, waited_seconds=66.0))
        return console.export_text().splitlines()[0]

    assert "compiling the update   1:06" in first_line(EMPTY)
    assert "1:03:11" in first_line(LATE)
    assert "starting   1:06" in first_line(None)


@pytest.mark.parametrize("height", range(1, 31))
def test_it_never_grows_taller_than_the_terminal(height: int) -> None:
    past = history()
    past.lines.extend(["one", "two", "three"])
    assert len(shown(LATE, past, 80, height)) <= height


def test_a_terminal_of_24_rows_has_room_for_the_plot_and_the_figures() -> None:
    text = "\n".join(shown(LATE, history(), 80, 23))
    assert "┤" in text
    assert "learn " in text


@pytest.mark.parametrize("width", [1, 5, 20, 39, 46, 60])
def test_a_narrow_terminal_gets_what_fits(width: int) -> None:
    lines = shown(LATE, history(), width)
    assert max(len(line) for line in lines) <= width


def test_the_plot_rises_from_the_lower_left_to_the_upper_right() -> None:
    """Reads the braille of the mean's line back: its height in the first and in the last column."""
    past = History("Pong-v5")
    for i in range(1, 41):
        past.add(replace(LATE, frames=LATE.frames * i // 40, episodes=i, returns=[], return_mean=float(i)))
    plot = [line[9:] for line in shown(LATE, past, 80) if line[8:9] in ("┤", "│")]
    inked = [[column for column, cell in enumerate(line) if ord(cell) > 0x2800] for line in plot]
    assert len(plot) == 9
    assert min(inked[-1]) < 5
    assert max(inked[0]) > 65
    assert [max(row) for row in inked] == sorted((max(row) for row in inked), reverse=True)


def test_a_constant_return_is_drawn() -> None:
    past = History("Pong-v5")
    for i in range(1, 4):
        past.add(replace(LATE, frames=i, episodes=i, returns=[-21.0], return_mean=-21.0))
    assert "┤" in "\n".join(shown(replace(LATE, frames=3), past, 80))


def test_returns_seen_before_are_not_counted_again() -> None:
    """`returns` grows until a row is logged, so consecutive snapshots hold the same games."""
    past = History("Pong-v5")
    past.add(replace(LATE, frames=1, episodes=1, returns=[1.0]))
    past.add(replace(LATE, frames=2, episodes=1, returns=[1.0]))
    past.add(replace(LATE, frames=3, episodes=3, returns=[1.0, 2.0, 3.0]))
    past.add(replace(LATE, frames=4, episodes=4, returns=[4.0]))
    assert [value for _, value in past.games.points] == [1.0, 2.0, 3.0, 4.0]


def test_updates_per_second_are_those_of_the_last_ten_seconds() -> None:
    past = History("Pong-v5")
    for i in range(100):
        past.add(replace(LATE, seconds=i / 4, updates=10 * i if i < 50 else 490 + 25 * (i - 49)))
    assert past.updates_per_second == pytest.approx(100.0)


def test_memory_and_drawing_stay_bounded() -> None:
    past = History("Pong-v5")
    for i in range(1, 20_001):
        past.add(replace(LATE, frames=i, episodes=i, returns=[float(i)], return_mean=float(i)))
    for curve in (past.games, past.means):
        assert len(curve.points) <= chart._MAX_POINTS + 1
        assert curve.points[0] == (1, 1.0)
        assert curve.points[-1] == (20_000, 20_000.0)


def test_a_resumed_run_replaces_the_points_after_its_checkpoint() -> None:
    past = History("Pong-v5")
    for frames in (10, 20, 30):
        past.add(replace(LATE, frames=frames, episodes=frames, returns=[], return_mean=0.0))
    past.add(replace(LATE, frames=15, episodes=15, returns=[], return_mean=5.0))
    assert past.means.points == [(10, 0.0), (15, 5.0)]


def test_rows_of_the_metrics_file_rebuild_the_snapshot(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    rows = [replace(LATE, frames=i * 1000, episodes=i, returns=[float(i)]) for i in range(1, 6)]
    half_a_line = '{"frames": 6000, "tot'
    file.write_text("".join(json.dumps(row.row()) + "\n" for row in rows) + half_a_line)
    past = History("Pong-v5")
    last = remember(past, file)
    assert last == rows[-1]
    assert past.games.points == [(i * 1000, float(i)) for i in range(1, 6)]
    assert past.updates_per_second == 0.0
    assert remember(past, tmp_path / "none.jsonl") is None


def test_a_picture_is_written(tmp_path: Path) -> None:
    dashboard.to_svg(LATE, history(), tmp_path / "picture.svg", width=90)
    picture = (tmp_path / "picture.svg").read_text()
    assert picture.startswith("<svg")
    assert "Pong-v5" in picture


def test_the_plain_line() -> None:
    line = plain_line(LATE)
    assert "\n" not in line
    for wanted in ("1:02:05", "1,234,567 of 1,600,000", "77 %", "1,512 frames/s", "mean 17.4", "best 21"):
        assert wanted in line
    assert plain_line(EMPTY).endswith("(compiling the update)")


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(None, "?"), (math.inf, "?"), (0, "0:00"), (59.9, "0:59"), (125, "2:05"), (3_600 * 30, "30:00:00")],
)
def test_durations(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[
            (None, "-"),
            (0.0, "0"),
            (2.5e-4, "2.5e-4"),
            (0.01234, "0.0123"),
            (-20.4, "-20.4"),
            (12_345.6, "12,346"),
        ],
        *[(1.5e7, "1.5e7"), (math.nan, "nan"), (math.inf, "inf"), (1.0, "1")],
    ],
)
def test_numbers(value: float | None, text: str) -> None:
    assert number(value) == text


class Terminal(io.StringIO):
    """A stream that says it is a terminal, and can be closed from the other side."""

    encoding = "utf-8"  # type: ignore[assignment]
    gone = False

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        if self.gone:
            raise BrokenPipeError
        return super().write(text)


def test_the_live_view_draws_and_leaves_the_last_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setenv("LINES", "40")
    terminal = Terminal()
    with Dashboard(history(), terminal) as view:
        view.say("saved a checkpoint")
        view.report(LATE)
    assert "1,234,567" in terminal.getvalue()
    assert "saved a checkpoint" in terminal.getvalue()


def test_a_run_that_cannot_begin_leaves_no_picture(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()
    with pytest.raises(ZeroDivisionError), Dashboard(history(), terminal):
        raise ZeroDivisionError
    assert terminal.getvalue() == ""


def drawn_within(terminal: Terminal, text: str, seconds: float = 30.0) -> bool:
    """Wait until another thread has drawn a text."""
    deadline = time.monotonic() + seconds
    while text not in terminal.getvalue():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def test_the_live_view_is_drawn_while_the_run_is_busy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Fails where only a report draws: while the update was compiled, the picture stood still for a minute."""
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(dashboard, "_TICK_SECONDS", 0.01)
    terminal, clock = Terminal(), [0.0]
    view = Dashboard(history(), terminal, now=lambda: clock[0])
    with view:
        view.report(EMPTY)
        clock[0] = 42.0
        assert drawn_within(terminal, "0:42")
        assert len(terminal.getvalue()) < 100_000  # once a second, not at each look at the clock
    assert not view._ticker.is_alive()


def test_a_terminal_lost_between_reports_ends_nothing(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setattr(dashboard, "_TICK_SECONDS", 0.01)
    terminal, clock = Terminal(), [0.0]
    with Dashboard(history(), terminal, now=lambda: clock[0]) as view:
        view.report(EMPTY)
        terminal.gone = True
        clock[0] = 42.0
        deadline = time.monotonic() + 30
        while view._live is not None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert view._live is None
        view.report(LATE)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("kind", [BrokenPipeError, OSError])
def test_a_lost_terminal_ends_nothing(monkeypatch: pytest.MonkeyPatch, kind: type[OSError]) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()

    def fail(*_: Any) -> int:
        raise kind

    with Dashboard(history(), terminal) as view:
        view.report(LATE)
        monkeypatch.setattr(terminal, "write", fail)
        view.report(LATE)
        view.say("nobody reads this")


def test_no_color_is_honoured(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    monkeypatch.setenv("NO_COLOR", "1")
    terminal = Terminal()
    with Dashboard(history(), terminal) as view:
        view.report(LATE)
    styles = re.findall(r"\x1b\[([\d;]*)m", terminal.getvalue())
    assert styles  # bold and dim are no colours
    assert {number for style in styles for number in style.split(";")} <= {"0", "1", "2"}


@pytest.mark.parametrize("width", [60, 80, 120])
def test_the_return_that_ends_the_run_is_shown(width):
    wanted = replace(LATE, solved_return=18.0)
    assert "mean of 20, ends at 18 " in "\n".join(shown(wanted, history(), width))
    assert "ends at" not in "\n".join(shown(LATE, history(), width))
    confirmed = replace(wanted, confirm_stop=True)
    assert "mean of 20, evaluated at 18 " in "\n".join(shown(confirmed, history(), width))
    assert re.search(r"mean \S+ of 18 ", plain_line(wanted))
    assert " of 18 " not in plain_line(LATE)
