"""How long is an update of each preset, at its own batch and width, compiled, beside one of `nature`?

    python benchmarks/presets.py --warm
    python benchmarks/presets.py --out benchmarks/results/presets.json

`nature` has a process of its own that lives throughout. Each other preset gets one, and the two take turns: a
ratio is that of two neighbours in time, the figure is the median of the ratios. A turn is as many updates as take
about `turn_seconds`, one at least. The compiler works before the turns; with --warm it works and nothing is
measured, so that a measurement soon after finds its work in PyTorch's cache.
"""

from __future__ import annotations

import itertools
import math
import multiprocessing
import time
from dataclasses import asdict, dataclass, replace
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, Literal

import common
import tyro
from update import ACTIONS, random_batch

from fastdqn.algorithm.update import Transitions
from fastdqn.engine.learner import LaunchInputs, Learner
from fastdqn.presets import PRESETS

BASE = "nature"


@dataclass(frozen=True)
class Settings:
    """Updates of presets as multiples of nature's."""

    presets: tuple[str, ...] = tuple(PRESETS)
    """Which."""
    rounds: int = 7
    """Turns of each; the first does not count."""
    turn_seconds: float = 0.3
    """Length of a turn."""
    accelerate: Literal["eager", "compile"] = "compile"
    """How updates are run."""
    warm: bool = False
    """Compile alone."""
    small: bool = False
    """Seconds instead of minutes: two presets on narrow networks, eager. The figures mean nothing."""
    out: Path | None = None
    """File for the figures; standard output without it."""


def serve(preset: str, settings: Settings, pipe: Connection) -> None:
    """Serve a process: receive a number of updates, send the milliseconds of one; end at 0."""
    start = time.perf_counter()
    config = PRESETS[preset].config
    config = replace(config, pipeline=replace(config.pipeline, precision="fp32"))  # the same for all
    if settings.small:
        config = replace(config, network=replace(config.network, width=1 / 16))
    size = config.learner.batch_size
    learner = Learner(config, ACTIONS, accelerate=settings.accelerate)
    batch = random_batch(size, seed=0)
    learner.prepare(LaunchInputs([tuple(vars(batch).values())], Transitions))
    pipe.send({"start_seconds": time.perf_counter() - start, "batch_size": size})
    counts = itertools.count()
    while count := pipe.recv():
        begin = time.perf_counter()
        for _ in range(count):
            learner.launch(next(counts))
        pipe.send(1e3 * (time.perf_counter() - begin) / count)


class Contestant:
    """A preset's process."""

    def __init__(self, preset: str, settings: Settings) -> None:
        context = multiprocessing.get_context("spawn")
        self._pipe, far = context.Pipe()
        self._process: BaseProcess = context.Process(target=serve, args=(preset, settings, far), daemon=True)
        self._process.start()
        self.about: dict[str, Any] = self._pipe.recv()
        self.count = 1
        if not settings.warm:
            self.turn()
            self.count = max(1, math.floor(settings.turn_seconds / (self.turn() / 1e3)))

    def turn(self) -> float:
        """Do some updates; return the milliseconds of one."""
        self._pipe.send(self.count)
        return float(self._pipe.recv())

    def end(self) -> None:
        """End the process."""
        self._pipe.send(0)
        self._process.join()


def measure(base: Contestant, preset: str, settings: Settings) -> dict[str, Any]:
    """Let a preset and the base take turns; return a row."""
    own = Contestant(preset, settings)
    mine: list[float] = []
    theirs: list[float] = []
    for _ in range(0 if settings.warm else settings.rounds):
        theirs.append(base.turn())
        mine.append(own.turn())
    own.end()
    row: dict[str, Any] = {"preset": preset, **own.about}
    if mine:
        ratios = [a / b for a, b in zip(mine[1:], theirs[1:], strict=True)]
        row |= {
            "updates_per_turn": own.count,
            "milliseconds": common.spread(mine[1:]),
            f"{BASE}_milliseconds": common.spread(theirs[1:]),
            f"over_{BASE}": common.spread(ratios),
        }
    return row


def show(row: dict[str, Any]) -> None:
    """Print a row."""
    ratio = row.get(f"over_{BASE}")
    figures = (
        f"{row['milliseconds']['median']:9.2f} ms {ratio['median']:8.2f} times {BASE}'s" if ratio else ""
    )
    print(
        f"{row['preset']:<14} batch {row['batch_size']:4d} {figures} (ready after {row['start_seconds']:.0f} s)"
    )


def main(settings: Settings) -> None:
    """Measure every preset and write the figures."""
    if settings.small:
        settings = replace(
            settings, presets=("double", "iqn"), rounds=2, turn_seconds=0.01, accelerate="eager"
        )
    base = Contestant(BASE, settings)
    rows = []
    for preset in settings.presets:
        rows.append(measure(base, preset, settings))
        show(rows[-1])
    base.end()
    if not settings.warm:
        common.write("presets", {**asdict(settings), "out": None}, rows, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
