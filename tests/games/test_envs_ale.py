"""Scores of training games beside ale-py, which tells what EnvPool does not: ends and points during no-ops."""

from __future__ import annotations

import numpy as np
import pytest

envpool = pytest.importorskip("envpool")
pytest.importorskip("ale_py", reason="needs ale-py, of the extra `clients`")

from fastdqn.config import EnvConfig
from fastdqn.games.envs import AtariEnvs, game_names
from fastdqn.replay import ReplayBuffer
from tests.reference.ale_game import AleGame

SEED = 7
LAST_LIFE_IS_0 = (
    *("Atlantis", "Atlantis2", "BankHeist", "DonkeyKong", "Frogger"),
    *("LostLuggage", "MrDo", "SirLancelot", "Turmoil", "WizardOfWor"),
)
"""Games whose lives fall to 0 while the last of them is played."""


def play_both(game: str, steps: int, max_steps: int = 27_000) -> tuple[AleGame, list[tuple[float, int]]]:
    """Play at random in both; the consoles must agree after every step. Return ours as (return, frames)."""
    envs = AtariEnvs(game, EnvConfig(num_envs=1, max_episode_frames=4 * max_steps), SEED)
    ale = AleGame(game, SEED, max_steps)
    random = np.random.default_rng(0)
    games: list[tuple[float, int]] = []
    replay = ReplayBuffer(1_000, 1)
    replay.begin(envs.reset())
    for step in range(steps):
        action = random.integers(len(ale.actions), size=1)
        envs.send(action)
        ale.step(int(action[0]))
        outcome = envs.recv()
        assert np.array_equal(envs.ram[0], ale.ram), step
        assert outcome.terminated[0] == ale.ended, step
        games += zip(outcome.returns, outcome.game_frames, strict=True)
        replay.add(action, outcome.observation, outcome.reward, outcome.terminated, outcome.truncated)
    return ale, games


def assert_same_games(ale: AleGame, games: list[tuple[float, int]]) -> None:
    assert games == [(game.points, 4 * game.steps) for game in ale.games[:-1]]


@pytest.mark.parametrize("max_steps", [27_000, 600])
def test_a_game_that_ends_during_no_ops_is_closed(max_steps: int) -> None:
    """Fails when EnvPool's ends are taken for all there are: two games were told as one.

    The game after it is cut early at a limit of 600 steps, because EnvPool's count goes on.
    """
    ale, games = play_both("RoadRunner-v5", 760, max_steps)
    assert ale.silent_ends == 1
    assert_same_games(ale, games)
    assert max(frames for _, frames in games) <= 4 * max_steps


def test_points_of_no_ops_are_not_in_the_returns() -> None:
    """A limit of EnvPool's that is documented: fails when it is lifted."""
    ale, games = play_both("Atlantis-v5", 2_000)
    assert_same_games(ale, games)
    assert sum(game.noop_points for game in ale.games) >= 1_000


@pytest.mark.slow
@pytest.mark.parametrize("game", game_names())
def test_every_game_is_scored_as_ale_plays_it(game: str) -> None:
    """All 104: the consoles agree, lives and games end in the same steps, returns lack only the no-ops' points."""
    ale, games = play_both(game, 2_500)
    assert_same_games(ale, games)
    assert not ale.last_life_is_0 or game.removesuffix("-v5") in LAST_LIFE_IS_0
