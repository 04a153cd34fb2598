"""From a configuration to objects: the one place where a configured value is tested."""

from __future__ import annotations

import difflib
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from fastdqn.algorithm.exploration import Actor
from fastdqn.algorithm.networks import STACK
from fastdqn.config import Config, NetworkConfig
from fastdqn.engine import device as devices
from fastdqn.engine.acting import ActingNetwork
from fastdqn.engine.compiling import resolve_accelerate
from fastdqn.engine.feed import DeviceFeed, Feed, HostFeed, Queueing
from fastdqn.engine.learner import Learner
from fastdqn.errors import UserError
from fastdqn.games.envs import AtariEnvs, game_names, num_actions
from fastdqn.json_files import shown
from fastdqn.replay import ReplayBuffer
from fastdqn.runs import checkpoint, memory
from fastdqn.runs.clock import Clock
from fastdqn.runs.memory import FRAME_BYTES, SLOT_BYTES

SAVED_REPLAY_BYTES = 2_000_000_000
"""A larger replay is not saved unless the configuration says so."""


@dataclass
class Parts:
    """The objects of a run.

    Attributes:
        acting: The network's part of the actor.
        accelerate: How the learner runs: `eager`, `compile` or `graph`.
        frames_on: Where the learner reads frames, for people.
        keeps_replay: Whether checkpoints hold the replay.
        evaluate_every_frames: Frames between evaluations; more than any run has where it is not evaluated.
    """

    clock: Clock
    envs: AtariEnvs
    replay: ReplayBuffer
    learner: Learner
    actor: Actor
    acting: ActingNetwork
    feed: Feed
    accelerate: str
    frames_on: str
    keeps_replay: bool
    evaluate_every_frames: int


def check(config: Config, weights: Path | None = None, *, device: devices.Backend | None = None) -> None:
    """Raise one error that names every problem of a configuration; cheap, and nothing is made.

    Args:
        config: What is to be run.
        weights: The weights that it is to start from: a run, a checkpoint, or an online.safetensors.
        device: Where the learner is to live; the GPU if there is one and none is given.

    Raises:
        UserError: A value is out of range, the game is unknown, the replay does not fit, or the weights do not.
    """
    problems = [*_game_problems(config.game), *config.validate()]
    if not problems:
        problems = [*_ring_problems(config), *_device_problems(config, device)]
        problems += memory.problems(
            config, devices.free_gpu_bytes() if device is None else device.free_bytes()
        )
        if config.evaluation.every_frames is not None:
            problems += _protocol_problems(config)
    if problems:
        raise UserError("\n".join(problems))
    if weights is not None:
        check_policy(checkpoint.load_policy(weights), config, num_actions(config.game, config.env))


def build(
    config: Config, saved: checkpoint.Checkpoint | None = None, *, device: devices.Backend | None = None
) -> Parts:
    """Make the objects of a run.

    Args:
        config: A configuration that `check` let pass.
        saved: A checkpoint that the run goes on from. The replay is filled from it, and the games are the same
            ones, or others where there is no replay to go on with; `resume.restore` does the rest.
        device: Where the learner lives; the GPU if there is one and none is given.

    Raises:
        UserError: The replay does not fit in memory after all, or its file is not of this configuration.
    """
    device = device or devices.choose(config.learner.precision)
    clock = Clock(config.env.frame_skip, config.replay.warmup_steps, config.learner.steps_per_update)
    accelerate = resolve_accelerate(
        config.learner.accelerate, device.device, clock.updates_planned(config.total_frames)
    )
    env_seed, actor_seed, replay_seed, network_seed = _seeds(config.seed)
    envs = AtariEnvs(config.game, config.env, env_seed, _generation(saved))
    try:
        replay = ReplayBuffer(
            config.replay.capacity,
            config.env.num_envs,
            stack=STACK,
            n_step=config.learner.n_step,
            gamma=config.learner.gamma,
            alpha=config.replay.alpha,
            seed=replay_seed,
        )
        if saved and saved.replay:
            replay.load(saved.replay)
    except MemoryError as error:
        raise UserError(f"replay.capacity = {config.replay.capacity}: {error}") from None
    except ValueError as error:
        raise UserError(f"{saved.path if saved else ''}: {error}") from None
    learner = Learner(
        config.network,
        config.learner,
        envs.num_actions,
        backend=device,
        seed=network_seed,
        accelerate=accelerate,
    )
    acting = ActingNetwork(
        learner, config.env.num_envs, staleness_updates=config.learner.staleness_updates, seed=actor_seed
    )
    actor = Actor(acting, envs.num_actions, config.env.num_envs, actor_seed)
    feed, frames_on = _feed(config, replay, device)
    return Parts(
        clock,
        envs,
        replay,
        learner,
        actor,
        acting,
        feed,
        accelerate,
        frames_on,
        keeps_replay(config),
        config.evaluation.every_frames or 2**62,
    )


