"""What is said where packages are missing, and what works without them."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from fastdqn.cli import main
from fastdqn.games.actions import known_games
from fastdqn.presets import PRESETS
from tests.cli.fakes import FakeTrainer, python, raising, refused


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


@pytest.mark.parametrize(("engine", "package"), [("ray", "ray"), ("slurm", "submitit")])
def test_a_sweep_names_what_its_engine_needs(
    engine: str,
    package: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(sys.modules, package, None)
    words = ["sweep", "--games", "Pong-v5", "--out", "s", "--engine", engine]
    err = refused(capsys, *words)
    assert f"{package} is not installed; sweeping on {engine.title()} needs the extra {engine}." in err
    assert f'Type: pip install "fastdqn[{engine}]"' in err
    assert not list(tmp_path.iterdir())
    assert main([*words, "--dry-run"]) == 0
    assert f"3 runs, 3 to be trained, on {engine}" in capsys.readouterr().out


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
    trainer.during = raising(ImportError("cannot import name '_core' from 'fastdqn'", name="fastdqn"))
    assert main(["train", "Pong-v5", "--progress", "none"]) == 2
    assert "make setup" in capsys.readouterr().err


def test_another_import_error_is_a_bug(trainer: FakeTrainer) -> None:
    trainer.during = raising(ModuleNotFoundError("No module named 'nonsense'", name="nonsense"))
    with pytest.raises(ModuleNotFoundError):
        main(["train", "Pong-v5", "--progress", "none"])


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
