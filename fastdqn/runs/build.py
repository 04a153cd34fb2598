"""From a configuration to the objects of a run: the one place where a configured value is tested."""

from __future__ import annotations

from dataclasses import dataclass

from fastdqn.algorithm.exploration import Actor
from fastdqn.algorithm.networks import STACK
from fastdqn.algorithm.schedules import Schedule
from fastdqn.config import Config
from fastdqn.engine import device as devices
from fastdqn.engine.acting import ActingNetwork
from fastdqn.engine.compiling import resolve_accelerate
from fastdqn.engine.feed import DeviceFeed, Feed, HostFeed, Queueing
from fastdqn.engine.learner import Learner
from fastdqn.errors import UserError
from fastdqn.games.envs import AtariEnvs
from fastdqn.replay import ReplayBuffer
from fastdqn.runs import checkpoint, memory
from fastdqn.runs.checks import Checked
from fastdqn.runs.clock import Clock
from fastdqn.runs.memory import FRAME_BYTES, SLOT_BYTES
from fastdqn.runs.seeds import run_seeds

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
    schedule: Schedule
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


def build(checked: Checked, saved: checkpoint.Checkpoint | None = None) -> Parts:
    """Make the objects of a run.

    Args:
        checked: Its configuration, and where its learner is to live.
        saved: A checkpoint that the run goes on from. The replay is filled from it, and the games are the same
            ones, or others where there is no replay to go on with; `resume.restore` does the rest.

    Raises:
        UserError: The replay does not fit in memory after all, or its file is not of this configuration.
    """
    config = checked.config
    device = checked.device or devices.choose(config.pipeline.precision)
    clock = Clock(config.env.frame_skip, config.replay.warmup_steps, config.learner.steps_per_update)
    accelerate = resolve_accelerate(
        config.pipeline.accelerate, device.device, clock.updates_planned(config.total_frames)
    )
    seeds = run_seeds(config.seed)
    envs = AtariEnvs(config.game, config.env, seeds.games, _generation(saved))
    try:
        replay = ReplayBuffer(
            config.replay.capacity,
            config.env.num_envs,
            stack=STACK,
            n_step=config.learner.n_step,
            gamma=config.learner.gamma,
            alpha=config.replay.alpha,
            seed=seeds.replay,
        )
        if saved and saved.replay:
            replay.load(saved.replay)
    except MemoryError as error:
        raise UserError(f"replay.capacity = {config.replay.capacity}: {error}") from None
    except ValueError as error:
        raise UserError(f"{saved.path if saved else ''}: {error}") from None
    learner = Learner(config, envs.num_actions, backend=device, seed=seeds.network, accelerate=accelerate)
    acting = ActingNetwork(
        learner, config.env.num_envs, lag_updates=config.pipeline.acting_lag_updates, seed=seeds.actor
    )
    actor = Actor(acting, envs.num_actions, config.env.num_envs, seeds.actor)
    feed, frames_on = _feed(config, replay, device)
    return Parts(
        clock,
        Schedule.of(config, clock.warmup_frames),
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
    setting, needed = config.pipeline.frames_on, replay.ring * replay.num_envs * FRAME_BYTES
    queueing = Queueing(
        updates=config.pipeline.updates_per_launch,
        in_flight=memory.launches_in_flight(config),
        priority_lag_updates=config.pipeline.priority_lag_updates,
    )
    free = device.free_bytes()
    resident = setting == "cuda" or (setting == "auto" and free is not None and needed <= free // 2)
    if not resident:
        return HostFeed(replay, config.learner.batch_size, device, queueing), "frames on the host"
    if free is not None and needed > free:
        raise UserError(
            f"pipeline.frames_on = 'cuda': {replay.capacity:,} frames take {needed / 2**30:.1f} GiB, and the GPU "
            f"has {free / 2**30:.1f} GiB free; try --pipeline.frames-on host"
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


def _generation(saved: checkpoint.Checkpoint | None) -> int:
    """Return which games a run plays: those of its checkpoint, or the next ones if they cannot go on."""
    if saved is None:
        return 0
    return int(saved.state["generation"]) + (saved.replay is None)
