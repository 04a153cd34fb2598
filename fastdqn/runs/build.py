"""From a configuration to the objects of a run: the one place where a configured value is tested."""

from __future__ import annotations

from dataclasses import dataclass

from fastdqn.algorithm.exploration import Actor
from fastdqn.algorithm.networks import STACK
from fastdqn.algorithm.policies import POLICIES
from fastdqn.algorithm.schedules import Schedule
from fastdqn.config import Config
from fastdqn.engine import device as devices
from fastdqn.engine.acting import ActingNetwork
from fastdqn.engine.compiling import resolve_accelerate
from fastdqn.engine.data_parallel import ALONE, Ranks
from fastdqn.engine.feed import DeviceFeed, Feed, HostFeed, Queueing
from fastdqn.engine.learner import Learner
from fastdqn.errors import UserError
from fastdqn.games.envs import AtariEnvs
from fastdqn.replay import ReplayBuffer
from fastdqn.runs import checkpoint, memory
from fastdqn.runs.checks import Checked, share
from fastdqn.runs.clock import Clock, Marks
from fastdqn.runs.experience import Experience, ReplayedExperience
from fastdqn.runs.memory import FRAME_BYTES
from fastdqn.runs.metrics import Games
from fastdqn.runs.seeds import run_seeds


@dataclass
class Components:
    """The objects of a run.

    Attributes:
        clock: Frames, steps and updates so far.
        marks: What was done when, of what follows frames.
        games: Finished games.
        schedule: What changes in the course of the run.
        envs: The games.
        actor: Chooses their actions.
        acting: The network's part of the actor.
        experience: What the learner learns from.
        learner: The networks and the optimizer.
        keeps_replay: Whether checkpoints hold the experience.
        ranks: Who trains the run together.
    """

    clock: Clock
    marks: Marks
    games: Games
    schedule: Schedule
    envs: AtariEnvs
    actor: Actor
    acting: ActingNetwork
    experience: Experience
    learner: Learner
    keeps_replay: bool
    ranks: Ranks


def build(checked: Checked, saved: checkpoint.Checkpoint | None = None, ranks: Ranks = ALONE) -> Components:
    """Make the objects of a run.

    Args:
        checked: Its configuration, and where its learner is to live.
        saved: A checkpoint that the run goes on from. The experience is read from it, and the games are the same
            ones, or others where there is none to go on with; `resume.restore` does the rest.
        ranks: Who trains the run together. Games, replay and batches are this rank's share.

    Raises:
        UserError: The replay does not fit in memory after all, or its file is not of this configuration.
    """
    whole, seeds = checked.config, run_seeds(checked.config.seed, ranks.index)
    config = share(whole, ranks.count)
    device = checked.device or devices.choose(config.pipeline.precision)
    clock = Clock(config.env.frame_skip, config.replay.warmup_steps, config.learner.steps_per_update)
    accelerate = resolve_accelerate(
        config.pipeline.accelerate, device.device, clock.updates_planned(config.total_frames)
    )
    envs = AtariEnvs(config.game, config.env, seeds.games, _generation(saved))
    learner = Learner(
        whole, envs.num_actions, backend=device, seed=seeds.network, accelerate=accelerate, ranks=ranks
    )
    acting = ActingNetwork(
        learner,
        config.env.num_envs,
        lambda: clock.updates,
        lag_updates=config.pipeline.acting_lag_updates,
        seed=seeds.actor,
        policy=POLICIES[config.exploration.policy](config),
    )
    return Components(
        clock=clock,
        marks=Marks(),
        games=Games(),
        schedule=Schedule.of(whole, clock.warmup_frames),
        envs=envs,
        actor=Actor(acting, envs.num_actions, config.env.num_envs, seeds.actor),
        acting=acting,
        experience=_experience(config, device, seeds.replay, saved),
        learner=learner,
        keeps_replay=keeps_replay(whole),
        ranks=ranks,
    )


def _experience(
    config: Config, device: devices.Backend, seed: int, saved: checkpoint.Checkpoint | None
) -> Experience:
    try:
        replay = ReplayBuffer(
            config.replay.capacity,
            config.env.num_envs,
            stack=STACK,
            n_step=config.learner.n_step,
            gamma=config.learner.gamma,
            alpha=config.replay.alpha,
            storage=memory.storage(config),
            seed=seed,
        )
        experience = ReplayedExperience(replay, _feed(config, replay, device))
        if saved and saved.replay:
            experience.load(saved.replay)
    except MemoryError as error:
        raise UserError(f"replay.capacity = {config.replay.capacity}: {error}") from None
    except ValueError as error:
        raise UserError(f"{saved.path if saved else ''}: {error}") from None
    return experience


def _feed(config: Config, replay: ReplayBuffer, device: devices.Backend) -> Feed:
    """Choose where the learner reads frames.

    Raises:
        UserError: They are to lie on the device, and do not fit.
    """
    setting, needed = config.pipeline.frames_on, replay.ring * replay.num_envs * FRAME_BYTES
    queueing = Queueing(
        updates=config.pipeline.updates_per_launch,
        in_flight=memory.launches_in_flight(config),
        priority_lag_updates=config.pipeline.priority_lag_updates,
    )
    free = device.free_bytes()
    resident = setting == "cuda" or (setting == "auto" and free is not None and needed <= free // 2)
    if resident and free is not None and needed > free:
        raise UserError(
            f"pipeline.frames_on = 'cuda': {replay.capacity:,} frames take {needed / 2**30:.1f} GiB, and the GPU "
            f"has {free / 2**30:.1f} GiB free; try `pipeline.frames_on = 'host'`"
        )
    feed = DeviceFeed if resident else HostFeed
    return feed(replay, config.learner.batch_size, device, queueing)


def keeps_replay(config: Config) -> bool:
    """Whether a run's checkpoints hold its replay, so that resuming is exact."""
    if config.checkpoint.replay == "auto":
        return memory.replay_bytes(config) <= memory.MOST_SAVED_BYTES
    return config.checkpoint.replay == "on"


def _generation(saved: checkpoint.Checkpoint | None) -> int:
    """Return which games a run plays: those of its checkpoint, or the next ones if they cannot go on."""
    if saved is None:
        return 0
    return int(saved.state["generation"]) + (saved.replay is None)
