"""Help: complete, as wide as the terminal, and without anything heavy."""

from __future__ import annotations

import itertools

import pytest

from fastdqn.cli import COMMANDS, main
from fastdqn.cli.arguments import flags_of
from fastdqn.cli.counts import format_count
from fastdqn.cli.train import TrainArguments
from fastdqn.presets import PRESETS
from tests.cli.fakes import python


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


def test_help_imports_nothing_heavy() -> None:
    done = python(
        "import sys; from fastdqn.cli import main\n"
        "main(['--help']); main(['train', '--help']); main(['presets']); main(['--version'])\n"
        "print(*[m for m in ('torch', 'envpool', 'rich') if m in sys.modules], file=sys.stderr)\n"
    )
    assert done.stderr.strip() == ""


def test_the_package_begins_with_no_slow_import() -> None:
    done = python("import sys; before = set(sys.modules); import fastdqn; print(*set(sys.modules) - before)")
    assert "fastdqn" in done.stdout.split()
    assert not {"pathlib", "typing", "re", "dataclasses"} & set(done.stdout.split())
