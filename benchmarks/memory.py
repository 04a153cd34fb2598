"""What an update takes of memory for each transition of its batch: the figures of fastdqn/runs/memory.py.

    python benchmarks/memory.py

The peak of a process that does eager updates of many rows, less that of one of few, over the rows between: mostly
activations and their gradients. Every row of the table is a preset, or one with a head that is larger; beside it
is what the check before a run counts, which must not be less.
"""

from __future__ import annotations

import multiprocessing
import re
from dataclasses import dataclass, replace
from pathlib import Path

import common  # noqa: F401  # before torch
import tyro
from update import ACTIONS, random_batch

from fastdqn.algorithm.update import Transitions
from fastdqn.config import Config
from fastdqn.engine.learner import LaunchInputs, Learner
from fastdqn.presets import PRESETS
from fastdqn.runs.memory import transition_bytes


@dataclass(frozen=True)
class Settings:
    """Bytes of a transition."""

    presets: tuple[str, ...] = ("quick", "nature", "c51", "qrdqn", "iqn", "m-iqn", "rainbow", "btr")
    """Which."""
    rows: tuple[int, int] = (16, 80)
    """Two sizes of a batch."""


def cases(presets: tuple[str, ...]) -> dict[str, Config]:
    """Return what is measured, by name."""
    found = {name: PRESETS[name].config for name in presets}
    for name, head, size in (("c51", "atoms", 501), ("qrdqn", "quantiles", 1_000), ("iqn", "quantiles", 200)):
        if name in presets:
            config = PRESETS[name].config
            found[f"{name}, {size} {head}"] = replace(config, network=replace(config.network, **{head: size}))
    if "c51" in presets:
        config = found["c51, 501 atoms"]
        rule = replace(config.learner, rule="munchausen")
        found["c51, 501 atoms, munchausen"] = replace(config, learner=rule)
    return found


def peak(config: Config, rows: int) -> int:
    """Return the most that this process has had of memory, in bytes, after two updates."""
    learner = Learner(config, ACTIONS)
    batch = random_batch(rows, seed=0)
    learner.prepare(LaunchInputs([tuple(vars(batch).values())], Transitions))
    for index in range(2):
        learner.launch(index)
    found = re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())
    assert found
    return 1024 * int(found[1])


def main(settings: Settings) -> None:
    """Measure, and print a table."""
    few, many = settings.rows
    context = multiprocessing.get_context("spawn")
    for name, config in cases(settings.presets).items():
        peaks = []
        for rows in settings.rows:
            with context.Pool(1) as process:
                peaks.append(process.apply(peak, (config, rows)))
        each = (peaks[1] - peaks[0]) / (many - few)
        counted = transition_bytes(config, ACTIONS)
        print(f"{name:<28} {each / 1e3:>9,.0f} kB a transition, counted as {counted / 1e3:>9,.0f} kB")


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
