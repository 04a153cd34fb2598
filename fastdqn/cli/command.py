"""What the commands share: reading their words, opening a run, loading what takes seconds, answering."""

from __future__ import annotations

import importlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from fastdqn.cli import extras
from fastdqn.cli.arguments import Given, parse, scan
from fastdqn.cli.progress import loading
from fastdqn.errors import UserError
from fastdqn.runs.folder import RunFolder

T = TypeVar("T")


@dataclass(frozen=True)
class Listing:
    """What a command takes that only lists something."""

    json: bool = False
    """Write one JSON object to stdout."""


@dataclass(frozen=True)
class Command(Generic[T]):
    """What a command takes, and what it says of itself.

    Attributes:
        name: What stands after `fastdqn`.
        takes: Dataclass of its arguments.
        about: Stands above its help.
        example: What to type, for the message where the word without a flag is missing.
        positional: Name of the field that stands without a flag, empty where there is none.
        many: Whether that field takes several words.
        needs: The extras that have to be installed.
        wants: What that word is.
    """

    name: str
    takes: type[T]
    about: str
    example: str = ""
    positional: str = ""
    many: bool = False
    needs: tuple[str, ...] = ()
    wants: str = "the folder of a run"

    def read(self, words: Sequence[str]) -> T:
        """Return the arguments, once all that the command needs is installed; --help prints and ends the process.

        Args:
            words: The command line after the command.

        Raises:
            UserError: A word is wrong or missing, or a package is.
        """
        given = self.scan(words)
        if self.many and not given.wants_help:  # tyro takes those alone that stand together
            words = [*given.words, *(word for place, word in enumerate(words) if place not in given.places)]
        arguments = self.parse(words)
        if self.positional and not getattr(arguments, self.positional):
            raise UserError(f"{self.name} needs {self.wants}.\n  Type: {self.example}")
        for extra in self.needs:
            extras.require(extra)
        return arguments

    def scan(self, words: Sequence[str]) -> Given:
        """Check every flag and value by itself, as `read` does first.

        Raises:
            UserError: One is wrong, or a word is too many.
        """
        return scan(self.takes, words, self.positional, many=self.many)

    def parse(self, words: Sequence[str], default: T | None = None) -> T:
        """Return the arguments of words that `scan` let pass; where no flag is given, the values of `default`."""
        return parse(self.takes, words, prog=f"fastdqn {self.name}", about=self.about, default=default)


def load(*modules: str) -> None:
    """Import what the answer comes from, and say on a terminal that this takes seconds."""
    with loading("PyTorch and EnvPool"):
        for module in modules:
            importlib.import_module(module)


def open_run(path: str, *modules: str) -> RunFolder:
    """Open a run, then import what is to be done with it: a mistaken path is reported at once.

    Raises:
        UserError: It is not a run.
    """
    run = RunFolder.open(Path(path))
    load(*modules)
    return run


def values_of(settings: type[Any], arguments: Any) -> dict[str, Any]:
    """Return the fields of `settings` in arguments that inherit them, as keywords."""
    return {field.name: getattr(arguments, field.name) for field in fields(settings)}


def answer(data: Any, lines: Iterable[str], *, as_json: bool) -> int:
    """Write the answer to stdout, as JSON for programs or as lines for people; return the exit code."""
    print(json.dumps(data) if as_json else "\n".join(lines))
    return 0
