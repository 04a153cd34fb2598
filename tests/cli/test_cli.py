"""The command line: what it takes, what it answers to mistakes, how it ends."""

from __future__ import annotations

import errno
import importlib
import io
import itertools
import json
import os
import shutil
import signal
import subprocess
import sys
import types
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any

import pytest

from fastdqn.cli import COMMANDS, completion, main, mistakes
from fastdqn.cli.arguments import flags_of
from fastdqn.cli.counts import format_count, parse_count
from fastdqn.cli.progress import Json, Plain, Silent, open_progress
from fastdqn.cli.stopping import StopRequest
from fastdqn.cli.train import TrainArguments
from fastdqn.config import Config
from fastdqn.errors import RunFailedError, UserError
from fastdqn.games.actions import known_games
from fastdqn.presets import PRESETS
from tests.views.test_dashboard import EMPTY, LATE, Terminal


@dataclass(frozen=True)
class Summary:
    """What the trainer returns."""

    frames: int = 1000
    frames_per_second: float = 500.0
    updates: int = 10
    episodes: int = 2
    mean_return_20: float | None = -20.5
    seconds: float = 2.0
    run: str = ""
    interrupted: bool = False

    def row(self) -> dict[str, Any]:
        return asdict(self)


class FakeTrainer:
    """Stands where torch and the emulator are; keeps what it was asked for."""

    def __init__(self) -> None:
        self.calls: list[dict[str, Any]] = []
        self.during: Callable[[dict[str, Any]], None] = lambda call: None
        self.stopped = False

    def train(self, run: Any, **call: Any) -> Summary:
        self.calls.append({"run": run, **call})
        call["say"]("compiling")
        call["report"](LATE)
        self.during(call)
        self.stopped = call["stop_requested"]()
        return Summary(run=str(run.path), interrupted=self.stopped)

    @property
    def config(self) -> Config:
        config = self.calls[-1]["run"].config
        assert isinstance(config, Config)
        return config


@pytest.fixture
def trainer(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> FakeTrainer:
    """A trainer without torch; runs go to a folder of the test."""
    monkeypatch.chdir(tmp_path)
    fake = FakeTrainer()
    build = types.SimpleNamespace(check=_check)
    for name, module in {"trainer": fake, "build": build}.items():
        monkeypatch.setitem(sys.modules, f"fastdqn.runs.{name}", module)
        monkeypatch.setattr(f"fastdqn.runs.{name}", module, raising=False)
    return fake


def _check(config: Config, weights: Path | None = None) -> None:
    problems = config.validate()
    if weights and weights.stat().st_size == 0:
        problems.append(f"{weights} is cut short")
    if problems:
        raise UserError("\n".join(problems))


def refused(capsys: pytest.CaptureFixture[str], *words: str, code: int = 2) -> str:
    """Run a command line that must fail, and return what stderr got."""
    assert main(words) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert "Traceback" not in err
    assert err.startswith("fastdqn")
    return err


# Numbers


@pytest.mark.parametrize(
    ("text", "value"),
    [
        *[
            ("0", 0),
            ("64", 64),
            ("10M", 10_000_000),
            ("10m", 10_000_000),
            ("2.5k", 2_500),
            ("1_000_000", 1_000_000),
        ],
        *[
            ("1G", 10**9),
            ("1.5B", 1_500_000_000),
            ("-3", -3),
            ("1e6", 1_000_000),
            ("0.001M", 1_000),
            (" 7 ", 7),
        ],
        ("9007199254740993", 9007199254740993),  # beyond what a float holds
    ],
)
def test_counts(text: str, value: int) -> None:
    assert parse_count(text) == value


_NO_COUNTS = ["", "M", "ten", "1.5", "2.0005k", "1e-3", "inf", "nan", "1 000", "0x10", "1kk", "--3", "1e999"]


@pytest.mark.parametrize("text", [*_NO_COUNTS, "\u0661k"])
def test_what_is_no_whole_number_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="a whole number is wanted"):
        parse_count(text)


@pytest.mark.parametrize("text", ["9" * 20, "1" * 5000, "-" + "1" * 5000, "1e99", "10000000000G"])
def test_a_count_that_nothing_can_hold_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="at most 19 digits"):
        parse_count(text)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        *[(0, "0"), (500, "500"), (1_000, "1k"), (5_000, "5k"), (108_000, "108k"), (1_600_000, "1.6M")],
        *[(200_000_000, "200M"), (1_234_567, "1234567"), (-2_500, "-2.5k"), (10**9, "1G"), (1_500, "1.5k")],
    ],
)
def test_counts_are_written_short_and_exact(value: int, text: str) -> None:
    assert format_count(value) == text
    assert parse_count(text) == value


# Help


