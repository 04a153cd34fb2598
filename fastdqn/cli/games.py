"""`fastdqn games`: what there is to play."""

from __future__ import annotations

import importlib.util
import json
import sys
import textwrap
from collections.abc import Sequence

from fastdqn.cli import extras
from fastdqn.cli.arguments import wants_json
from fastdqn.cli.progress import loading
from fastdqn.config import EnvConfig
from fastdqn.games.actions import action_names, full_actions, known_games, minimal_actions

_ABOUT = """List the Atari games that EnvPool has, and the actions of each: how many it uses
(what a network is trained on), how many there are with --env.full-action-set,
and the names of those it uses; with --json, the names in the full set, too."""


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    as_json = wants_json(words, prog="fastdqn games", about=_ABOUT)
    games = _games()
    if as_json:
        print(json.dumps(games))
        return 0
    print(f"{'game':<22}{'uses':>4}{'all':>5}")
    for game, actions in games.items():
        uses, full = actions["actions"], actions["full_actions"]
        names = "all of them" if uses == full else ", ".join(uses)
        wrapped = textwrap.wrap(names, 46, break_on_hyphens=False)
        print(f"{game:<22}{len(uses):>4}{len(full):>5}  " + f"\n{'':<33}".join(wrapped))
    print(f"\n{len(games)} games; to begin: fastdqn train Pong-v5")
    missing = extras.what_is_missing()
    if missing:
        print(f"fastdqn games: {missing}", file=sys.stderr)
    return 0


def _games() -> dict[str, dict[str, list[str]]]:
    """Return the games that EnvPool has, or where it is not installed those that it is known to have."""
    if importlib.util.find_spec("envpool") is None:
        return {game: _actions(game) for game in known_games()}
    with loading("EnvPool"):
        from fastdqn.games.envs import game_names
    return {game: _actions(game) for game in game_names()}


def _actions(game: str) -> dict[str, list[str]]:
    used = minimal_actions(game)  # asking EnvPool takes a fifth of a second for each game
    if used is None:
        from fastdqn.games.envs import num_actions

        used = action_names(game, full=False, count=num_actions(game, EnvConfig()))
    return {"actions": used, "full_actions": full_actions(game)}
