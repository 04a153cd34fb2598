"""`fastdqn plot`: the curves of runs as a picture."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

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


COMMAND = Command(
    "plot", PlotArguments, _ABOUT, "fastdqn plot RUN", positional="runs", many=True, needs=("plot",)
)


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    arguments = COMMAND.read(words)
    from fastdqn.views.plot import plot

    runs = [Path(run) for run in arguments.runs]
    out = Path(arguments.out) if arguments.out else (runs[0] if len(runs) == 1 else Path()) / "curves.png"
    return answer(None, [*plot(runs, out), f"  {out}"], as_json=False)
