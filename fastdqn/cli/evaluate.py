"""`fastdqn evaluate`: play whole games with a trained network."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastdqn import api
from fastdqn.cli.command import Command, answer, open_run, values_of
from fastdqn.cli.counts import which_of
from fastdqn.config import EvaluationSettings, ProtocolName, Seed
from fastdqn.games.scores import SOURCE

if TYPE_CHECKING:
    from fastdqn.runs.evaluation import Evaluation

_ABOUT = """Play whole games with a checkpoint of a run. Scores are not clipped.

  fastdqn evaluate RUN
  fastdqn evaluate RUN --checkpoint best --protocol nature
  fastdqn evaluate RUN --episodes 5 --epsilon 0.01

protocols (--protocol; each flag below changes a value of it):
  nature   30 games of up to 18,000 frames (5 minutes), up to 30 no-ops at the
           start, epsilon 0.05 (Mnih et al. 2015)
  machado  100 games of up to 18,000 frames, sticky actions 0.25, no no-ops but
           one frame (FIRE where training had it), all 18 actions, epsilon 0.01
           (Machado et al. 2018); the policy must have been trained with
           --env.full-action-set
  training 30 games with the settings that the run was trained with, epsilon 0.05

A lost life ends no game under any of them."""


@dataclass(frozen=True)
class EvaluateArguments(EvaluationSettings):
    """What `fastdqn evaluate` takes."""

    run: Annotated[str, Positional, arg(metavar="RUN", help_behavior_hint="")] = ""
    """Folder of the run; nothing else is needed."""
    checkpoint: Annotated[str, arg(metavar="{last,best,FRAMES}")] = "last"
    """last; best: the best by the evaluations while it trained; or the frames of one."""
    protocol: Annotated[ProtocolName | None, arg(help_behavior_hint="(default: the run's)")] = None
    """Where the values come from that no flag sets."""
    seed: Seed = 0
    """Decides the games and the random actions."""
    json: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Write one JSON object to stdout instead of a table."""


COMMAND = Command(
    "evaluate", EvaluateArguments, _ABOUT, "fastdqn evaluate RUN", positional="run", needs=("train",)
)


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    arguments = COMMAND.read(words)
    which = which_of(arguments.checkpoint)
    open_run(arguments.run, "fastdqn.runs.evaluation")
    result = api.evaluate(
        arguments.run,
        checkpoint=which,
        protocol=arguments.protocol,
        **values_of(EvaluationSettings, arguments),
        seed=arguments.seed,
        on_episode=lambda game, value: _say(f"game {game}: {value:g}"),
    )
    return answer(result.row(), _table(result), as_json=arguments.json)


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # stderr may be gone; the result goes to stdout
        print(line, file=sys.stderr, flush=True)


def _table(result: Evaluation) -> list[str]:
    row = result.row()
    head = f"{result.game}: {result.episodes} games, epsilon {result.epsilon:g}, seed {result.seed}"
    lines = [head, f"  protocol {result.protocol}"]
    lines += [f"  {name:<8}{row[name]:>10,.1f}" for name in ("mean", "median", "std", "min", "max")]
    if row["human_normalized"] is not None:
        lines.append(
            f"  {'human':<8}{row['human_normalized']:>10.1%}  (0 % random play, 100 % a human: {SOURCE})"
        )
    return [*lines, f"  weights {row['weights']}"]
