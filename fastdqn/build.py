"""From a configuration to objects: the one place where a configured value is tested."""

from __future__ import annotations

import difflib
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from fastdqn import backend, checkpoint
from fastdqn.acceleration import resolve_accelerate
from fastdqn.actor import Actor, LearnersBest
from fastdqn.clock import Clock
from fastdqn.config import Config, NetworkConfig
from fastdqn.envs import AtariEnvs, game_names, num_actions
from fastdqn.errors import UserError
from fastdqn.feed import DeviceFeed, Feed, HostFeed, Launches
from fastdqn.learner import Learner
from fastdqn.replay import ReplayBuffer

STACK = 4
FRAME_BYTES = 84 * 84
SLOT_BYTES = FRAME_BYTES + 34
"""A frame slot of the replay: the pixels and what is kept beside them (at most)."""


@dataclass
class Parts:
    """The objects of a run.

    Attributes:
        best_actions: The network's part of the actor.
        accelerate: How the learner runs: `eager`, `compile` or `graph`.
        frames_on: Where the learner reads frames, for people.
    """

    clock: Clock
    envs: AtariEnvs
    replay: ReplayBuffer
    learner: Learner
    actor: Actor
    best_actions: LearnersBest
    feed: Feed
    accelerate: str
    frames_on: str


def check(config: Config, weights: Path | None = None, *, device: backend.Backend | None = None) -> None:
    """Raise one error that names every problem of a configuration; cheap, and nothing is made.

    Args:
        config: What is to be run.
        weights: The weights that it is to start from: a run, a checkpoint, or an online.safetensors.
        device: Where the learner is to live; the GPU if there is one and none is given.

    Raises:
        UserError: A value is out of range, the game is unknown, the replay does not fit, or the weights do not.
    """
    problems = config.validate()
    if config.game not in game_names():
        problems.insert(0, _unknown_game(config.game))
    if not problems:
        problems = [*_ring_problems(config), *_memory_problems(config), *_device_problems(config, device)]
    if problems:
        raise UserError("\n".join(problems))
    if weights is not None:
        check_policy(checkpoint.load_policy(weights), config, num_actions(config.game, config.env))


def build(config: Config, *, resumed_at: int = 0, device: backend.Backend | None = None) -> Parts:
    """Make the objects of a run.

    Args:
        config: A configuration that `check` let pass.
        device: Where the learner lives; the GPU if there is one and none is given.
        resumed_at: Steps that the run had taken before: games begin anew, so they are not to be the same ones.

    Raises:
        UserError: The replay does not fit in memory after all.
    """
    device = device or backend.choose(config.learner.precision)
    clock = Clock(config.env.frame_skip, config.replay.warmup_steps, config.learner.steps_per_update)
    accelerate = resolve_accelerate(
        config.learner.accelerate, device.device, clock.updates_planned(config.total_frames)
    )
    env_seed, actor_seed, replay_seed, network_seed = _seeds(config.seed, resumed_at)
    envs = AtariEnvs(config.game, config.env, env_seed)
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
    except MemoryError as error:
        raise UserError(f"replay.capacity = {config.replay.capacity}: {error}") from None
    learner = Learner(
        config.network,
        config.learner,
        envs.num_actions,
        backend=device,
        seed=network_seed,
        accelerate=accelerate,
    )
    best_actions = LearnersBest(
        learner,
        config.env.num_envs,
        staleness_updates=config.learner.staleness_updates,
        captured=accelerate == "graph",
    )
    actor = Actor(best_actions, envs.num_actions, config.env.num_envs, actor_seed)
    feed, frames_on = _feed(config, replay, device)
    return Parts(clock, envs, replay, learner, actor, best_actions, feed, accelerate, frames_on)


