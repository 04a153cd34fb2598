"""`fastdqn games`: what there is to play."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any

from tyro.conf import FlagCreatePairsOff, arg

from fastdqn.cli import extras
from fastdqn.cli.arguments import parse, scan
from fastdqn.cli.progress import loading

_ABOUT = """List the Atari games that EnvPool has, and the actions of each: how many it uses
(what a network is trained on), how many there are with --env.full-action-set,
and the names of those it uses."""


@dataclass(frozen=True)
class GamesArguments:
    """What `fastdqn games` takes."""

    json: Annotated[bool, FlagCreatePairsOff, arg(help_behavior_hint="")] = False
    """Write one JSON object to stdout: for each game the names of its actions, and of the full set."""


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    scan(GamesArguments, words, positional="")
    arguments = parse(GamesArguments, words, prog="fastdqn games", about=_ABOUT)
    extras.require()
    with loading("EnvPool"):
        games = _games()
    if arguments.json:
        print(json.dumps(games))
        return 0
    print(f"{'game':<22}{'uses':>4}{'all':>5}")
    for game, actions in games.items():
        uses, full = actions["actions"], actions["full_actions"]
        names = "all of them" if uses == full else ", ".join(uses)
        wrapped = textwrap.wrap(names, 46, break_on_hyphens=False)
        print(f"{game:<22}{len(uses):>4}{len(full):>5}  " + f"\n{'':<33}".join(wrapped))
    print(f"\n{len(games)} games; to begin: fastdqn train Pong-v5")
    return 0


def _games() -> dict[str, dict[str, Any]]:
    from fastdqn.config import EnvConfig
    from fastdqn.envs import game_names, num_actions
    from fastdqn.games import action_names, full_actions, minimal_actions

    def used(game: str) -> list[str]:
        known = minimal_actions(game)  # asking EnvPool takes a fifth of a second for each game
        return known or action_names(game, full=False, count=num_actions(game, EnvConfig()))

    return {game: {"actions": used(game), "full_actions": full_actions(game)} for game in game_names()}
