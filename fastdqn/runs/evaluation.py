"""Play whole games with a trained network: unclipped scores, lives are no ends, no learning."""

from __future__ import annotations

import math
import statistics
from collections.abc import Callable
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import torch

from fastdqn.algorithm.exploration import Actor
from fastdqn.algorithm.networks import QNetwork, count_parameters
from fastdqn.algorithm.policies import GREEDY, POLICIES, Policy
from fastdqn.config import (
    GAME_RULES,
    Config,
    EnvConfig,
    EvaluationConfig,
    EvaluationSettings,
    ProtocolName,
)
from fastdqn.engine.acting import PolicyNetwork
from fastdqn.errors import UserError
from fastdqn.games.envs import AtariEnvs
from fastdqn.games.scores import human_normalized
from fastdqn.runs import checkpoint
from fastdqn.runs.build import Components
from fastdqn.runs.checks import check_evaluation, check_played
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.seeds import evaluation_seed

MAX_PARALLEL_GAMES = 32

PROTOCOLS: dict[ProtocolName, EvaluationConfig] = {
    # Mnih et al. 2015, Methods and Extended Data Table 1: 30 games of up to 5 minutes (at 60 frames a second),
    # up to 30 no-ops, epsilon 0.05; the game's own actions, or those that the policy was trained with.
    "nature": EvaluationConfig(
        episodes=30,
        epsilon=0.05,
        max_episode_frames=18_000,
        noop_max=30,
        sticky_actions=0.0,
        network_draws="on",
    ),
    # Machado et al. 2018: sticky actions instead of no-ops (noop_max 1 leaves one frame, FIRE where the run has
    # fire_reset), all 18 actions, only a game's end ends it. That paper has no evaluation phase: it averages the
    # last 100 games of training, with epsilon 0.01 after annealing. Play without learning at that epsilon comes
    # nearest.
    "machado": EvaluationConfig(
        protocol="machado",
        episodes=100,
        epsilon=0.01,
        max_episode_frames=18_000,
        noop_max=1,
        sticky_actions=0.25,
        network_draws="on",
    ),
    "training": EvaluationConfig(protocol="training", episodes=30, epsilon=0.05, network_draws="on"),
}


@dataclass(frozen=True)
class Evaluation:
    """Scores of whole games.

    Attributes:
        game: EnvPool's name of the game.
        weights: File that the weights came from.
        frames: Emulator frames that the policy was trained for, `None` where its file does not say.
        protocol: Name of the protocol, and what was changed of it.
        episodes: Games played.
        epsilon: Probability of a random action.
        seed: Of the games and of the exploration.
        returns: Unclipped return of each game.
        lengths_frames: Emulator frames of each game.
    """

    game: str
    weights: str
    frames: int | None
    protocol: str
    episodes: int
    epsilon: float
    seed: int
    returns: list[float]
    lengths_frames: list[int]

    @property
    def bound(self) -> float:
        """What another evaluation's mean is at least, but for chance: this one's less three standard errors.

        The difference of two evaluations has a standard error that is the root of two as large, so that three are
        about two of those. Of one game it is its return.
        """
        if len(self.returns) < 2:
            return self.returns[0]
        error = statistics.stdev(self.returns) / math.sqrt(len(self.returns))
        return statistics.fmean(self.returns) - 3.0 * error

    def scores(self) -> dict[str, Any]:
        """Return what evaluations.jsonl keeps of an evaluation."""
        mean = statistics.fmean(self.returns)
        return {
            "frames": self.frames,
            "mean": mean,
            "median": statistics.median(self.returns),
            "std": statistics.pstdev(self.returns),
            "episodes": self.episodes,
            "protocol": self.protocol,
            "human_normalized": human_normalized(self.game, mean),
        }

    def __str__(self) -> str:
        scores = self.scores()
        human = scores["human_normalized"]
        of_human = "" if human is None else f", {human:.0%} of the way from random play to a human"
        return (
            f"mean {scores['mean']:.1f}, median {scores['median']:.1f}, std {scores['std']:.1f} of "
            f"{self.episodes} games ({self.protocol}){of_human}"
        )

    def row(self) -> dict[str, Any]:
        """Return the fields and the usual statistics, for JSON."""
        spread = {"min": min(self.returns), "max": max(self.returns)}
        return {**vars(self), **self.scores(), **spread}