def _feed(config: Config, replay: ReplayBuffer, device: devices.Backend) -> tuple[Feed, str]:
    """Choose where the learner reads frames, and say so."""
    setting, needed = config.replay.device, replay.ring * replay.num_envs * FRAME_BYTES
    queueing = Queueing(
        updates=config.learner.updates_per_launch,
        in_flight=memory.launches_in_flight(config),
        priority_delay=config.replay.priority_delay_launches,
    )
    free = device.free_bytes()
    resident = setting == "cuda" or (setting == "auto" and free is not None and needed <= free // 2)
    if not resident:
        return HostFeed(replay, config.learner.batch_size, device, queueing), "frames on the host"
    if free is not None and needed > free:
        raise UserError(
            f"replay.device = 'cuda': {replay.capacity:,} frames take {needed / 2**30:.1f} GiB, and the GPU has "
            f"{free / 2**30:.1f} GiB free; try --replay.device host"
        )
    feed = DeviceFeed(replay, config.learner.batch_size, device, queueing)
    return feed, f"{needed / 2**30:.2f} GiB of frames on the device"


def keeps_replay(config: Config) -> bool:
    """Whether a run's checkpoints hold its replay, so that resuming is exact."""
    if config.checkpoint.replay == "auto":
        return config.replay.capacity * SLOT_BYTES <= SAVED_REPLAY_BYTES
    return config.checkpoint.replay == "on"


def replay_note(config: Config) -> str:
    """Say what checkpoints do with the replay, and what that means."""
    size = f"up to {config.replay.capacity * SLOT_BYTES / 1e6:,.0f} MB"
    if keeps_replay(config):
        return f"the newest checkpoint keeps the replay ({size}): resuming is exact"
    return (
        f"checkpoints leave the replay out ({size}; --checkpoint.replay on keeps it): "
        "a resumed run fills it anew, with other games"
    )


def load_weights(parts: Parts, path: Path) -> None:
    """Start both networks from trained weights that `check` let pass."""
    policy = checkpoint.load_policy(path)
    parts.learner.load_online({f"online.{name}": tensor for name, tensor in policy.weights.items()})


def check_played(policy: checkpoint.Policy, config: Config) -> None:
    """Raise where a policy is not for the game and the network of the run that it is to play as.

    Raises:
        UserError: The game is unknown, or the weights and config.json are not of one run.
    """
    problems = _game_problems(config.game)
    if problems:
        raise UserError("\n".join(problems))
    if policy.network != config.network:
        raise UserError(
            f"{policy.source} is of another network than config.json names: "
            f"{_told(policy.network, config.network)}; one of the two was changed."
        )
    check_policy(policy, config, num_actions(config.game, config.env))


def check_policy(policy: checkpoint.Policy, config: Config, num_actions: int) -> None:
    """Raise where weights do not fit a configuration's network.

    Raises:
        UserError: The shape or the number of actions differs.
    """
    if policy.network != config.network:
        theirs = asdict(policy.network)
        flags = " ".join(
            _flag("network", name, theirs[name]) for name in _differing(policy.network, config.network)
        )
        raise UserError(
            f"{policy.source} is of another network than this run's: {_told(policy.network, config.network)}.\n"
            f"Add {flags}, or name the preset it was trained with."
        )
    if policy.num_actions != num_actions:
        raise UserError(
            f"{policy.source} knows {policy.num_actions} actions, {config.game} has {num_actions}: it was "
            "trained on another game or action set."
        )


def _differing(one: NetworkConfig, other: NetworkConfig) -> list[str]:
    return [name for name, value in asdict(one).items() if value != getattr(other, name)]


def _told(one: NetworkConfig, other: NetworkConfig) -> str:
    """Return the fields in which two networks differ, for people."""
    return ", ".join(
        f"{name} {getattr(one, name)} instead of {getattr(other, name)}" for name in _differing(one, other)
    )


def _flag(group: str, name: str, value: object) -> str:
    """Return how a value is given on the command line."""
    hyphened = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{group}.{'' if value else 'no-'}{hyphened}"
    return f"--{group}.{hyphened} {value}"


def check_evaluation(config: Config) -> None:
    """Raise where an evaluation's settings are out of range, or are not for the run's policy.

    Raises:
        UserError: Every problem, by the name of its flag.
    """
    problems = config.validate() or _protocol_problems(config)
    if problems:
        raise UserError(_with_flags("\n".join(problems)))


def evaluation_seed(seed: int, frames: int = 0) -> int:
    """Return the seed of an evaluation's games, apart from the seeds of training.

    Args:
        seed: The run's, or the user's.
        frames: Frame of training: each evaluation of a run plays games of its own.
    """
    words = [seed, 1_000_003, frames] if frames else [seed, 1_000_003]
    return int(np.random.SeedSequence(words).generate_state(1)[0] >> 1)


def _with_flags(text: str) -> str:
    return re.sub(r"evaluation\.(\w+)", lambda found: "--" + found[1].replace("_", "-"), text)


def _generation(saved: checkpoint.Checkpoint | None) -> int:
    """Return which games a run plays: those of its checkpoint, or the next ones if they cannot go on."""
    if saved is None:
        return 0
    return int(saved.state["generation"]) + (saved.replay is None)


def _seeds(seed: int) -> tuple[int, int, int, int]:
    """Derive unrelated seeds: EnvPool gives its games seed, seed + 1, ..., so neighbours would share games."""
    words = np.random.SeedSequence([seed, 0]).generate_state(4)
    a, b, c, d = (int(word >> 1) for word in words)
    return a, b, c, d


def _game_problems(game: str) -> list[str]:
    """EnvPool itself answers to an unknown game with an assertion, and to another kind of game with worse."""
    names = game_names()
    if game in names:
        return []
    folded = {name.lower(): name for name in names} | {
        name.lower().removesuffix("-v5"): name for name in names
    }
    near = difflib.get_close_matches(game.lower().removesuffix("noframeskip-v4"), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]}?" if near else f"EnvPool has {', '.join(names[:5])}, ..."
    return [f"game = {shown(game)}: EnvPool has no such Atari game; {hint}"]


