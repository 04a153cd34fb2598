"""How much of EnvPool's speed does our loop keep? Raw EnvPool against random actions with the store on.

    python benchmarks/env.py --out benchmarks/results/env.json

Raw EnvPool is its own `send` and `recv` with actions drawn beforehand. Ours chooses random actions in the
actor, tells real steps from resets, and stores every frame in the replay, by the experience that the trainer
uses. Both step the same games, in short trials that take turns. Autoreset rows count in both, since EnvPool does
not report them.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path

import common
import envpool
import numpy as np
import tyro
from numpy.typing import NDArray

from fastdqn.algorithm.exploration import Actor
from fastdqn.config import EnvConfig
from fastdqn.engine.device import CpuBackend
from fastdqn.engine.feed import HostFeed
from fastdqn.games.envs import AtariEnvs
from fastdqn.replay import ReplayBuffer
from fastdqn.runs.experience import Pass, ReplayedExperience


@dataclass(frozen=True)
class Settings:
    """Raw EnvPool against our loop with learning off."""

    game: str = "Pong-v5"
    """EnvPool's name of the game."""
    num_envs: int = 8
    """Games side by side."""
    passes: int = 400
    """Passes of all games per trial."""
    trials: int = 40
    """Trials of each."""
    capacity: int = 100_000
    """Frame slots of the replay."""
    out: Path | None = None
    """File for the figures; standard output without it."""


def raw(settings: Settings) -> Iterator[None]:
    """Step EnvPool forever, one pass for each `next`."""
    envs = envpool.make(
        settings.game,
        env_type="gymnasium",
        num_envs=settings.num_envs,
        seed=1,
        episodic_life=True,
        reward_clip=True,
        use_fire_reset=True,
    )
    envs.reset()
    actions = np.random.default_rng(1).integers(envs.action_space.n, size=(1024, settings.num_envs))
    for i in range(2**62):
        envs.send(actions[i % 1024])
        envs.recv()
        yield


def nobody(observation: NDArray[np.uint8], act: int) -> NDArray[np.int64]:
    """Stand for the network, which random actions never ask."""
    raise AssertionError("the network was asked")


def ours(settings: Settings) -> Iterator[None]:
    """Step our loop forever with learning off, one pass for each `next`."""
    envs = AtariEnvs(settings.game, EnvConfig(num_envs=settings.num_envs), seed=1)
    replay = ReplayBuffer(settings.capacity, settings.num_envs)
    actor = Actor(nobody, envs.num_actions, settings.num_envs, seed=1)
    experience = ReplayedExperience(replay, HostFeed(replay, 32, CpuBackend()))
    observation = envs.reset()
    experience.begin(observation)
    while True:
        action = actor.act(observation, 1.0)
        envs.send(action)
        experience.store()  # what came back before, while the emulator works: as the trainer does
        outcome = envs.recv()
        experience.add(Pass(action, outcome))
        observation = outcome.observation
        yield


def main(settings: Settings) -> None:
    """Time both in turns and print steps per second and their ratio."""
    kinds: dict[str, Callable[[Settings], Iterator[None]]] = {"raw": raw, "ours": ours}
    loops = {name: make(settings) for name, make in kinds.items()}
    speeds: dict[str, list[float]] = {name: [] for name in loops}
    for trial in range(-1, settings.trials):  # the first warms up
        for name, loop in loops.items():
            start = time.perf_counter()
            for _ in range(settings.passes):
                next(loop)
            if trial >= 0:
                speeds[name].append(settings.passes * settings.num_envs / (time.perf_counter() - start))
    ratio = [mine / theirs for mine, theirs in zip(speeds["ours"], speeds["raw"], strict=True)]
    results = {
        "raw_steps_per_second": common.spread(speeds["raw"]),
        "ours_steps_per_second": common.spread(speeds["ours"]),
        "ours_over_raw": common.spread(ratio),
    }
    common.write("env", {**asdict(settings), "out": None}, results, settings.out)
    print(f"ours / raw: median {results['ours_over_raw']['median']:.3f} over {settings.trials} trials")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