def evaluate(
    run: RunFolder,
    settings: EvaluationSettings | None = None,
    *,
    which: str | int = "last",
    protocol: ProtocolName | None = None,
    seed: int = 0,
    on_episode: Callable[[int, float], None] | None = None,
) -> Evaluation:
    """Play whole games with a checkpoint of a run.

    Args:
        run: The run; only its folder is needed.
        settings: Those that are to be others than the protocol's.
        which: The checkpoint: `last`, `best` by evaluation, or the frames of one.
        protocol: Where the other settings come from; `None` takes the run's own protocol and settings.
        seed: Decides the games, together with the weights.
        on_episode: Called with the number of games that have ended and the last one's return.

    Raises:
        UserError: An argument is out of range, or the run has no such checkpoint that can be read.
    """
    base = EvaluationConfig(protocol=protocol) if protocol else run.config.evaluation
    evaluation = replace(base, **given(settings or EvaluationSettings()))
    config = replace(run.config, seed=seed, evaluation=evaluation)
    check_evaluation(config)
    policy = load_played(run, which)
    result = play(policy, config, evaluation_seed(seed), on_episode=on_episode)
    assert result is not None
    return replace(result, seed=seed)


def evaluate_learner(
    components: Components,
    config: Config,
    on_episode: Callable[[int], None],
    stop_requested: Callable[[], bool],
    turn: int,
) -> tuple[checkpoint.SavedPolicy, Evaluation | None]:
    """Evaluate what a run has learned so far. Nothing of the run changes: no random stream, no game, no weight.

    Args:
        components: The run's.
        config: The run's.
        on_episode: Called with the number of games that have ended.
        stop_requested: Called once per step.
        turn: Of evaluations at this frame: each plays games of its own.

    Returns:
        The policy, and its scores: `None` if it was asked to stop.
    """
    frames, weights = components.clock.frames, components.learner.policy_tensors()
    policy = checkpoint.SavedPolicy(
        weights, config.network, components.envs.num_actions, Path("the run"), frames
    )
    seed = evaluation_seed(config.seed, frames, turn)
    result = play(
        policy,
        config,
        seed,
        device=components.learner.backend.device,
        stop_requested=stop_requested,
        on_episode=lambda game, _: on_episode(game),
    )
    return policy, result


def play(
    policy: checkpoint.SavedPolicy,
    config: Config,
    seed: int,
    *,
    device: str | torch.device = "cpu",
    stop_requested: Callable[[], bool] = lambda: False,
    on_episode: Callable[[int, float], None] | None = None,
) -> Evaluation | None:
    """Evaluate a policy with the settings of a configuration; all it draws on is its own.

    Every environment plays a number of games fixed beforehand. Taking the first games to end, as is often
    done, would favour short ones.

    Args:
        policy: The weights.
        config: The game, its preprocessing, and the evaluation's settings.
        seed: Decides the games and the random actions.
        device: Where the network runs.
        stop_requested: Called once per step.
        on_episode: As in `evaluate`.

    Returns:
        The scores, `None` if it was asked to stop.

    Raises:
        UserError: The weights do not fit the network that they describe.
    """
    settings, name = resolve(config)
    assert settings.episodes is not None
    assert settings.epsilon is not None
    network = playing_network(policy, config, seed, device)
    num_envs = min(settings.episodes, MAX_PARALLEL_GAMES)
    envs = AtariEnvs(config.game, game_rules(config, num_envs), seed)
    actor = Actor(network.chosen_actions, envs.num_actions, num_envs, evaluation_seed(seed))
    try:
        games = _play(
            envs, actor, _quotas(settings.episodes, num_envs), settings.epsilon, on_episode, stop_requested
        )
    finally:
        envs.close()
    if games is None:
        return None
    source = str(policy.source)
    returns, lengths = [value for value, _ in games], [frames for _, frames in games]
    return Evaluation(
        config.game, source, policy.frames, name, len(games), settings.epsilon, seed, returns, lengths
    )


