"""What a person sees on stderr while a run goes on, and a program reads on stdout when it has ended."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest

from fastdqn.cli import main
from fastdqn.cli.progress import Json, Plain, Silent, open_progress
from tests.cli.fakes import FakeTrainer, Summary, refused
from tests.views.test_dashboard import EMPTY, LATE, Terminal


def test_stdout_gets_one_json_line_and_stderr_the_rest(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["train", "Pong-v5", "--run-dir", "here"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert json.loads(out) == Summary(run="here").row()
    assert "compiling" in err
    assert "1,234,567 of 1,600,000 frames" in err
    assert "fastdqn evaluate here" in err
    assert (Path("here") / "config.json").exists()


def test_lines_of_a_run_name_flags(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    trainer.during = lambda call: call["say"]("`checkpoint.replay = 'on'` keeps it")
    assert main(["train", "Pong-v5"]) == 0
    assert "--checkpoint.replay on keeps it" in capsys.readouterr().err


def test_progress_none_is_silent(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "Pong-v5", "--progress", "none"]) == 0
    out, err = capsys.readouterr()
    assert err == ""
    assert json.loads(out)["frames"] == 1000


def test_progress_json_is_json_throughout(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "Pong-v5", "--progress", "json"]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().err.splitlines()]
    assert rows[0] == {"message": "compiling"}
    assert rows[1]["snapshot"]["frames"] == LATE.frames
    assert rows[1]["snapshot"]["timing"]["phase_share"] == LATE.phase_share
    assert all(set(row) <= {"message", "snapshot"} for row in rows)


def test_live_needs_a_terminal(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, "train", "Pong-v5", "--progress", "live")
    assert "no terminal" in err
    assert not trainer.calls


def test_plain_lines_come_every_few_seconds_and_at_the_end() -> None:
    time, stream = 0.0, io.StringIO()
    with Plain(stream, every_seconds=5, now=lambda: time) as view:
        for tick in range(50):
            time = tick * 0.25
            view.report(EMPTY if tick < 49 else LATE)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 4  # at 0, 5 and 10 s, and the last
    assert "1,234,567" in lines[-1]


def test_nothing_is_said_twice_at_the_end() -> None:
    stream = io.StringIO()
    with Plain(stream, every_seconds=5, now=lambda: 0.0) as view:
        view.report(LATE)
    assert len(stream.getvalue().splitlines()) == 1


@pytest.mark.parametrize("view", [Plain, Json])
def test_a_lost_reader_ends_no_run(view: type[Plain] | type[Json]) -> None:
    stream = Terminal()
    stream.gone = True
    with view(stream) as progress:
        progress.say("hello")
        progress.report(LATE)


def test_auto_draws_only_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    assert type(open_progress("auto", "Pong", stream=Terminal())).__name__ == "Dashboard"
    assert isinstance(open_progress("auto", "Pong", stream=io.StringIO()), Plain)
    assert isinstance(open_progress("none", "Pong", stream=Terminal()), Silent)
    monkeypatch.setenv("TERM", "dumb")
    assert isinstance(open_progress("auto", "Pong", stream=Terminal()), Plain)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(Terminal, "encoding", "ascii")
    assert isinstance(open_progress("auto", "Pong", stream=Terminal()), Plain)
