"""The emulator's episode ends, against EnvPool's own numbers."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

pytest.importorskip("envpool")

from fastdqn.config import EnvConfig
from fastdqn.envs import AtariEnvs, game_names


def play(envs: AtariEnvs, passes: int, seed: int = 0):
    rng = np.random.default_rng(seed)
    envs.reset()
    for _ in range(passes):
        envs.send(rng.integers(envs.num_actions, size=envs.num_envs))
        yield envs.recv()


def test_atari_games_are_listed_and_no_others():
    names = game_names()
    assert {"Pong-v5", "Breakout-v5", "SpaceInvaders-v5"} <= set(names)
    assert "Ant-v5" not in names


def test_a_lost_life_ends_the_episode_and_not_the_game():
    envs = AtariEnvs("Breakout-v5", EnvConfig(num_envs=4), seed=3)
    ends = games = 0
    for outcome in play(envs, 600):
        ends += int(outcome.terminated.sum())
        games += len(outcome.returns)
        assert not outcome.truncated.any()
    assert games >= 4
    assert ends == pytest.approx(5 * games, abs=5 * 4)  # five lives a game, games under way left out
    assert ends >= 5 * games


def test_without_episodic_life_every_end_is_a_games():
    envs = AtariEnvs("Breakout-v5", EnvConfig(num_envs=4, episodic_life=False), seed=3)
    for outcome in play(envs, 600):
        assert np.flatnonzero(outcome.terminated).tolist() == outcome.game_env


def test_a_cut_game_is_truncated_and_its_return_counted():
    config = EnvConfig(num_envs=3, max_episode_frames=160)
    envs = AtariEnvs("Pong-v5", config, seed=1)
    outcomes = list(play(envs, 41))
    assert not any(outcome.truncated.any() for outcome in outcomes[:39])
    assert outcomes[39].truncated.all()
    assert outcomes[39].game_frames == [160, 160, 160]
    assert outcomes[39].steps == 3
    assert outcomes[40].steps == 0  # the row that resets is no step


def test_a_life_lost_exactly_at_the_limit_is_an_end(monkeypatch):
    """EnvPool calls it a truncation; fails when its `truncated` is passed on as it is."""
    free = AtariEnvs("Breakout-v5", EnvConfig(num_envs=1), seed=3)
    lost_at = next(i for i, outcome in enumerate(play(free, 400)) if outcome.terminated[0])
    config = EnvConfig(num_envs=1, max_episode_frames=4 * (lost_at + 1))
    cut = AtariEnvs("Breakout-v5", config, seed=3)
    last = list(play(cut, lost_at + 1))[-1]
    assert last.terminated[0]
    assert not last.truncated[0]
    assert len(last.returns) == 1  # and the game is over all the same


def test_returns_are_unclipped_and_whole():
    """Space Invaders pays 5 to 30 points: a clipped return would be a count of hits."""
    envs = AtariEnvs("SpaceInvaders-v5", EnvConfig(num_envs=4), seed=2)
    learned, returns = 0.0, []
    for outcome in play(envs, 900):
        assert set(np.unique(outcome.reward)) <= {-1.0, 0.0, 1.0}
        learned += float(outcome.reward.sum())
        returns += outcome.returns
    assert len(returns) >= 3
    assert all(value % 5 == 0 and value >= 5 for value in returns)
    assert sum(returns) > 5 * learned / 2


@pytest.mark.parametrize("threads", [1, 2])
def test_games_follow_the_seed_and_not_the_threads(threads):
    def run(seed, threads):
        config = replace(EnvConfig(), num_envs=4, threads=threads)
        outcomes = list(play(AtariEnvs("Pong-v5", config, seed), 60))
        return np.stack([outcome.observation for outcome in outcomes])

    assert np.array_equal(run(7, threads), run(7, 1))
    assert not np.array_equal(run(8, threads), run(7, 1))