@pytest.mark.parametrize("words", [["--help"], ["-h"], ["help"]])
def test_help_names_every_command(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 0
    out, err = capsys.readouterr()
    assert all(command in out for command in COMMANDS)
    assert err == ""


def test_without_a_command_the_help_goes_to_stderr(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert "fastdqn train Pong-v5" in err


def test_help_of_train_lists_every_flag_and_explains_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--help"]) == 0
    out = capsys.readouterr().out
    for flag in flags_of(TrainArguments):
        assert flag == "--game" or flag in out, flag
    assert "Transitions per update." in out  # the docstring under the field
    assert "fastdqn train --resume RUN" in out


@pytest.mark.parametrize("width", [60, 80, 100])
@pytest.mark.parametrize("command", ["train", "evaluate", "record"])
def test_the_lines_of_the_help_are_full(
    command: str, width: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Fails where a description keeps the line breaks of the source: the next word would have fitted."""
    monkeypatch.setenv("COLUMNS", str(width))
    main([command, "--help"])
    _, _, options = capsys.readouterr().out.partition("usage: ")
    lines = [line[2:-2].rstrip() for line in options.splitlines()]  # without the box
    full = 0
    for line, below in itertools.pairwise(lines):
        indent = len(below) - len(below.lstrip())
        if below and indent >= 6 and len(line) - len(line.lstrip()) == indent:  # both are of one description
            assert len(line) + 1 + len(below.split()[0]) > width - 4, (line, below)
            full += 1
    assert full
    assert max(len(line) for line in options.splitlines()) <= width


def test_help_shows_the_defaults_of_the_preset(capsys: pytest.CaptureFixture[str]) -> None:
    main(["train", "--preset", "nature", "--help"])
    nature = capsys.readouterr().out
    main(["train", "--help"])
    quick = capsys.readouterr().out
    assert "(default: 200M)" in nature
    assert f"(default: {format_count(PRESETS['quick'].config.total_frames)})" in quick


def test_help_wins_over_a_mistake(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "--total-timesteps", "3", "--help"]) == 0
    assert "--total-frames" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["evaluate", "info", "presets"])
def test_help_of_the_other_commands(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    assert "--json" in capsys.readouterr().out


def test_version(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out.startswith("fastdqn 0.")


def python(code: str, *, cwd: Path | None = None, **streams: Any) -> subprocess.CompletedProcess[str]:
    streams = streams or {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.run([sys.executable, "-c", code], text=True, cwd=cwd, timeout=60, **streams)


def test_help_imports_nothing_heavy() -> None:
    done = python(
        "import sys; from fastdqn.cli import main\n"
        "main(['--help']); main(['train', '--help']); main(['presets']); main(['--version'])\n"
        "print(*[m for m in ('torch', 'envpool', 'rich') if m in sys.modules], file=sys.stderr)\n"
    )
    assert done.stderr.strip() == ""


# Values arrive


def test_the_preset_is_chosen_first_and_flags_change_it(trainer: FakeTrainer) -> None:
    words = [
        "--learner.batch-size",
        "64",
        "Breakout-v5",
        "--seed=7",
        "--total-frames",
        "10M",
        "--preset",
        "nature",
    ]
    assert main(["train", *words, "--env.no-episodic-life", "--learner.max_grad_norm", "10"]) == 0
    config, nature = trainer.config, PRESETS["nature"].config
    assert (config.game, config.preset, config.seed, config.total_frames) == (
        "Breakout-v5",
        "nature",
        7,
        10_000_000,
    )
    assert config.learner.batch_size == 64
    assert config.learner.max_grad_norm == 10.0
    assert not config.env.episodic_life
    assert config.learner.optimizer == nature.learner.optimizer
    assert config.replay == nature.replay


# Completion


def completed(*words: str) -> list[str]:
    """Return what bash offers after the last word, as it asks the function that the script defines."""
    typed = " ".join(f"'{word}'" for word in ("fastdqn", *words))
    code = f"{completion.script()}\nCOMP_WORDS=({typed}) COMP_CWORD={len(words)}\n_fastdqn\n"
    code += 'printf "%s\\n" "${COMPREPLY[@]}"'
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.stderr == ""
    return done.stdout.split()


@pytest.mark.skipif(shutil.which("bash") is None, reason="needs bash")
@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        (["tr"], ["train"]),
        (["e"], ["evaluate", "export"]),
        (["train", "Breako"], ["Breakout-v5"]),
        (["train", "Pong-v5", "--learner.ba"], ["--learner.batch-size"]),
        (["train", "Pong-v5", "--env.no-f"], ["--env.no-fire-reset", "--env.no-full-action-set"]),
        (["train", "--preset", "d"], ["double", "dueling"]),
        (["train", "Pong-v5", "--learner.optimizer", ""], ["adam", "rmsprop", "adagrad"]),
        (["evaluate", "run", "--protocol", "n"], ["nature"]),
        (["evaluate", "run", "--pro"], ["--protocol"]),
        (["info", "--"], ["--json", "--help"]),
        (["completion", "z"], ["zsh"]),
        (["evaluate", "ru"], []),  # bash's own completion of files takes over
    ],
)
def test_bash_completes(words: list[str], wanted: list[str]) -> None:
    assert completed(*words) == wanted


def test_every_flag_and_command_is_completed() -> None:
    assert set(completed("")) >= set(COMMANDS)
    offered = set(completed("train", "Pong-v5", "--"))
    assert offered == set(flags_of(TrainArguments)) - {"--game"} | {"--help"}


def test_completion_prints_a_script(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["completion", "bash"]) == 0
    assert capsys.readouterr().out == completion.script()
    assert main(["completion", "zsh"]) == 0
    assert "bashcompinit" in capsys.readouterr().out
    assert "bash or zsh" in refused(capsys, "completion", "fish")
    assert "bash or zsh" in refused(capsys, "completion")


# --config


_TOML = """
preset = "nature"
seed = 5
learner.batch_size = 64
[replay]
alpha = 1
"""
_JSON = '{"preset": "nature", "seed": 5, "learner": {"batch_size": 64}, "replay.alpha": 1}'


@pytest.mark.parametrize(("name", "text"), [("c.toml", _TOML), ("c.json", _JSON)])
def test_the_preset_comes_first_the_file_over_it_and_flags_over_both(
    name: str, text: str, trainer: FakeTrainer
) -> None:
    Path(name).write_text(text)
    assert main(["train", "Breakout-v5", "--seed", "7", "--config", name]) == 0
    nature = PRESETS["nature"].config
    assert trainer.config == replace(
        nature,
        game="Breakout-v5",
        seed=7,
        learner=replace(nature.learner, batch_size=64),
        replay=replace(nature.replay, alpha=1.0),
    )


def test_a_runs_own_configuration_is_such_a_file(trainer: FakeTrainer) -> None:
    assert (
        main(["train", "Breakout-v5", "--run-dir", "a", "--preset", "nature", "--learner.gamma", "0.5"]) == 0
    )
    first = trainer.config
    assert main(["train", "--config", "a/config.json", "--run-dir", "b"]) == 0
    assert trainer.config == first


def test_a_file_without_a_preset_changes_the_flags_one(trainer: FakeTrainer) -> None:
    Path("c.toml").write_text('game = "Breakout-v5"\n[learner]\nmax_grad_norm = "none"\n')
    assert main(["train", "--config", "c.toml", "--preset", "dueling"]) == 0
    dueling = PRESETS["dueling"].config
    assert dueling.learner.max_grad_norm is not None
    learner = replace(dueling.learner, max_grad_norm=None)
    assert trainer.config == replace(dueling, game="Breakout-v5", learner=learner)


def test_a_file_names_a_game_or_the_command_line_does(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.json").write_text('{"seed": 3}')
    assert "train needs a game" in refused(capsys, "train", "--config", "c.json")


@pytest.mark.parametrize(
    ("name", "text", "wanted"),
    [
        (
            "c.json",
            '{"learner": {"batch_sise": 3}}',
            "'learner.batch_sise'. Did you mean learner.batch_size?",
        ),
        ("c.toml", "[learner]\nbatch-size = 3", "Did you mean learner.batch_size?"),
        ("c.json", '{"learner": 3}', "learner = 3: an object is wanted"),
        ("c.json", '{"total_frames": "10M"}', "total_frames = '10M': int is wanted"),
        ("c.json", '{"learner": {"loss": "cross"}}', "must be one of huber, squared"),
        ("c.json", '{"seed": -3}', "seed = -3: must be a whole number from 0"),
        ("c.json", "[1]", "an object is wanted, not list"),
        ("c.json", "[1", "not JSON"),
        ("c.json", '{"a":' * 5_000 + "1" + "}" * 5_000, "nested too deeply"),
        ("c.toml", "a=" + "{a=" * 3_000 + "1" + "}" * 3_000, "nested too deeply"),
        ("c.toml", "seed = ", "Invalid value"),
        ("c.json", '{"preset": "natur"}', "there is no preset 'natur'. Did you mean nature?"),
        ("c.json", '{"preset": 3}', "there is no preset '3'"),
        ("c.yaml", "seed: 3", "must end in .json or .toml"),
        ("none.json", None, "there is no such file"),
        ("old", None, "Type: --config old/config.json"),
    ],
)
def test_a_file_that_is_no_configuration_is_refused(
    name: str, text: str | None, wanted: str, trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("old").mkdir()
    Path("old/config.json").write_text("{}")
    if text is not None:
        Path(name).write_text(text)
    err = refused(capsys, "train", "Pong-v5", "--config", name)
    assert wanted in err
    assert not trainer.calls


def test_a_file_that_is_no_text_is_refused(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    Path("c.toml").write_bytes(b"\xff\xfe\x00")
    assert "--config c.toml: " in refused(capsys, "train", "Pong-v5", "--config", "c.toml")


def test_a_preset_beside_a_file_that_names_another_is_refused(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    Path("c.json").write_text('{"preset": "nature"}')
    err = refused(capsys, "train", "Pong-v5", "--config", "c.json", "--preset", "quick")
    assert "c.json says preset = 'nature'" in err
    assert "--config cannot be given" in refused(capsys, "train", "--resume", "old", "--config", "c.json")
    assert main(["train", "Pong-v5", "--config", "c.json", "--preset", "nature"]) == 0


@pytest.mark.parametrize("preset", PRESETS)
def test_a_preset_without_flags_is_the_preset(preset: str, trainer: FakeTrainer) -> None:
    assert main(["train", "Pong-v5", "--preset", preset]) == 0
    assert trainer.config == PRESETS[preset].config


def test_the_default_preset_is_quick(trainer: FakeTrainer) -> None:
    main(["train", "Pong-v5"])
    assert trainer.config == PRESETS["quick"].config


def test_none_can_be_written(trainer: FakeTrainer) -> None:
    main(["train", "Pong-v5", "--preset", "dueling", "--learner.max-grad-norm", "none"])
    assert trainer.config.learner.max_grad_norm is None


@pytest.mark.parametrize("flag", ["--exploration-max", "--exploration.max", "--exploration_max"])
def test_weights_and_the_exploration_maximum(flag: str, trainer: FakeTrainer, tmp_path: Path) -> None:
    (tmp_path / "w.safetensors").write_text("weights")
    assert main(["train", "Pong-v5", "--weights", "w.safetensors", flag, "0.1"]) == 0
    assert trainer.config.exploration.max == 0.1
    assert trainer.calls[0]["weights"] == Path("w.safetensors")
    assert trainer.calls[0]["resume"] is False


def test_every_field_of_the_config_has_a_flag() -> None:
    def leaves(value: dict[str, Any], prefix: str = "--") -> list[str]:
        found = []
        for name, inner in value.items():
            flag = prefix + name.replace("_", "-")
            found += leaves(inner, f"{flag}.") if isinstance(inner, dict) else [flag]
        return found

    assert set(leaves(asdict(Config()))) <= set(flags_of(TrainArguments))
    assert {field.name for field in fields(Config)} <= {field.name for field in fields(TrainArguments)}


# Streams


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


def test_a_broken_pipe_ends_quietly() -> None:
    read, write = os.pipe()
    os.close(read)
    done = python(
        "import sys; from fastdqn.cli import main; sys.exit(main(['presets']))",
        stdout=write,
        stderr=subprocess.PIPE,
    )
    os.close(write)
    assert done.stderr == ""
    assert done.returncode == 1


_FAKE = """
import sys, time, types
import fastdqn.runs
from tests.cli.test_cli import FakeTrainer, _check
fake = FakeTrainer()
for name, module in {"trainer": fake, "build": types.SimpleNamespace(check=_check)}.items():
    sys.modules["fastdqn.runs." + name] = module
    setattr(fastdqn.runs, name, module)
from fastdqn.cli import main
"""
"""Puts a trainer without torch into a process of its own."""


@pytest.mark.parametrize(("words", "code"), [([], 0), (["--seed", "-1"], 2)])
@pytest.mark.parametrize("progress", ["plain", "json"])
def test_a_lost_reader_of_stderr_changes_no_exit_code(
    words: list[str], code: int, progress: str, tmp_path: Path
) -> None:
    """Fails when a training that is complete and saved ends with 1, or with Python's own 120."""
    read, write = os.pipe()
    os.close(read)
    words = ["train", "Pong-v5", "--run-dir", str(tmp_path / "r"), "--progress", progress, *words]
    done = subprocess.run(
        [sys.executable, "-c", _FAKE + "sys.exit(main(sys.argv[1:]))", *words],
        stdout=subprocess.PIPE,
        stderr=write,
        cwd=Path(__file__).parents[2],
    )
    os.close(write)
    assert done.returncode == code
    assert bool(done.stdout) == (code == 0)


@pytest.mark.parametrize("stream", [1, 2])
def test_a_closed_stream_does_no_harm(stream: int) -> None:
    code = f"exec {sys.executable} -m fastdqn presets {stream}>&-"
    done = subprocess.run(["bash", "-c", code], capture_output=True, text=True, timeout=60)
    assert done.returncode == 0
    assert done.stderr == ""


@pytest.mark.parametrize(("encoding", "wanted"), [("utf-8", b"r\xff"), ("ascii", b"r\\udcff")])
def test_a_name_that_is_no_text_is_written_all_the_same(encoding: str, wanted: bytes) -> None:
    code = (
        "import sys, types\n"
        "from fastdqn import cli\n"
        "sys.modules['fastdqn.cli.info'] = types.SimpleNamespace(main=lambda words: print(words[0]) or 0)\n"
        "sys.exit(cli.main(['info', 'r\\udcff']))"
    )
    environment = {**os.environ, "PYTHONIOENCODING": encoding}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, env=environment, timeout=60)
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.strip() == wanted


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


# Resuming


def test_resume_takes_the_runs_own_configuration(trainer: FakeTrainer) -> None:
    main(["train", "Seaquest-v5", "--preset", "double", "--seed", "5", "--run-dir", "r"])
    assert main(["train", "--resume", "r", "--progress", "none"]) == 0
    first, second = trainer.calls
    assert second["resume"] is True
    assert second["run"].config == first["run"].config


def test_resume_can_make_a_run_longer_and_the_run_remembers(trainer: FakeTrainer) -> None:
    main(["train", "Pong-v5", "--run-dir", "r", "--total-frames", "1M"])
    assert main(["train", "--resume", "r", "--total-frames", "2M"]) == 0
    assert trainer.config.total_frames == 2_000_000
    main(["train", "--resume", "r"])
    assert trainer.config.total_frames == 2_000_000


def test_resume_refuses_a_bad_length_and_keeps_the_configuration(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "Pong-v5", "--run-dir", "r", "--total-frames", "1M"])
    capsys.readouterr()
    assert "total_frames = 0" in refused(capsys, "train", "--resume", "r", "--total-frames", "0")
    assert json.loads(Path("r/config.json").read_text())["total_frames"] == 1_000_000


@pytest.mark.parametrize(
    "words",
    [
        ["Pong-v5"],
        ["--seed", "3"],
        ["--learner.batch-size", "8"],
        ["--weights", "x"],
        ["--preset", "quick"],
        ["--overwrite"],
    ],
)
def test_resume_takes_nothing_else(
    words: list[str], trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    err = refused(capsys, "train", "--resume", "r", *words)
    assert words[0] in err
    assert "fastdqn train --resume r" in err
    assert not trainer.calls


def test_inexact_goes_with_resume_alone(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["train", "Pong-v5", "--run-dir", "r", "--progress", "none"]) == 0
    assert main(["train", "--resume", "r", "--inexact", "--progress", "none"]) == 0
    assert [call["inexact"] for call in trainer.calls] == [False, True]
    capsys.readouterr()
    assert "--resume RUN --inexact" in refused(capsys, "train", "Pong-v5", "--inexact")


def test_resume_of_nothing(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    assert "does not exist" in refused(capsys, "train", "--resume", "nowhere")


# Mistakes


@pytest.mark.parametrize(
    ("words", "wanted"),
    [
        ("trian", ["'trian'", "Did you mean train?", "evaluate, record, plot, export, games, presets, info"]),
        ("test RUN --json", ["fastdqn evaluate RUN --json"]),
        ("resume RUN", ["fastdqn train --resume RUN"]),
        ("Pong-v5 --seed 3", ["fastdqn train Pong-v5 --seed 3"]),
        ("--seed 3", ["fastdqn train GAME --seed 3"]),
        ("train", ["needs a game", "fastdqn train Pong-v5"]),
        ("train Pong-v5 Breakout-v5", ["'Breakout-v5' is a word too many"]),
        (
            "train Pong-v5 --preset natur",
            ["'natur'", "Did you mean nature?", "quick, nature, double, dueling"],
        ),
        (
            "train Pong-v5 --preset rainbow",
            ["'rainbow'", "quick, nature, double, dueling", "fastdqn presets"],
        ),
        ("train Pong-v5 --totalframes 3", ["--totalframes", "Did you mean --total-frames?"]),
        ("train Pong-v5 --learner.batchsize 3", ["Did you mean --learner.batch-size?"]),
        ("train Pong-v5 --xyzzy", ["no flag --xyzzy", "--help"]),
        ("train Pong-v5 -n 3", ["no flag -n"]),
        ("train Pong-v5 --seed", ["--seed stands without a value"]),
        ("train Pong-v5 --seed --overwrite", ["--seed stands without a value"]),
        ("train Pong-v5 --seed=", ["--seed", "a whole number is wanted"]),
        ("train Pong-v5 --seed 1.5", ["--seed 1.5", "a whole number is wanted", "10M"]),
        ("train Pong-v5 --total-frames 10X", ["--total-frames 10X", "a whole number is wanted"]),
        ("train Pong-v5 --learner.gamma much", ["--learner.gamma much", "a number is wanted"]),
        ("train Pong-v5 --learner.max-grad-norm no", ["--learner.max-grad-norm no", "a number is wanted"]),
        ("train Pong-v5 --learner.optimizer adm", ["adam, rmsprop, adagrad", "did you mean adam?"]),
        ("train Pong-v5 --progress loud", ["auto, live, plain, json, none"]),
        ("train Pong-v5 --network.dueling True", ["takes no value", "--network.no-dueling"]),
        ("train Pong-v5 --env.no-clip-rewards=yes", ["takes no value", "--env.clip-rewards"]),
        ("train Pong-v5 --overwrite=yes", ["--overwrite takes no value"]),
        ("train Pong-v5 --run-dir=", ["--run-dir", "a value is wanted"]),
        ("train Pong-v5 --weights nowhere", ["--weights nowhere", "no such run or file"]),
        ("train Pong-v5 --weights none", ["--weights none", "no such run or file"]),
        ("train Pong-v5 --total-frames 0 --seed -1", ["total_frames = 0", "seed = -1"]),
        ("train Pong-v5 --exploration-max 2", ["exploration.max = 2.0"]),
        ("train Pong-v5 --learner.learning-rate nan", ["learner.learning_rate = nan"]),
        ("evaluate", ["needs the folder of a run", "fastdqn evaluate RUN"]),
        ("evaluate r --episodes many", ["--episodes many", "a whole number is wanted"]),
        ("evaluate r --protocol x", ["--protocol x: one of nature, machado, own is wanted"]),
        ("evaluate r --protocol matchado", ["did you mean machado?"]),
        ("evaluate r --episode 3", ["Did you mean --episodes?"]),
        ("evaluate r --total-timesteps 3", ["no flag --total-timesteps"]),
        ("evaluate r r", ["a word too many"]),
        ("presets quick", ["a word too many"]),
        ("info --jsn", ["Did you mean --json?"]),
    ],
)
def test_mistakes_are_answered(
    words: str, wanted: list[str], trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    err = refused(capsys, *words.split())
    for part in wanted:
        assert part in err, err
    assert not trainer.calls
    assert not list(Path().iterdir()), "a mistake leaves nothing behind"


@pytest.mark.parametrize(
    ("words", "ours"),
    [
        ("--total-timesteps 10000000", "Type: --total-frames 40M"),
        ("--total_timesteps=2.5M", "Type: --total-frames 10M"),
        ("--total-timesteps", "N, with N 4 times your number"),
        ("--env-id Pong-v5", "Type: fastdqn train Pong-v5"),
        ("--env-id ALE/Pong-v5", "Type: fastdqn train Pong-v5"),
        ("--env BreakoutNoFrameskip-v4", "Type: fastdqn train Breakout-v5"),
        ("--env", "Type: fastdqn train Pong-v5"),
        ("--learning-rate 1e-4", "Type: --learner.learning-rate 1e-4"),
        ("--lr=1e-4", "Type: --learner.learning-rate 1e-4"),
        ("--batch-size 64", "Type: --learner.batch-size 64"),
        ("--gamma 0.9", "Type: --learner.gamma 0.9"),
        ("--buffer-size 100k", "Type: --replay.capacity 100k"),
        ("--num-envs 4", "Type: --env.num-envs 4"),
        ("--learning-starts 80000", "Type: --replay.warmup-steps 80000"),
        ("--train-frequency 4", "Type: --learner.steps-per-update 4"),
        ("--target-network-frequency 1000", "divided by --learner.steps-per-update"),
        ("--start-e 1", "Type: --exploration.max 1"),
        ("--exploration-fraction 0.1", "Type: --exploration.decay-frames N"),
        ("--epsilon 0.1", "--exploration.min"),
        ("--device cuda", "fastdqn info"),
    ],
)
def test_foreign_words_are_answered_with_ours(
    words: str, ours: str, trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    err = refused(capsys, "train", "Pong-v5", *words.split())
    assert f"there is no flag {words.partition(' ')[0].partition('=')[0]}" in err
    assert ours in err


def test_the_unit_is_explained(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    assert "a timestep (one action) is 4 of them" in refused(capsys, "train", "X", "--total-timesteps", "1")


def test_every_answer_to_a_foreign_word_names_flags_that_exist() -> None:
    flags = {*flags_of(TrainArguments), *mistakes_aliases()}
    for name, (ours, why) in mistakes._FOREIGN.items():
        for word in f"{ours} {why}".replace("(", " ").replace(")", " ").split():
            if word.startswith("--"):
                assert word.rstrip(".,") in flags, (name, word)
        assert f"--{name}" not in flags - {"--game"}, name  # GAME stands without a flag


def mistakes_aliases() -> set[str]:
    return set(importlib.import_module("fastdqn.cli.train")._ALIASES)


def test_a_run_folder_that_exists_is_refused(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "Pong-v5", "--run-dir", "r"])
    capsys.readouterr()
    err = refused(capsys, "train", "Pong-v5", "--run-dir", "r")
    assert "--resume r" in err
    assert main(["train", "Pong-v5", "--run-dir", "r", "--overwrite"]) == 0


@pytest.mark.parametrize("words", [["--resume", "r"], ["Pong-v5", "--run-dir", "r", "--overwrite"]])
def test_a_run_that_is_being_trained_is_refused_in_one_line(
    words: list[str], trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    def again(call: dict[str, Any]) -> None:
        capsys.readouterr()  # what the first one has said
        err = refused(capsys, "train", *words)
        assert err.count("\n") == 1
        assert f"r is being trained by process {os.getpid()} on" in err

    trainer.during = again
    assert main(["train", "Pong-v5", "--run-dir", "r"]) == 0
    trainer.during = lambda call: None
    assert main(["train", *words]) == 0


def test_overwrite_keeps_the_old_run_when_the_new_one_cannot_start(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    main(["train", "Pong-v5", "--run-dir", "r", "--seed", "5"])
    capsys.readouterr()
    Path("bad.safetensors").touch()
    words = ["train", "Pong-v5", "--run-dir", "r", "--overwrite", "--weights", "bad.safetensors"]
    assert "bad.safetensors is cut short" in refused(capsys, *words)
    assert json.loads(Path("r/config.json").read_text())["seed"] == 5


def test_messages_of_several_lines_are_indented(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    err = refused(capsys, "train", "Pong-v5", "--total-frames", "0", "--seed", "-1", "--env.num-envs", "0")
    first, *more = err.splitlines()
    assert first.startswith("fastdqn train: ")
    assert all(line.startswith("  ") for line in more)
    assert len(more) == 2


@pytest.mark.parametrize(
    "command", [["train", "trian", "--total-timesteps", "5"], ["evaluate", "/nowhere"], ["nonsense"]]
)
def test_mistakes_end_a_real_process_with_2_and_no_traceback(command: list[str]) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "fastdqn", *command], capture_output=True, text=True, timeout=60
    )
    assert done.returncode == 2
    assert done.stdout == ""
    assert done.stderr.startswith("fastdqn")
    assert "Traceback" not in done.stderr


# Failures while running


def _raise(error: BaseException) -> Callable[[Any], None]:
    def during(_: Any) -> None:
        raise error

    return during


@pytest.mark.parametrize(
    ("error", "code", "wanted"),
    [
        (RunFailedError("the loss is nan at frame 5"), 1, "the loss is nan"),
        (UserError("the checkpoint is of another network"), 2, "another network"),
        (
            OSError(28, "No space left on device", "/data/metrics.jsonl"),
            1,
            "/data/metrics.jsonl: No space left",
        ),
        (KeyboardInterrupt(), 130, "stopped at once"),
    ],
)
def test_a_run_that_fails_says_why(
    error: BaseException, code: int, wanted: str, trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.during = _raise(error)
    assert main(["train", "Pong-v5", "--progress", "none"]) == code
    out, err = capsys.readouterr()
    assert out == ""
    assert wanted in err


def test_a_bug_is_not_hidden(trainer: FakeTrainer) -> None:
    trainer.during = _raise(ZeroDivisionError())
    with pytest.raises(ZeroDivisionError):
        main(["train", "Pong-v5", "--progress", "none"])


# The extra


@pytest.mark.parametrize("package", ["torch", "envpool", "rich", "safetensors"])
@pytest.mark.parametrize("words", [["train", "Pong-v5"], ["evaluate", "r"]])
def test_a_missing_package_is_named_with_the_pip_line(
    package: str,
    words: list[str],
    trainer: FakeTrainer,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setitem(sys.modules, package, None)
    err = refused(capsys, *words)
    assert f"{package} is not installed" in err
    assert 'pip install "fastdqn[train]"' in err
    assert not trainer.calls
    assert not list(Path().iterdir())


@pytest.mark.parametrize("command", ["train Pong-v5", "train --help", "evaluate r", "record r", "export r"])
def test_without_any_of_the_extra(command: str) -> None:
    done = python(
        "import sys\n"
        "for name in ('torch', 'envpool', 'rich', 'safetensors', 'tyro'): sys.modules[name] = None\n"
        "from fastdqn.cli import main\n"
        f"sys.exit(main({command.split()!r}))"
    )
    assert done.returncode == 2
    assert "torch, envpool, rich, safetensors, tyro are not installed" in done.stderr
    assert 'pip install "fastdqn[train]"' in done.stderr
    assert "Traceback" not in done.stderr


def test_help_and_version_work_without_the_extra() -> None:
    done = python(
        "import sys; sys.modules['tyro'] = None\n"
        "from fastdqn.cli import main; sys.exit(main(['--help']) + main(['--version']))"
    )
    assert done.returncode == 0
    assert done.stderr == ""


def test_an_extension_that_is_not_built_is_explained(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    trainer.during = _raise(ImportError("cannot import name '_core' from 'fastdqn'", name="fastdqn"))
    assert main(["train", "Pong-v5", "--progress", "none"]) == 2
    assert "make setup" in capsys.readouterr().err


def test_another_import_error_is_a_bug(trainer: FakeTrainer) -> None:
    trainer.during = _raise(ModuleNotFoundError("No module named 'nonsense'", name="nonsense"))
    with pytest.raises(ModuleNotFoundError):
        main(["train", "Pong-v5", "--progress", "none"])


# Signals


@pytest.fixture(autouse=True)
def signals_are_heard() -> Iterator[None]:
    """Whoever runs the tests may ignore some: nohup does, and scripts for what they start with `&`."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGHUP, 129)]
)
def test_the_first_signal_stops_and_names_the_resume_command(
    number: signal.Signals, code: int, trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    before = signal.getsignal(number)
    trainer.during = lambda _: os.kill(os.getpid(), number)
    assert main(["train", "Pong-v5", "--run-dir", "r", "--progress", "none"]) == code
    out, err = capsys.readouterr()
    assert json.loads(out)["interrupted"] is True
    assert "fastdqn train --resume r" in err
    assert signal.getsignal(number) == before


def test_the_second_signal_stops_at_once(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    def twice(_: Any) -> None:
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGTERM)
        raise AssertionError("still running")

    trainer.during = twice
    assert main(["train", "Pong-v5", "--progress", "none"]) == 143
    out, err = capsys.readouterr()
    assert out == ""
    assert "stopped at once" in err


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest(lambda line: None) as stop:
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested()
        assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_stop_is_told_once() -> None:
    said: list[str] = []
    with StopRequest(said.append) as stop:
        assert not stop.requested()
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested()
        assert stop.requested()
    assert len(said) == 1
    assert "SIGINT" in said[0]


_SLOW_TRAINER = (
    _FAKE
    + """
def during(call):
    print("running", file=sys.stderr, flush=True)
    for _ in range(2000):
        time.sleep(0.01)
        if call["stop_requested"]():
            return
fake.during = during
sys.exit(main(["train", "Pong-v5", "--run-dir", sys.argv[1]]))
"""
)


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_signal_from_outside_ends_a_real_process(number: signal.Signals, code: int, tmp_path: Path) -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", _SLOW_TRAINER, str(tmp_path / "r")],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=Path(__file__).parents[2],
    )
    assert process.stderr
    while "running" not in process.stderr.readline():
        assert process.poll() is None
    process.send_signal(number)
    out, err = process.communicate(timeout=30)
    assert process.returncode == code
    assert json.loads(out)["interrupted"] is True
    assert f"fastdqn train --resume {tmp_path / 'r'}" in err
    assert "Traceback" not in err


# The other commands


def test_presets_shows_where_they_differ(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets"]) == 0
    out = capsys.readouterr().out
    assert max(len(line) for line in out.splitlines()) <= 80
    for name, preset in PRESETS.items():
        assert name in out
        assert preset.source.split()[0] in out
    row = next(line for line in out.splitlines() if line.startswith("--learner.n-step"))
    assert row.split()[1:] == [str(preset.config.learner.n_step) for preset in PRESETS.values()]
    assert "--learner.batch-size" not in out  # the same in all


def test_presets_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["presets", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert list(data) == list(PRESETS)
    for name, preset in PRESETS.items():
        assert Config.from_json(json.dumps(data[name]["config"])) == preset.config


@dataclass(frozen=True)
class Evaluation:
    """What the evaluation returns."""

    game: str = "Pong-v5"
    episodes: int = 2
    epsilon: float = 0.05
    seed: int = 0
    protocol: str = "nature"

    def row(self) -> dict[str, Any]:
        scores = {
            "human_normalized": 1.153,
            "mean": 20.0,
            "median": 20.0,
            "std": 1.0,
            "min": 19.0,
            "max": 21.0,
            "returns": [19.0, 21.0],
        }
        return {**asdict(self), "weights": "r/online.safetensors", **scores}


@pytest.fixture
def evaluator(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> list[dict[str, Any]]:
    monkeypatch.chdir(tmp_path)
    calls: list[dict[str, Any]] = []

    def evaluate(run: Any, *, on_episode: Callable[[int, float], None], **call: Any) -> Evaluation:
        calls.append({"run": run, **call})
        on_episode(1, 19.0)
        on_episode(2, 21.0)
        return Evaluation()

    monkeypatch.setitem(sys.modules, "fastdqn.runs.evaluation", types.SimpleNamespace(evaluate=evaluate))
    Path("r").mkdir()
    Path("r/config.json").write_text(Config().to_json())
    return calls


def test_evaluate_as_json(evaluator: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "r", "--episodes", "2", "--epsilon", "0.01", "--seed", "3", "--json"]) == 0
    out, err = capsys.readouterr()
    assert out.count("\n") == 1
    assert json.loads(out) == Evaluation().row()
    assert "game 2: 21" in err
    call = evaluator[0]
    assert (call["episodes"], call["epsilon"], call["seed"], call["run"].path) == (2, 0.01, 3, Path("r"))


def test_evaluate_as_a_table(evaluator: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["evaluate", "r"]) == 0
    out = capsys.readouterr().out
    assert "Pong-v5: 2 games, epsilon 0.05, seed 0" in out
    assert ["mean", "20.0"] in [line.split() for line in out.splitlines()]
    assert "human       115.3%" in out
    assert "Wang et al. 2016" in out
    call = evaluator[0]
    assert (call["which"], call["protocol"], call["episodes"], call["epsilon"]) == ("last", None, None, None)


def test_evaluate_takes_a_checkpoint_and_a_protocol(evaluator: list[dict[str, Any]]) -> None:
    assert main(["evaluate", "r", "--checkpoint", "1.2M", "--protocol", "machado", "--noop-max", "3"]) == 0
    assert main(["evaluate", "r", "--checkpoint", "best", "--sticky-actions", "0.5"]) == 0
    assert [call["which"] for call in evaluator] == [1_200_000, "best"]
    assert [call["protocol"] for call in evaluator] == ["machado", None]
    assert (evaluator[0]["noop_max"], evaluator[1]["sticky_actions"]) == (3, 0.5)


def test_evaluate_refuses_a_checkpoint_that_is_no_number(capsys: pytest.CaptureFixture[str]) -> None:
    assert "last, best or a number of frames" in refused(capsys, "evaluate", "r", "--checkpoint", "newest")


def test_the_frames_between_evaluations_have_a_short_name(trainer: FakeTrainer) -> None:
    assert main(["train", "Pong-v5", "--evaluate-every-frames", "1M", "--progress", "none"]) == 0
    assert trainer.config.evaluation.every_frames == 1_000_000


@pytest.fixture
def light_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Stands for torch and envpool, whose import takes seconds."""
    cuda = types.SimpleNamespace(is_available=lambda: False)
    version = types.SimpleNamespace(cuda=None)
    torch = types.SimpleNamespace(cuda=cuda, version=version, get_num_threads=lambda: 2, __spec__="found")
    monkeypatch.setitem(sys.modules, "torch", torch)
    for name in ("envpool", "safetensors"):
        monkeypatch.setitem(sys.modules, name, types.SimpleNamespace(__spec__="found"))
    monkeypatch.setitem(sys.modules, "fastdqn.engine.device", types.SimpleNamespace(gpu_name=lambda: None))


@pytest.mark.usefixtures("light_torch")
def test_info(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["info"]) == 0
    out = capsys.readouterr().out
    for wanted in ("fastdqn", "python", "torch build", "CPU only", "cores", "memory", "envpool", "tyro"):
        assert wanted in out


@pytest.mark.usefixtures("light_torch")
def test_info_as_json_tells_what_is_missing(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "envpool", None)
    monkeypatch.setenv("PATH", "")
    assert main(["info", "--json"]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert len(facts["missing"]) == 2
    assert facts["missing"][0].startswith("envpool is not installed")
    assert 'pip install "fastdqn[train]"' in facts["missing"][0]
    assert facts["missing"][1].startswith("a C++ compiler (g++)")


_EXTRAS = ("torch", "envpool", "rich", "safetensors", "tyro", "typeguard", "docstring_parser", "matplotlib")


def bare(*words: str) -> subprocess.CompletedProcess[str]:
    """Run a command line where numpy alone is installed."""
    return python(
        "import sys\n"
        f"for name in {_EXTRAS}: sys.modules[name] = None\n"
        "from fastdqn.cli import main\n"
        f"sys.exit(main({list(words)}))"
    )


def test_a_bare_install_lists_the_presets() -> None:
    done = bare("presets")
    assert (done.returncode, done.stderr) == (0, "")
    assert "--replay.capacity" in done.stdout
    assert set(json.loads(bare("presets", "--json").stdout)) == set(PRESETS)


def test_a_bare_install_lists_the_games_and_says_what_playing_needs() -> None:
    done = bare("games")
    assert done.returncode == 0
    assert "Pong-v5                  6   18  noop, fire, right, left, right-fire, left-fire" in done.stdout
    assert "104 games" in done.stdout
    assert "envpool, rich, safetensors, tyro are not installed" in done.stderr
    assert list(json.loads(bare("games", "--json").stdout)) == known_games()


def test_a_bare_install_tells_what_is_there_and_once_what_is_missing() -> None:
    done = bare("info")
    assert (done.returncode, done.stderr) == (0, "")
    for wanted in ("fastdqn  ", "python  ", "numpy  ", "cores  ", "memory  "):
        assert wanted in done.stdout
    assert done.stdout.count('pip install "fastdqn[train]"') == 1


@pytest.mark.parametrize("command", ["info", "games", "presets"])
def test_a_bare_install_has_their_help(command: str) -> None:
    done = bare(command, "--help")
    assert (done.returncode, done.stderr) == (0, "")
    assert f"usage: fastdqn {command} [-h] [--json]" in done.stdout


_INTERRUPTED_IMPORT = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Finder:
    def find_spec(self, name, path=None, target=None):
        if name == sys.argv[1]:
            sys.meta_path.remove(self)
            os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Finder())
from fastdqn.cli import main
code = main(["games"])
print("done", file=sys.stderr)
sys.exit(code)
"""


@pytest.mark.parametrize("module", ["fastdqn.errors", "fastdqn.openmp", "fastdqn.cli.games", "tyro"])
def test_an_interrupt_while_something_is_imported_ends_with_130_and_without_a_traceback(module: str) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _INTERRUPTED_IMPORT, module], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 130, done.stderr
    assert "Traceback" not in done.stderr
    assert len(done.stderr.splitlines()) <= 2


def test_an_import_error_made_of_an_interrupt_is_one(
    trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    error = ImportError("numpy's C-extensions failed", name="torch")
    error.__cause__ = KeyboardInterrupt()
    trainer.during = _raise(error)
    assert main(["train", "Pong-v5", "--progress", "none"]) == 130
    assert "pip install" not in capsys.readouterr().err


def test_an_interrupt_while_the_command_line_is_looked_for_is_quiet(tmp_path: Path) -> None:
    """The script that pip makes imports it outside of any `try`."""
    script = tmp_path / "fastdqn"
    script.write_text(_INTERRUPTED_IMPORT)
    done = subprocess.run(
        [sys.executable, str(script), "fastdqn.cli"], capture_output=True, text=True, timeout=300
    )
    assert done.returncode == -signal.SIGINT  # a shell calls it 130
    assert done.stderr == ""


def test_the_package_begins_with_no_slow_import() -> None:
    done = python("import sys; before = set(sys.modules); import fastdqn; print(*set(sys.modules) - before)")
    assert "fastdqn" in done.stdout.split()
    assert not {"pathlib", "typing", "re", "dataclasses"} & set(done.stdout.split())


@pytest.mark.parametrize(
    ("number", "code"),
    [("ENAMETOOLONG", 2), ("ENOTDIR", 2), ("EACCES", 2), ("EROFS", 2), ("ENOSPC", 1), ("EIO", 1)],
)
def test_a_path_that_cannot_be_is_the_users_and_a_broken_disk_is_not(
    number: str, code: int, trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]
) -> None:
    wrong = getattr(errno, number)
    trainer.during = _raise(OSError(wrong, os.strerror(wrong), "/some/path"))
    assert main(["train", "Pong-v5", "--progress", "none"]) == code
    assert f"/some/path: {os.strerror(wrong)}" in capsys.readouterr().err


def test_what_is_quoted_is_cut_short(trainer: FakeTrainer, capsys: pytest.CaptureFixture[str]) -> None:
    err = refused(capsys, "train", "x" * 50_000)
    assert len(err) < 1500
    err = refused(capsys, "train", "Pong-v5", "--seed", "1" * 5000)
    assert "at most 19 digits" in err
    assert len(err) < 1500
