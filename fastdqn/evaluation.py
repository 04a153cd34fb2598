"""Play whole games with a trained network: unclipped scores, lives are no ends, no learning."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

from fastdqn import checkpoint
from fastdqn.actor import Actor, best_of
from fastdqn.build import STACK, evaluation_seed
from fastdqn.envs import AtariEnvs
from fastdqn.errors import UserError
from fastdqn.networks import QNetwork
from fastdqn.run_folder import RunFolder

MAX_PARALLEL_GAMES = 16


@dataclass(frozen=True)
class Evaluation:
    """Scores of whole games.

    Attributes:
        game: EnvPool's name of the game.
        weights: File that the weights came from.
        episodes: Games played.
        epsilon: Probability of a random action.
        seed: Of the games and of the exploration.
        returns: Unclipped return of each game.
        lengths_frames: Emulator frames of each game.
    """

    game: str
    weights: str
    episodes: int
    epsilon: float
    seed: int
    returns: list[float]
    lengths_frames: list[int]

    def row(self) -> dict[str, Any]:
        """Return the fields and the usual statistics, for JSON."""
        return {
            "game": self.game,
            "weights": self.weights,
            "episodes": self.episodes,
            "epsilon": self.epsilon,
            "seed": self.seed,
            "mean": statistics.fmean(self.returns),
            "median": statistics.median(self.returns),
            "std": statistics.pstdev(self.returns),
            "min": min(self.returns),
            "max": max(self.returns),
            "returns": self.returns,
            "lengths_frames": self.lengths_frames,
        }


def evaluate(
    run: RunFolder,
    *,
    episodes: int = 5,
    epsilon: float = 0.05,
    seed: int = 0,
    on_episode: Callable[[int, float], None] | None = None,
) -> Evaluation:
    """Play `episodes` games with the newest checkpoint of a run.

    Every environment plays a number of games fixed beforehand. Taking the first games to end, as is often
    done, would favour short ones.

    Args:
        run: The run; only its folder is needed.
        episodes: Games to play.
        epsilon: Probability of a random action.
        seed: Decides the games, together with the weights.
        on_episode: Called with the number of games that have ended and the last one's return.

    Raises:
        UserError: An argument is out of range, or the run has no checkpoint that can be read.
    """
    if episodes < 1:
        raise UserError(f"--episodes {episodes}: at least 1 game is needed")
    if not 0.0 <= epsilon <= 1.0:
        raise UserError(f"--epsilon {epsilon}: must be a probability from 0 to 1")
    if not 0 <= seed < 2**31:
        raise UserError(f"--seed {seed}: must be from 0 to {2**31 - 1}")
    policy = checkpoint.load_policy(run.path)
    network = policy_network(policy)
    num_envs = min(episodes, MAX_PARALLEL_GAMES)
    rules = replace(run.config.env, num_envs=num_envs, episodic_life=False, clip_rewards=False)
    envs = AtariEnvs(run.config.game, rules, evaluation_seed(seed))
    actor = Actor(best_of(network), envs.num_actions, num_envs, evaluation_seed(seed + 1))
    returns, lengths = _play(envs, actor, _quotas(episodes, num_envs), epsilon, on_episode)
    envs.close()
    return Evaluation(run.config.game, str(policy.source), episodes, epsilon, seed, returns, lengths)


def policy_network(policy: checkpoint.Policy) -> QNetwork:
    """Return a network with a policy's weights.

    Raises:
        UserError: The weights do not fit the network that their file describes.
    """
    network = QNetwork(
        policy.num_actions,
        stack=STACK,
        width=policy.network.width,
        dueling=policy.network.dueling,
        centered=policy.network.centered,
    )
    try:
        network.load_state_dict(policy.weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{policy.source} does not fit the network its header describes: {reason}") from None
    return network


def _quotas(episodes: int, num_envs: int) -> list[int]:
    return [episodes // num_envs + (env < episodes % num_envs) for env in range(num_envs)]


def _play(
    envs: AtariEnvs,
    actor: Actor,
    quota: list[int],
    epsilon: float,
    on_episode: Callable[[int, float], None] | None,
) -> tuple[list[float], list[int]]:
    """Play until each environment has ended its number of games; games beyond it do not count."""
    games: list[list[tuple[float, int]]] = [[] for _ in quota]
    observation = envs.reset()
    ended = 0
    while any(len(own) < wanted for own, wanted in zip(games, quota, strict=True)):
        envs.send(actor.act(observation, epsilon))
        outcome = envs.recv()
        observation = outcome.observation
        for env, value, frames in zip(outcome.game_env, outcome.returns, outcome.game_frames, strict=True):
            if len(games[env]) < quota[env]:
                games[env].append((value, frames))
                ended += 1
                if on_episode:
                    on_episode(ended, value)
    played = [game for own in games for game in own]
    return [value for value, _ in played], [frames for _, frames in played]