def _feed(config: Config, replay: ReplayBuffer, device: backend.Backend) -> tuple[Feed, str]:
    """Choose where the learner reads frames, and say so."""
    setting, needed = config.replay.device, replay.ring * replay.num_envs * FRAME_BYTES
    per_pass = -(
        -config.env.num_envs // (config.learner.steps_per_update * config.learner.updates_per_launch)
    )
    launches = Launches(
        updates=config.learner.updates_per_launch,
        in_flight=max(3, 2 * per_pass),  # one pass' launches are queued while the next one's are prepared
        priority_delay=config.replay.priority_delay_launches,
    )
    free = device.free_bytes()
    resident = setting == "cuda" or (setting == "auto" and free is not None and needed <= free // 2)
    if not resident:
        return HostFeed(replay, config.learner.batch_size, device, launches), "frames on the host"
    if free is not None and needed > free:
        raise UserError(
            f"replay.device = 'cuda': {replay.capacity:,} frames take {needed / 2**30:.1f} GiB, and the GPU has "
            f"{free / 2**30:.1f} GiB free; try --replay.device host"
        )
    feed = DeviceFeed(replay, config.learner.batch_size, device, launches)
    return feed, f"{needed / 2**30:.2f} GiB of frames on the device"


def load_weights(parts: Parts, path: Path) -> None:
    """Start both networks from trained weights that `check` let pass."""
    policy = checkpoint.load_policy(path)
    parts.learner.load_online({f"online.{name}": tensor for name, tensor in policy.weights.items()})


def check_policy(policy: checkpoint.Policy, config: Config, num_actions: int) -> None:
    """Raise where weights do not fit a configuration's network.

    Raises:
        UserError: Width, head or number of actions differ.
    """
    if policy.network != config.network:
        theirs, ours = policy.network, config.network
        raise UserError(
            f"{policy.source} is of a network with {_shape_of(theirs)}; this run's has {_shape_of(ours)}.\n"
            f"Add --network.width {theirs.width:g} --network.{'' if theirs.dueling else 'no-'}dueling "
            f"--network.{'' if theirs.centered else 'no-'}centered, or name the preset it was trained with."
        )
    if policy.num_actions != num_actions:
        raise UserError(
            f"{policy.source} knows {policy.num_actions} actions, {config.game} has {num_actions}: it was "
            "trained on another game or action set."
        )


def _shape_of(network: NetworkConfig) -> str:
    return f"width {network.width:g}, dueling {network.dueling}, centered {network.centered}"


def evaluation_seed(seed: int) -> int:
    """Return the seed of an evaluation's games, apart from the seeds of training."""
    return int(np.random.SeedSequence([seed, 1_000_003]).generate_state(1)[0] >> 1)


def _seeds(seed: int, resumed_at: int) -> tuple[int, int, int, int]:
    """Derive unrelated seeds: EnvPool gives its games seed, seed + 1, ..., so neighbours would share games."""
    words = np.random.SeedSequence([seed, resumed_at]).generate_state(4)
    a, b, c, d = (int(word >> 1) for word in words)
    return a, b, c, d


def _unknown_game(game: str) -> str:
    names = game_names()
    folded = {name.lower(): name for name in names} | {
        name.lower().removesuffix("-v5"): name for name in names
    }
    near = difflib.get_close_matches(game.lower().removesuffix("noframeskip-v4"), folded, n=1, cutoff=0.5)
    hint = f"did you mean {folded[near[0]]}?" if near else f"EnvPool has {', '.join(names[:5])}, ..."
    return f"game = {game!r}: EnvPool has no such Atari game; {hint}"


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


def _memory_problems(config: Config) -> list[str]:
    needed = config.replay.capacity * SLOT_BYTES
    available = _available_bytes()
    if available is None or needed <= available:
        return []
    fits = available * 9 // 10 // SLOT_BYTES
    return [
        f"replay.capacity = {config.replay.capacity}: {config.replay.capacity} frames x {SLOT_BYTES} bytes = "
        f"{needed / 2**30:.1f} GiB, and this machine has {available / 2**30:.1f} GiB to spare; "
        f"try --replay.capacity {fits // 1000 * 1000}"
    ]


def _device_problems(config: Config, device: backend.Backend | None) -> list[str]:
    if device is not None or backend.has_cuda():
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


def _available_bytes() -> int | None:
    """Memory that can be had without swapping, none where the kernel does not say."""
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    for line in lines:
        if line.startswith("MemAvailable:"):
            return int(line.split()[1]) * 1024
    return None
