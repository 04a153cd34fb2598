"""Does it cost more with a larger replay, and what do more games bring? Frames per second by both, by threads.

    python benchmarks/scaling.py --out benchmarks/results/scaling.json
    python benchmarks/performance_page.py    # the table and the picture of docs/performance.md

A cell is a capacity of the replay, a number of games and a number of PyTorch's threads. The replay is filled
first, by adding again and again what some thousand steps of play brought, so that frames lie in it as after a
long run. Then come frames per second of training (the trainer's pass: act, store, learn, receive) and of
playing (the same without learning). The capacities of one number of games take turns, so that what the machine
does meanwhile meets all alike; the figure is the median of the turns.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import common
import torch
import tyro

from fastdqn.config import Config
from fastdqn.presets import PRESETS
from fastdqn.runs.build import Components, build
from fastdqn.runs.checks import check
from fastdqn.runs.experience import Pass

RECORDED_STEPS = 4_096


@dataclass(frozen=True)
class Settings:
    """Speed by the size of the replay, the number of games and of threads."""

    preset: str = "quick"
    """Preset to train with."""
    game: str = "Pong-v5"
    """EnvPool's name of the game."""
    capacities: tuple[int, ...] = (10_000, 100_000, 1_000_000)
    """Frames of the replay."""
    games: tuple[int, ...] = (8, 32, 128, 256)
    """Games side by side."""
    threads: tuple[int, ...] = (1, 2)
    """Threads of PyTorch."""
    storage: str = "auto"
    """How frames are kept; a change of storage from one capacity to the next is a change of cost."""
    rounds: int = 3
    """Turns of each cell."""
    seconds: float = 1.0
    """Length of a turn, training and playing each."""
    accelerate: str = "compile"
    """How updates are computed."""
    out: Path | None = None
    """File for the figures; standard output without it."""


class Cell:
    """A run whose replay is full.

    Args:
        config: Of the run.
        threads: Threads of PyTorch.
    """

    def __init__(self, config: Config, threads: int) -> None:
        torch.set_num_threads(threads)
        self.threads = threads
        self._parts = build(check(config))
        self._frames_per_pass = config.env.num_envs * config.env.frame_skip
        self.observation = self._parts.envs.reset()
        self._parts.experience.begin(self.observation)
        self._fill(config)
        self._parts.learner.prepare(self._parts.experience.inputs)
        self._parts.acting.prepare()
        self._parts.acting(self.observation, 0)  # compiles
        self._parts.clock.add_steps(config.replay.warmup_steps)
        self._parts.clock.add_updates(self._parts.clock.launches_due(1))
        self.storage_fill = self._parts.experience.stats().fill

    def _fill(self, config: Config) -> None:
        envs, experience = self._parts.envs, self._parts.experience
        first, recorded = self.observation, []
        for _ in range(max(16, RECORDED_STEPS // config.env.num_envs)):
            action = self._parts.actor.act(self.observation, 1.0)
            envs.send(action)
            last = Pass(action, envs.recv())
            recorded.append(last)
            self.observation = last.outcome.observation
        passes = 0
        while passes * config.env.num_envs < config.replay.capacity:
            if passes:
                experience.begin(first)
            for last in recorded:  # ends where the games are
                experience.add(last)
            passes += len(recorded)

    def frames_per_second(self, seconds: float, *, learns: bool) -> float:
        """Go on for so long; return the frames of a second."""
        torch.set_num_threads(self.threads)
        passes, begin = 0, time.perf_counter()
        while time.perf_counter() - begin < seconds:
            self._turn(self._parts, learns)
            passes += 1
        return passes * self._frames_per_pass / (time.perf_counter() - begin)

    def _turn(self, parts: Components, learns: bool) -> None:
        """Do what the trainer does in a pass."""
        clock, schedule, updates = parts.clock, parts.schedule, parts.experience.inputs.updates
        action = parts.actor.act(self.observation, 0.01)
        parts.envs.send(action)
        parts.experience.store()
        for _ in range(clock.launches_due(updates)):
            if learns:
                parts.experience.stage(schedule.beta(clock.frames))
                rate = schedule.learning_rate(clock.frames)
                parts.experience.report(parts.learner.launch(clock.updates, rate))
            clock.add_updates(updates)
        outcome = parts.envs.recv()
        self.observation = outcome.observation
        parts.experience.add(Pass(action, outcome))
        clock.add_steps(outcome.steps)

    def close(self) -> None:
        """End the games."""
        self._parts.envs.close()


def config_of(settings: Settings, capacity: int, games: int) -> Config:
    """Return a run's configuration."""
    config = PRESETS[settings.preset].config
    return replace(
        config,
        game=settings.game,
        total_frames=2**40,
        env=replace(config.env, num_envs=games),
        replay=replace(
            config.replay, capacity=capacity, warmup_steps=max(2_000, 16 * games), storage=settings.storage
        ),
        pipeline=replace(config.pipeline, accelerate=settings.accelerate, precision="fp32"),
    )


def measure(settings: Settings, games: int, threads: int) -> list[dict[str, Any]]:
    """Let the capacities take turns; return a row for each."""
    cells = {
        capacity: Cell(config_of(settings, capacity, games), threads) for capacity in settings.capacities
    }
    kinds: dict[str, Callable[[Cell], float]] = {
        "training": lambda cell: cell.frames_per_second(settings.seconds, learns=True),
        "playing": lambda cell: cell.frames_per_second(settings.seconds, learns=False),
    }
    speeds: dict[tuple[int, str], list[float]] = {
        (capacity, kind): [] for capacity in cells for kind in kinds
    }
    for _ in range(settings.rounds):
        for capacity, cell in cells.items():
            for kind, run in kinds.items():
                speeds[capacity, kind].append(run(cell))
    rows = []
    for capacity, cell in cells.items():
        row: dict[str, Any] = {"capacity": capacity, "games": games, "threads": threads}
        row["filled"] = cell.storage_fill
        for kind in kinds:
            row[f"{kind}_frames_per_second"] = common.spread(speeds[capacity, kind])
        rows.append(row)
        cell.close()
        print(
            f"{capacity:9,} frames  {games:3} games  {threads} threads: training "
            f"{row['training_frames_per_second']['median']:7,.0f}  playing "
            f"{row['playing_frames_per_second']['median']:7,.0f} frames/s",
            flush=True,
        )
    return rows


def main(settings: Settings) -> None:
    """Measure every cell and write the figures."""
    results = [
        row
        for threads in settings.threads
        for games in settings.games
        for row in measure(settings, games, threads)
    ]
    common.write("scaling", {**asdict(settings), "out": None}, results, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
