"""`fastdqn sweep`: its words, its views, and how it ends; the runs are a stand-in's."""

from __future__ import annotations

import io
import json
import os
import signal
import sys
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("torch")
pytest.importorskip("envpool")

from rich.console import Console

from fastdqn.cli import main
from fastdqn.cli.sweep import SweepArguments, _joined, _runs, _seeds, _values
from fastdqn.cli.sweep_progress import JsonSweep, LiveSweep, PlainSweep
from fastdqn.config import Config
from fastdqn.errors import UserError
from fastdqn.presets import PRESETS
from fastdqn.runs import launch, sweep_engines
from fastdqn.runs.sweep import RunStatus, read
from fastdqn.views.sweep_table import table, totals
from tests.cli.fakes import refused
from tests.runs.test_sweep import FAKE
from tests.views.test_dashboard import Terminal

SHORT = ("--set", "total-frames=100", "replay.capacity=1000")


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(launch, "PROGRAM", (sys.executable, str(FAKE)))
    monkeypatch.setattr(launch, "POLL_SECONDS", 0.01)
    monkeypatch.setattr(sweep_engines, "TICK_SECONDS", 0.02)


@pytest.mark.usefixtures("fake")
def test_a_sweep_is_trained_and_the_same_command_has_nothing_left(capsys: pytest.CaptureFixture[str]) -> None:
    words = [
        "sweep",
        "--games",
        "Pong-v5",
        "Breakout-v5",
        "--seeds",
        "1,3",
        "--out",
        "s",
        "--jobs",
        "2",
        *SHORT,
    ]
    for _ in range(2):
        assert main(words) == 0
        out, err = capsys.readouterr()
        assert json.loads(out)["done"] == 4
        assert [run["state"] for run in json.loads(out)["runs"]] == ["done"] * 4
        assert "fastdqn report s" in err
    assert "4 runs, 4 of them done; 0 at once" in err
    assert [run.config.total_frames for run in read(Path("s")).runs] == [100] * 4


@pytest.mark.usefixtures("fake")
def test_a_failure_is_told_and_ends_with_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["sweep", "--games", "Pong-v5", "--seeds", "12-13", "--out", "s", *SHORT]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["failed"] == 1
    assert "Pong-v5-quick-seed13 failed: fastdqn train: seed 13 fails. Try another." in err
    assert "1 of 2 runs are done; the same command goes on" in err


@pytest.mark.usefixtures("fake")
def test_a_signal_saves_all_and_ends_as_shells_expect(capsys: pytest.CaptureFixture[str]) -> None:
    class Interrupting(io.StringIO):
        def write(self, text: str) -> int:
            if text.endswith(": running"):
                os.kill(os.getpid(), signal.SIGINT)
            return super().write(text)

    stderr, sys.stderr = sys.stderr, Interrupting()
    try:
        words = ["sweep", "--games", "Pong-v5", "--seeds", "1", "--out", "s", "--set", "total-frames=1M"]
        assert main(words) == 130
    finally:
        stderr, sys.stderr = sys.stderr, stderr
    assert json.loads(capsys.readouterr().out).get("done") is None
    assert "0 of 1 runs are done" in stderr.getvalue()


