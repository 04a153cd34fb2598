"""`fastdqn report`: what sweeps have come to, with intervals."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastdqn import api
from fastdqn.cli.command import Command, answer

_ABOUT = """Report on sweeps: scores by game, and over games the interquartile mean, median,
mean and optimality gap of human-normalised scores with 95 % intervals (Agarwal
et al. 2021), performance profiles, sample efficiency, and how probably one
method is better than another. Writes report.md, report.json and pictures.

  fastdqn report SWEEP
  fastdqn report SWEEP OTHER_SWEEP --out comparison

Runs that have not ended are left out, and named."""


@dataclass(frozen=True)
class ReportArguments:
    """What `fastdqn report` takes."""

    sweeps: Annotated[
        tuple[str, ...], Positional, arg(metavar="SWEEP [SWEEP ...]", help_behavior_hint="")
    ] = ()
    """Folders of the sweeps."""
    out: Annotated[str, arg(metavar="DIR", help_behavior_hint="(default: report/ in the first sweep)")] = ""
    """Where the report goes; one that is there is replaced."""
    mix_protocols: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Put runs into one table that were not measured alike."""
    json: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Write report.json to stdout, too, instead of the tables."""


COMMAND = Command(
    "report",
    ReportArguments,
    _ABOUT,
    "fastdqn report SWEEP",
    positional="sweeps",
    many=True,
    needs=("plot",),
    wants="the folder of a sweep",
)


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    arguments = COMMAND.read(words)
    result = api.report(arguments.sweeps, arguments.out or None, mix_protocols=arguments.mix_protocols)
    lines = [result.markdown().rstrip(), "", *result.files]
    return answer(result.data, lines, as_json=arguments.json)
