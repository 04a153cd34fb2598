"""`fastdqn evaluate`: play whole games with a trained network."""

from __future__ import annotations

import contextlib
import json
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import FlagCreatePairsOff, Positional, arg

from fastdqn.cli import extras
from fastdqn.cli.arguments import parse, scan
from fastdqn.cli.progress import loading
from fastdqn.errors import UserError

if TYPE_CHECKING:
    from fastdqn.evaluation import Evaluation

_ABOUT = """Play whole games with the newest checkpoint of a run. Scores are not clipped.

  fastdqn evaluate RUN --episodes 10 --epsilon 0.01"""


@dataclass(frozen=True)
class EvaluateArguments:
    """What `fastdqn evaluate` takes."""

    run: Annotated[str, Positional, arg(metavar="RUN", help_behavior_hint="")] = ""
    """Folder of the run; nothing else is needed."""
    episodes: int = 5
    """Games to play."""
    epsilon: float = 0.05
    """Probability of a random action."""
    seed: int = 0
    """Decides the games and the random actions."""
    json: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Write one JSON object to stdout instead of a table."""


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    scan(EvaluateArguments, words, positional="run")
    arguments = parse(EvaluateArguments, words, prog="fastdqn evaluate", about=_ABOUT)
    if not arguments.run:
        raise UserError("evaluate needs the folder of a run.\n  Type: fastdqn evaluate RUN")
    extras.require()
    from fastdqn.run_folder import RunFolder

    run = RunFolder.open(Path(arguments.run))
    with loading("PyTorch and EnvPool"):
        from fastdqn.evaluation import evaluate

    _say(f"playing {arguments.episodes} games of {run.config.game}")
    result = evaluate(
        run,
        episodes=arguments.episodes,
        epsilon=arguments.epsilon,
        seed=arguments.seed,
        on_episode=lambda game, value: _say(f"game {game} of {arguments.episodes}: {value:g}"),
    )
    print(json.dumps(result.row()) if arguments.json else "\n".join(_table(result)))
    return 0


def _say(line: str) -> None:
    with contextlib.suppress(OSError):  # stderr may be gone; the result goes to stdout
        print(line, file=sys.stderr, flush=True)


def _table(result: Evaluation) -> list[str]:
    row = result.row()
    head = f"{result.game}: {result.episodes} games, epsilon {result.epsilon:g}, seed {result.seed}"
    figures = [f"  {name:<8}{row[name]:>10,.1f}" for name in ("mean", "median", "std", "min", "max")]
    return [head, *figures, f"  weights {row['weights']}"]
