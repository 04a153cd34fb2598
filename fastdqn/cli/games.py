"""`fastdqn games`: what there is to play."""

from __future__ import annotations

import importlib.util
import sys
import textwrap
from collections.abc import Iterator, Sequence

from fastdqn.cli import extras
from fastdqn.cli.command import Command, Listing, answer
from fastdqn.cli.progress import loading
from fastdqn.config import EnvConfig
from fastdqn.games.actions import action_names, full_actions, known_games, minimal_actions

_ABOUT = """List the Atari games that EnvPool has, and the actions of each: how many it uses
(what a network is trained on), how many there are with --env.full-action-set,
and the names of those it uses; with --json, the names in the full set, too."""


COMMAND = Command("games", Listing, _ABOUT)


def main(words: Sequence[str]) -> int:
    """Run the command; return the exit code."""
    arguments = COMMAND.read(words)
    games = _games()
    answer(games, _table(games), as_json=arguments.json)
    missing = extras.what_is_missing()
    if missing and not arguments.json:
        print(f"fastdqn games: {missing}", file=sys.stderr)
    return 0


def _table(games: dict[str, dict[str, list[str]]]) -> Iterator[str]:
    yield f"{'game':<22}{'uses':>4}{'all':>5}"
    for game, actions in games.items():
        uses, full = actions["actions"], actions["full_actions"]
        names = "all of them" if uses == full else ", ".join(uses)
        wrapped = textwrap.wrap(names, 46, break_on_hyphens=False)
        yield f"{game:<22}{len(uses):>4}{len(full):>5}  " + f"\n{'':<33}".join(wrapped)
    yield f"\n{len(games)} games; to begin: fastdqn train Pong-v5"


def _games() -> dict[str, dict[str, list[str]]]:
    """Return the games that EnvPool has, or where it is not installed those that it is known to have."""
    if importlib.util.find_spec("envpool") is None:
        return {game: _actions(game) for game in known_games()}
    with loading("EnvPool"):
        from fastdqn.games.envs import game_names
    return {game: _actions(game) for game in game_names()}


def _actions(game: str) -> dict[str, list[str]]:
    used = minimal_actions(game)  # a query of EnvPool takes a fifth of a second for each game
    if used is None:
        from fastdqn.games.envs import num_actions

        used = action_names(game, full=False, count=num_actions(game, EnvConfig()))
    return {"actions": used, "full_actions": full_actions(game)}
