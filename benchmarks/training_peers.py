"""Our training beside Stable-Baselines3's, CleanRL's and Tianshou's: steps per second, and how soon they begin.

    pip install -c constraints.txt -e '.[train,plot,bench,clients]' tensorboard
    git clone https://github.com/vwxyzjn/cleanrl
    python benchmarks/training_peers.py --cleanrl cleanrl --out benchmarks/results/training-peers.json
    python benchmarks/performance_page.py    # the tables and pictures of docs/performance.md

All train Nature's network on the same game: batches of 32, one update per 4 steps, Adam, the same buffer, epsilon
and warm-up. Each is a program of its own (training_loops.py), set up as its authors' Atari example is, with
PyTorch's own number of threads. They take turns: all but one stand still at an update, so a ratio is that of two
neighbours in time, and the figure is the median of the ratios. A turn is a number of updates, 4 steps each.

The time to the first update begins where the command is typed, imports and warm-up among it. Ours is taken twice:
with an empty cache of the compiler's, and with what that left.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common
import training_loops
import tyro

from fastdqn.cli.version import version_of

LOOPS = Path(training_loops.__file__)
DISTRIBUTIONS = ("stable-baselines3", "tianshou", "gymnasium", "ale-py", "envpool")


@dataclass(frozen=True)
class Settings:
    """Whole training loops in turns."""

    only: tuple[str, ...] = ("fastdqn", "fastdqn-bf16", "sb3", "sb3-one-game", "cleanrl", "tianshou")
    """Who takes part; the first is what the others are compared with."""
    cleanrl: Path | None = None
    """A checkout of CleanRL; without one its script does not take part."""
    game: str = "Pong"
    """The game, without an ending."""
    rounds: int = 4
    """Turns of each; the first does not count."""
    updates: int = 120
    """Updates of a turn, of 4 steps each."""
    warmup_steps: int = 1_000
    """Steps before the first update."""
    capacity: int = 100_000
    """Transitions that a buffer has room for."""
    epsilon: float = 0.1
    """Probability of a random action, from the first step to the last."""
    out: Path | None = None
    """File for the figures; standard output without it."""


class Loop:
    """A program that trains.

    Args:
        name: Which.
        settings: Of the comparison.
        cache: Folder of PyTorch's compiler.

    Attributes:
        first_update_seconds: From the command to the first update.
        about: What the program says of itself.
    """

    def __init__(self, name: str, settings: dict[str, Any], cache: str) -> None:
        read, replies = os.pipe()
        commands, write = os.pipe()
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (a pipe that nobody reads would fill)
        begin = time.perf_counter()
        self._process = subprocess.Popen(
            [sys.executable, str(LOOPS), name, str(commands), str(replies), json.dumps(settings)],
            pass_fds=(commands, replies),
            stdout=subprocess.DEVNULL,
            stderr=self._said,
            env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": cache},
        )
        os.close(commands)
        os.close(replies)
        self._replies, self._commands = os.fdopen(read), os.fdopen(write, "w")
        self._name = name
        self.about = self._reply()
        self.first_update_seconds = time.perf_counter() - begin

    def _reply(self) -> dict[str, Any]:
        line = self._replies.readline()
        if not line:
            ended = self._process.wait()
            self._said.seek(0)
            raise SystemExit(f"{self._name} ended with {ended}:\n{self._said.read().decode()[-2000:]}")
        return dict(json.loads(line))

    def steps_per_second(self, updates: int) -> float:
        """Let it do so many updates; return the steps that it took a second."""
        begin = time.perf_counter()
        print(updates, file=self._commands, flush=True)
        self._reply()
        return updates * training_loops.STEPS_PER_UPDATE / (time.perf_counter() - begin)

    def stop(self) -> None:
        """End it."""
        print(0, file=self._commands, flush=True)
        self._process.wait()


def compare(settings: Settings) -> dict[str, Any]:
    """Start all, let them take turns and return what was seen of each."""
    names = [name for name in settings.only if name != "cleanrl" or settings.cleanrl]
    words = {**asdict(settings), "out": None, "cleanrl": str((settings.cleanrl or Path()).resolve())}
    with tempfile.TemporaryDirectory() as cache:
        results: dict[str, dict[str, Any]] = {name: {} for name in names}
        for name in names:
            if name.startswith("fastdqn"):
                first = Loop(name, words, cache)
                results[name]["first_update_seconds_of_first_run"] = first.first_update_seconds
                first.stop()
        loops: dict[str, Loop] = {}
        for name in names:  # one after another: those before stand still
            loops[name] = Loop(name, words, cache)
            results[name] |= {"first_update_seconds": loops[name].first_update_seconds, **loops[name].about}
        speeds: dict[str, list[float]] = {name: [] for name in names}
        for turn in range(settings.rounds):
            for name, loop in loops.items():
                speed = loop.steps_per_second(settings.updates)
                if turn or settings.rounds == 1:
                    speeds[name].append(speed)
        for loop in loops.values():
            loop.stop()
    ours = speeds[names[0]]
    for name in names:
        results[name]["steps_per_second"] = common.spread(speeds[name])
        ratios = [mine / theirs for mine, theirs in zip(ours, speeds[name], strict=True)]
        results[name][f"{names[0]}_over_this"] = common.spread(ratios)
    return results


def commit_of(checkout: Path | None) -> str | None:
    """Return the commit of CleanRL's checkout."""
    if checkout is None:
        return None
    done = subprocess.run(["git", "-C", checkout, "rev-parse", "HEAD"], capture_output=True, text=True)
    return done.stdout.strip() or None


def main(settings: Settings) -> None:
    """Compare, print and write."""
    results = compare(settings)
    for name, result in results.items():
        speed, ratio = (
            result["steps_per_second"],
            next(v for k, v in result.items() if k.endswith("_over_this")),
        )
        print(
            f"{name:14} {speed['median']:6.0f} steps/s   ours over this {ratio['median']:.2f}   "
            f"first update after {result['first_update_seconds']:.1f} s"
        )
    kept = {
        **asdict(settings),
        "out": None,
        "cleanrl": commit_of(settings.cleanrl),
        "distributions": {name: version_of(name) for name in DISTRIBUTIONS},
    }
    common.write("training_peers", kept, results, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