def resolve(config: Config) -> tuple[EvaluationConfig, str]:
    """Return an evaluation's settings, those of its protocol filled in, and a name that says what was changed."""
    chosen, env = config.evaluation, config.env
    protocol = PROTOCOLS[chosen.protocol]
    open_rules = [name for name in GAME_RULES if getattr(protocol, name) is None]
    protocol = replace(protocol, **{name: getattr(env, name) for name in open_rules})
    changed = {name: value for name, value in given(chosen).items() if value != getattr(protocol, name)}
    settings = replace(protocol, **changed)
    told = {name: getattr(settings, name) for name in dict.fromkeys([*open_rules, *changed])}
    shown = [f", {name} {value if isinstance(value, str) else f'{value:g}'}" for name, value in told.items()]
    return settings, chosen.protocol + "".join(shown)


def given(settings: EvaluationSettings) -> dict[str, Any]:
    """Return the settings that are not left to a protocol."""
    values = {field.name: getattr(settings, field.name) for field in fields(EvaluationSettings)}
    return {name: value for name, value in values.items() if value is not None}


def load_played(run: RunFolder, which: str | int) -> checkpoint.SavedPolicy:
    """Read the policy of a run's checkpoint that is to play the run's game.

    Raises:
        UserError: There is no such checkpoint that can be read, or it is not for that game and network.
    """
    policy = checkpoint.choose_policy(run.checkpoints, which)
    check_played(policy, run.config)
    return policy


def playing_network(
    policy: checkpoint.SavedPolicy, config: Config, seed: int, device: str | torch.device = "cpu"
) -> PolicyNetwork:
    """Return a network that chooses and draws as a configuration's evaluation says."""
    settings, _ = resolve(config)
    assert settings.network_draws is not None
    draws = {"on": evaluation_seed(seed), "off": None}[settings.network_draws]
    return policy_network(policy, device, draws, POLICIES[config.exploration.policy](config))


def policy_network(
    policy: checkpoint.SavedPolicy,
    device: str | torch.device = "cpu",
    seed: int | None = None,
    chooses: Policy = GREEDY,
) -> PolicyNetwork:
    """Return a network with a policy's weights.

    Args:
        policy: It.
        device: Where the network is to be.
        seed: Of the random numbers that its layers take; `None` where they are to do without.
        chooses: Actions by the values.

    Raises:
        UserError: The weights do not fit the network that their file describes.
    """
    given = sum(tensor.numel() for tensor in policy.weights.values())
    wanted = count_parameters(policy.network, policy.num_actions)
    if given != wanted:  # seen before a network is made that may be of gigabytes
        raise UserError(
            f"{policy.source} does not fit the network its header describes: it has {given:,} weights, and "
            f"{wanted:,} are wanted."
        )
    network = QNetwork(policy.network, policy.num_actions)
    try:
        network.load_state_dict(policy.weights)
    except RuntimeError as error:
        reason = str(error).splitlines()[-1].strip()
        raise UserError(f"{policy.source} does not fit the network its header describes: {reason}") from None
    return PolicyNetwork(network, device, seed, chooses)


def _quotas(episodes: int, num_envs: int) -> list[int]:
    return [episodes // num_envs + (env < episodes % num_envs) for env in range(num_envs)]


def game_rules(config: Config, num_envs: int) -> EnvConfig:
    """Return the rules of an evaluation's games: those of training but for lives, rewards and the protocol."""
    settings, _ = resolve(config)
    assert settings.max_episode_frames is not None
    assert settings.noop_max is not None
    assert settings.sticky_actions is not None
    return replace(
        config.env,
        num_envs=num_envs,
        life_loss="ignore",
        clip_rewards=False,
        max_episode_frames=settings.max_episode_frames,
        noop_max=settings.noop_max,
        sticky_actions=settings.sticky_actions,
    )


def _play(
    envs: AtariEnvs,
    actor: Actor,
    quota: list[int],
    epsilon: float,
    on_episode: Callable[[int, float], None] | None = None,
    stop_requested: Callable[[], bool] = lambda: False,
) -> list[tuple[float, int]] | None:
    """Play until each environment has ended its number of games; games beyond it do not count."""
    games: list[list[tuple[float, int]]] = [[] for _ in quota]
    observation = envs.reset()
    ended = 0
    while ended < sum(quota):
        if stop_requested():
            return None
        envs.send(actor.act(observation, epsilon))
        outcome = envs.recv()
        observation = outcome.observation
        for env, value, frames in zip(outcome.game_env, outcome.returns, outcome.game_frames, strict=True):
            if len(games[env]) < quota[env]:
                games[env].append((value, frames))
                ended += 1
                if on_episode:
                    on_episode(ended, value)
    return [game for of_env in games for game in of_env]
