"""What the Tab key completes."""

from __future__ import annotations

import shutil
import subprocess

import pytest

from fastdqn.cli import COMMANDS, completion, main
from fastdqn.cli.arguments import flags_of
from fastdqn.cli.train import TrainArguments
from tests.cli.fakes import refused


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
        (["train", "Pong-v5", "--optimizer.name", ""], ["adam", "rmsprop", "adagrad"]),
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