@pytest.mark.usefixtures("fake")
def test_a_dry_run_makes_nothing_and_tells_the_cost(capsys: pytest.CaptureFixture[str]) -> None:
    words = ["sweep", "--games", "atari5", "--seeds", "1-5", "--jobs", "1", "--out", "s", "--dry-run"]
    assert main([*words, "--set", "total-frames=1M", "--fps", "1000"]) == 0
    out, _ = capsys.readouterr()
    assert "25 runs, 25 to be trained, 1 at once" in out
    assert "25,000,000 frames" in out
    assert "about 6.9 hours at 1 at once" in out
    assert not Path("s").exists()
    assert main([*words, "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["hours"] is None
    assert data["frames_left"] == 25 * data["runs"][0]["frames_left"]
    # One update for every 4 steps of 4 frames after 2,500 steps of warm-up.
    assert data["runs"][0]["updates_left"] == (2_400_000 // 4 - 2_500) // 4


@pytest.mark.parametrize(
    ("words", "said"),
    [
        ([], "sweep needs games"),
        (["--games", "Pong-v5"], "Type: fastdqn sweep --games Pong-v5 --out SWEEP"),
        (["--games", "Pong-v5", "--seeds", "3-1"], "3-1 is no range"),
        (["--games", "all", "--seeds", "1-5000"], "520,000 runs; a sweep has 100,000 at most"),
        (["--games", "Pong-v5", "--jobs", "0"], "--jobs 0: must be a whole number from 1 to 4096"),
        (["--games", "Pong-v5", "--slurm", "nodes=1"], "--slurm is for --engine slurm"),
        (["--games", "Pong-v5", "--engine", "slurm", "--slurm", "x"], "--slurm x: NAME=VALUE is wanted"),
        (["--games", "Pong-v5", "--engine", "slurm", "--runs-per-gpu", "2"], "is not for --engine slurm"),
        (["--games", "Pong-v5", "--engine", "dask"], "dask"),
        (["--games", "Pong-v5", "--seeds", "x"], "numbers and ranges"),
        (["--games", "Pong-v5", "--learner.n-step", "3"], "Type: --set learner.n-step=3"),
        (["--games", "Pong-v5", "--network.dueling"], "Type: --set network.dueling=true"),
        (["--games", "Pong-v5", "--no-confirm-stop"], "Type: --set confirm-stop=false"),
        (["--games", "Pong-v5", "--set", "learner.n-steps=3"], "Did you mean learner.n-step?"),
        (["--games", "Pong-v5", "--set", "learner.n-step"], "FIELD=VALUE is wanted"),
        (["--games", "Pong-v5", "--set", "learner.n-step=x"], "whole number"),
        (["--games", "Pong-v5", "--set", "network.dueling=3"], "true or false"),
        (["--games", "Pong-v5", "--set", "seed=3"], "type --seeds 3"),
        (["--games", "Pong-v5", "--set", "pipeline.threads=2"], "type --threads 2"),
        (["--games", "Pong-v5", "--set"], "--set stands without a value"),
        (["--games", "Pong-v5", "--json"], "--json is for --dry-run"),
        (["--games", "Pong-v5", "--preset", "quik"], "Did you mean quick?"),
        (["--games", "Pang-v5"], "did you mean Pong-v5?"),
        (["--games", "Pong-v5", "--set", "learner.gamma=1.5"], "learner.gamma = 1.5"),
        (["--games", "Pong-v5", "--jobs", "4096"], "cores for them; try --jobs"),
    ],
)
def test_mistakes_are_told_before_anything_is_made(
    words: list[str], said: str, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    out = [] if "SWEEP" in said else ["--out", str(tmp_path / "s")]
    assert said in refused(capsys, "sweep", *words, *out)
    assert not (tmp_path / "s").exists()


def test_the_threads_of_the_run_that_a_configuration_is_from_are_not_the_sweeps(tmp_path: Path) -> None:
    quick = PRESETS["quick"].config
    file = tmp_path / "config.json"
    file.write_text(replace(quick, pipeline=replace(quick.pipeline, threads=2)).to_json())
    assert Config.from_json(file.read_text()).pipeline.threads == 2
    runs = _runs(SweepArguments(games=("Pong-v5",), config=str(file)))
    assert {run.config.pipeline.threads for run in runs} == {0}


def test_values_have_the_types_of_their_fields() -> None:
    words = [
        "learner.n-step=1,3",
        "total_frames=10M",
        "network.dueling=true,no",
        "optimizer.max-grad-norm=none,10",
    ]
    assert _values([*words, "exploration-max=0.5", "stop-at-return=auto"]) == {
        "learner.n_step": [1, 3],
        "total_frames": [10_000_000],
        "network.dueling": [True, False],
        "optimizer.max_grad_norm": [None, 10.0],
        "exploration.max": [0.5],
        "stop_at_return": ["auto"],
    }
    with pytest.raises(UserError, match="twice"):
        _values(["seed-x=1", "learner.n-step=1", "learner.n_step=2"][1:])
    assert _seeds("1,3-5,4") == [1, 3, 4, 5]
    assert _joined(["--set", "a=1", "--jobs", "2", "--set=b=2", "c=3"], ("--set",)) == (
        ["--jobs", "2", "--set", "a=1", "b=2", "c=3"]
    )


RUNS = [
    RunStatus("a", "done", 100, 100, 50.0, 3.0),
    RunStatus("b", "running", 50, 100, 25.0, -1.5, 2.0),
    RunStatus("c", "waiting", 0, 100),
    RunStatus("d", "failed", 10, 100, message="no disk"),
]


def test_the_table_shows_who_runs_first_and_counts_the_rest() -> None:
    stream = io.StringIO()
    Console(file=stream, width=100).print(table(RUNS, rows=8))
    text = stream.getvalue()
    assert "50%" in text
    assert "0:02" in text
    assert "no disk" not in text
    assert text.index(" b ") < text.index(" d ")
    assert "and 1 waiting, 1 done more" in text
    assert totals(RUNS) == (
        "1 running, 1 failed, 1 waiting, 1 done; 160 of 400 frames, 25 frames/s, 0:06 left"
    )


def test_lines_and_json_tell_what_has_changed() -> None:
    plain, rows = io.StringIO(), io.StringIO()
    views = [PlainSweep(plain, now=lambda: 0.0), JsonSweep(rows)]
    for view in views:
        view.show(RUNS)
        view.show(RUNS)
        view.show([RunStatus("b", "done", 100, 100), *RUNS[:1], *RUNS[2:]])
    assert plain.getvalue().splitlines() == [
        "b: running",
        "d: failed: no disk",
        totals(RUNS),
        "b: done",
    ]
    first, second = [json.loads(line)["runs"] for line in rows.getvalue().splitlines()]
    assert [run["name"] for run in first] == ["a", "b", "c", "d"]
    assert [(run["name"], run["state"]) for run in second] == [("b", "done")]


def test_a_terminal_gets_the_table_and_the_sweep_outlives_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    terminal = Terminal()
    with LiveSweep(terminal) as view:
        view.show(RUNS)
        view.say("stopping")
        assert "1 failed" in terminal.getvalue()
        assert "stopping" in terminal.getvalue()
        terminal.gone = True
        view.show(RUNS)
        before = terminal.getvalue()
        view.say("nobody reads this")
    assert terminal.getvalue() == before
