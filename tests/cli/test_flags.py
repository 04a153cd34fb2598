"""The library names fields, the command line flags, and one place turns the ones into the others."""

from __future__ import annotations

import ast
import importlib
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from fastdqn.cli import COMMANDS
from fastdqn.cli.arguments import flags_of
from fastdqn.cli.flags import ALIASES, flag_of, in_flags

PACKAGE = Path(__file__).parents[2] / "fastdqn"
NO_MESSAGES = {  # arguments of git, and those that a sweep gives to `fastdqn train`
    *("--porcelain", "--resume", "--config", "--run-dir", "--overwrite", "--progress", "--stop-on-eof"),
}
FLAG = re.compile(r"(?<![\w-])--[a-z1]")


@pytest.mark.parametrize(
    ("said", "typed"),
    [
        ("a smaller `replay.capacity` needs less", "a smaller --replay.capacity needs less"),
        ("`env.num_envs` or `weights`", "--env.num-envs or --weights"),
        ("try `learner.gamma = 0.5`", "try --learner.gamma 0.5"),
        ("`checkpoint.replay = 'on'` keeps it", "--checkpoint.replay on keeps it"),
        ("`optimizer.max_grad_norm = None`", "--optimizer.max-grad-norm none"),
        ("`overwrite = True`, `network.dueling = False`", "--overwrite, --network.no-dueling"),
        ("on: `resume_training('a run', inexact=True)`", "on: fastdqn train --resume 'a run' --inexact"),
        ("`train(..., weights='r/policy.pt')`", "fastdqn train GAME --weights r/policy.pt"),
        ("`fastdqn info` tells, `wandb sync` sends", "`fastdqn info` tells, `wandb sync` sends"),
        ("`print('no command')`, `1 + 1`, `\0`", "`print('no command')`, `1 + 1`, `\0`"),
    ],
)
def test_python_in_backquotes_becomes_what_is_typed(said: str, typed: str) -> None:
    assert in_flags(said) == typed


@pytest.mark.parametrize(
    ("words", "told"),
    [
        ("--seed -1", "--seed -1: must be"),
        ("--seed=-1", "--seed -1: must be"),
        ("--preset nature", "seed = -1: must be"),
        ("--seeds 3", "seed = -1: must be"),
    ],
)
def test_a_value_is_told_by_its_flag_where_that_was_given(words: str, told: str) -> None:
    assert in_flags("seed = -1: must be", ["train", "Pong-v5", *words.split()]) == told


def test_values_of_files_and_of_others_keep_their_names() -> None:
    words = ["train", "--seed", "3", "--replay.capacity", "10", "--exploration-max", "0.05"]
    said = "r/config.json: seed = -1: must be"
    assert in_flags(said, words) == said
    said = "exploration.min = 0.1: must not be above exploration.max = 0.05\nx.replay.capacity = 10: no"
    assert in_flags(said, words) == (
        "exploration.min = 0.1: must not be above --exploration-max 0.05\nx.replay.capacity = 10: no"
    )
    said = "replay.capacity = 10: too small; try `replay.capacity = 40`"
    assert in_flags(said, words) == "--replay.capacity 10: too small; try --replay.capacity 40"


def test_several_processes_go_on_as_they_began(monkeypatch: pytest.MonkeyPatch) -> None:
    assert in_flags("with `torchrun`") == "with torchrun --nproc-per-node N -m fastdqn train ..."
    assert in_flags("`resume_training('R')`") == "fastdqn train --resume R"
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert in_flags("`resume_training('R')`") == "torchrun --nproc-per-node 2 -m fastdqn train --resume R"
    assert in_flags("`evaluate('R')`") == "fastdqn evaluate R"


def messages(source: str) -> Iterator[str]:
    """The strings of a module that are no docstrings; a 1 stands where a value is put in."""
    tree = ast.parse(source)
    # A string that is a statement explains what stands before it.
    explaining = {node.value for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    parts = {part for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            yield "".join(str(part.value) if isinstance(part, ast.Constant) else "1" for part in node.values)
        elif (
            isinstance(node, ast.Constant) and isinstance(node.value, str) and node not in explaining | parts
        ):
            yield node.value


def flags_in(source: str) -> list[str]:
    """The strings of a module that name flags."""
    return [text for text in messages(source) if FLAG.search(text) and text not in NO_MESSAGES]


def offers_in(source: str) -> list[str]:
    """What the messages of a module offer in backquotes, as it is typed."""
    quoted = [code for text in messages(source) for code in re.findall(r"`[^`\n]+`", text)]
    return [typed for typed in map(in_flags, quoted) if not typed.startswith("`")]


def test_no_module_outside_the_command_line_names_a_flag() -> None:
    files = [path for path in PACKAGE.rglob("*.py") if "cli" not in path.relative_to(PACKAGE).parts]
    assert len(files) > 40
    assert {path.name: found for path in files if (found := flags_in(path.read_text()))} == {}


@pytest.mark.parametrize(
    "line",
    [
        'raise UserError(f"--seed {seed}: must be from 0")',
        'raise UserError(f"{path} is there; continue it with --resume {path}")',
        "say(f\"try --{name.replace('_', '-')} 3\")",
        'raise UserError("a smaller "\n"--replay.capacity needs less")',
    ],
)
def test_a_planted_flag_is_seen(line: str) -> None:
    assert flags_in(line)


def test_what_messages_offer_can_be_typed() -> None:
    """Fails where a field was renamed and a message was forgotten, and where backquotes hold another word."""
    known = {"GAME", "1", "--nproc-per-node", *ALIASES}
    for command in set(COMMANDS) - {"completion"}:
        known |= set(flags_of(importlib.import_module(f"fastdqn.cli.{command}").COMMAND.takes))
    offers = [offer for path in PACKAGE.rglob("*.py") for offer in offers_in(path.read_text())]
    assert len(offers) > 15
    for offer in offers:
        flags = re.findall(r"--\S+", offer)
        assert flags, offer
        assert set(flags) <= known, offer
    assert offers_in('f"try `replay.capcity = {n}`"') == ["--replay.capcity 1"]


def test_a_field_has_its_flag() -> None:
    assert flag_of("replay.warmup_steps") == "--replay.warmup-steps"
    assert flag_of("seed", 3) == "--seed 3"
    assert flag_of("env.clip_rewards", False) == "--env.no-clip-rewards"
