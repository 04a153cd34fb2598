"""`fastdqn completion`: a script that makes the Tab key complete commands, flags, choices and games."""

from __future__ import annotations

import importlib
import typing
from collections.abc import Sequence
from typing import Any, Literal

from fastdqn.cli.arguments import flags_of, scan
from fastdqn.errors import UserError
from fastdqn.games.actions import known_games
from fastdqn.presets import PRESETS

SHELLS = ("bash", "zsh")

_ABOUT = """Print a script that makes the Tab key complete commands, flags, choices, games
and files. To have it in each new shell, type one of:

  echo 'eval "$(fastdqn completion bash)"' >> ~/.bashrc
  echo 'eval "$(fastdqn completion zsh)"' >> ~/.zshrc

usage: fastdqn completion [-h] {bash,zsh}"""

# zsh reads bash's completions after this line.
_ZSH = "autoload -Uz compinit && compinit -u\nautoload -Uz bashcompinit && bashcompinit\n"

_SCRIPT = """\
_fastdqn() {{
    local word="${{COMP_WORDS[COMP_CWORD]}}" before="${{COMP_WORDS[COMP_CWORD-1]}}" words=""
    case "$COMP_CWORD ${{COMP_WORDS[1]}} $before $word" in
        "1 "*) words="{commands}" ;;
{values}
{flags}
        "2 train train "*) words="{games}" ;;
        "2 completion completion "*) words="{shells}" ;;
    esac
    COMPREPLY=($(compgen -W "$words" -- "$word"))
}}
complete -o default -F _fastdqn fastdqn
"""


class _NoFlags:
    """What `fastdqn completion` takes beside a word."""


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    given = scan(_NoFlags, words, positional="shell")
    if given.wants_help:
        print(_ABOUT)
        return 0
    if not given.words or given.words[0] not in SHELLS:
        raise UserError(f"the shell is wanted: {' or '.join(SHELLS)}.\n  Type: fastdqn completion bash")
    print((_ZSH if given.words[0] == "zsh" else "") + script(), end="")
    return 0


def script() -> str:
    """Return the script for bash."""
    from fastdqn.cli import COMMANDS

    values, flags = [], []
    for command in COMMANDS:
        known = _flags(command)
        names = " ".join([*known, "--help"])
        flags.append(f'        *" {command} "*" -"*) words="{names}" ;;')
        for flag, choices in known.items():
            if choices:
                values.append(f'        *" {command} {flag} "*) words="{" ".join(choices)}" ;;')
    return _SCRIPT.format(
        commands=" ".join([*COMMANDS, "--help", "--version"]),
        values="\n".join(values),
        flags="\n".join(flags),
        games=" ".join(known_games()),
        shells=" ".join(SHELLS),
    )


def _flags(command: str) -> dict[str, Sequence[str]]:
    """Return the flags of a command, each with what can follow it where that is known."""
    if command == "completion":
        return {}
    its = importlib.import_module(f"fastdqn.cli.{command}").COMMAND
    known = {
        flag: _choices(hint) for flag, hint in flags_of(its.takes).items() if flag != f"--{its.positional}"
    }
    return known | ({"--preset": tuple(PRESETS)} if command == "train" else {})


def _choices(hint: Any) -> Sequence[str]:
    """Return the strings of a Literal, also of `Literal | None`."""
    if typing.get_origin(hint) is Literal:
        return typing.get_args(hint)
    return [choice for part in typing.get_args(hint) for choice in _choices(part)]
