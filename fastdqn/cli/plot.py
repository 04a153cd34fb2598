"""`fastdqn plot`: the curves of runs as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastdqn import api
from fastdqn.cli.command import Command, answer

_ABOUT = """Draw returns, evaluations, values, loss and speed over the frames played.

  fastdqn plot RUN
  fastdqn plot runs/Pong-v5-quick-seed*

Several runs that differ in nothing but the seed become one line, their mean, in
a band from the least to the most of them; faint lines are the runs. The band
ends where the shortest run does. Any other difference makes another line."""


@dataclass(frozen=True)
class PlotArguments:
    """What `fastdqn plot` takes."""

    runs: Annotated[tuple[str, ...], Positional, arg(metavar="RUN [RUN ...]", help_behavior_hint="")] = ()
    """Folders of the runs."""
    out: Annotated[
        str,
        arg(metavar="FILE", help_behavior_hint="(default: curves.png, in the run if there is but one)"),
    ] = ""
    """The picture: .png, .svg or .pdf; one that exists is replaced."""
    json: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Write one JSON object to stdout instead of sentences."""


COMMAND = Command(
    "plot", PlotArguments, _ABOUT, "fastdqn plot RUN", positional="runs", many=True, needs=("plot",)
)


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    arguments = COMMAND.read(words)
    result = api.plot(arguments.runs, arguments.out or None)
    return answer(result.row(), [*result.curves, f"  {result.path}"], as_json=arguments.json)