def _ring_problems(config: Config) -> list[str]:
    envs, n_step = config.env.num_envs, config.learner.n_step
    problems = []
    least = envs * (STACK + n_step)
    if config.replay.capacity < least:
        problems.append(
            f"replay.capacity = {config.replay.capacity}: at least {least} is needed, env.num_envs ({envs}) "
            f"x (stack {STACK} + learner.n_step {n_step})"
        )
    if config.replay.warmup_steps < envs * n_step:
        problems.append(
            f"replay.warmup_steps = {config.replay.warmup_steps}: at least {envs * n_step} is needed, "
            f"env.num_envs ({envs}) x learner.n_step ({n_step}), or there is nothing to sample"
        )
    return problems


def _protocol_problems(config: Config) -> list[str]:
    """Machado et al. 2018 have agents choose among all 18 actions; a policy knows those it was trained with.

    Its actions could be looked up among the 18, but the score would be another protocol's.
    """
    if config.evaluation.protocol != "machado" or config.env.full_action_set:
        return []
    return [
        "evaluation.protocol = machado: it is for policies that choose among all 18 actions; train one with "
        "--env.full-action-set, or take the protocol own with sticky actions 0.25"
    ]


def _device_problems(config: Config, device: devices.Backend | None) -> list[str]:
    if device is not None or devices.has_cuda():
        return []
    wants = {
        "learner.accelerate": (config.learner.accelerate, "graph", "auto"),
        "learner.precision": (config.learner.precision, "tf32", "fp32"),
        "replay.device": (config.replay.device, "cuda", "auto"),
    }
    return [
        f"{name} = {value!r}: needs a CUDA GPU, and PyTorch sees none here (`fastdqn info` tells); "
        f"try --{name.replace('_', '-')} {instead}"
        for name, (value, wanted, instead) in wants.items()
        if value == wanted
    ]
