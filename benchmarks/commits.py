"""Is a commit as fast as another? The update and the loop of two checkouts, in turns.

    python benchmarks/commits.py --before OTHER_CHECKOUT --out benchmarks/results/commits.json

Both checkouts are set up (`make setup`). Each contestant is a process of its own, of its checkout's Python, that
runs what the checkout's own `benchmarks/update.py` and `benchmarks/env.py` time: a compiled update of the preset
`quick` (width 0.25) and `nature` (width 1), 32 transitions; an act in eight games by each, after two updates, as
in a run; the loop with random actions and the store on, and raw EnvPool. They take turns, and a ratio is that of
two neighbours in time; the figure is the median of the ratios.
"""

from __future__ import annotations

import json
import subprocess
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import common
import tyro

ROOT = Path(__file__).resolve().parents[1]
CASES = {"quick": ("quick", 32, 0.25), "nature": ("nature", 32, 1.0)}

# Serves a process over its pipes: a number comes in, the milliseconds of one round of it go out.
UPDATE = """
import json, sys
import update
class Pipe:
    def send(self, what): print(json.dumps(what), flush=True)
    def recv(self): return int(sys.stdin.readline() or 0)
if __name__ == "__main__":
    name, rules, size, width = json.loads(sys.argv[1])
    update.contestant(name, update.Case(rules, size, width, 0), Pipe())
"""
ACT = """
import itertools, json, sys, time
from dataclasses import replace
import numpy as np
import update
from fastdqn.algorithm.update import Transitions
from fastdqn.engine.acting import ActingNetwork
from fastdqn.engine.learner import LaunchInputs, Learner
from fastdqn.presets import PRESETS
preset, precision = json.loads(sys.argv[1])
config = PRESETS[preset].config
config = replace(config, pipeline=replace(config.pipeline, precision=precision))
learner, counts = Learner(config, update.ACTIONS, accelerate="compile"), itertools.count()
learner.prepare(LaunchInputs([tuple(vars(update.random_batch(32, seed=0)).values())], Transitions))
acting = ActingNetwork(learner, 8, lambda: 0)
acting.prepare()
observation = np.random.default_rng(0).integers(0, 256, (8, 4, 84, 84), dtype=np.uint8)
print("{}", flush=True)
while count := int(sys.stdin.readline() or 0):
    taken = 0.0
    for act in range(count):
        learner.launch(next(counts))
        learner.launch(next(counts))
        begin = time.perf_counter()
        acting(observation, act)
        taken += time.perf_counter() - begin
    print(1e3 * taken / count, flush=True)
"""
LOOP = """
import json, sys, time
import env
steps = getattr(env, sys.argv[1])(env.Settings())
next(steps)
print("{}", flush=True)
while count := int(sys.stdin.readline() or 0):
    begin = time.perf_counter()
    for _ in range(count):
        next(steps)
    print(1e3 * (time.perf_counter() - begin) / count, flush=True)
"""


@dataclass(frozen=True)
class Settings:
    """One checkout against another."""

    before: Path
    """The other checkout."""
    only: tuple[Literal["quick", "nature", "act_quick", "act_nature", "loop"], ...] = (
        "quick",
        "nature",
        "loop",
    )
    """What is timed."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Of the updates' and the acts' products."""
    rounds: int = 40
    """Turns of each contestant; the first two do not count."""
    updates: int = 32
    """Updates of a turn."""
    passes: int = 400
    """Passes of the loop in a turn."""
    out: Path | None = None
    """File for the figures; standard output without it."""


class Contestant:
    """A process that is told how many rounds to do and tells how long one took.

    Args:
        checkout: Whose code it runs.
        code: What it runs.
        argument: Of the code.
    """

    def __init__(self, checkout: Path, code: str, argument: str) -> None:
        python = checkout / ".venv" / "bin" / "python"
        self._process = subprocess.Popen(
            [python, "-c", code, argument],
            cwd=checkout / "benchmarks",
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._read()  # it is ready

    def _read(self) -> Any:
        assert self._process.stdout
        for line in self._process.stdout:
            if line.startswith(("{", *"0123456789")):
                return json.loads(line)
        raise SystemExit(f"a contestant ended with {self._process.wait()}: what it said stands above")

    def milliseconds(self, count: int) -> float:
        """Return how long one of `count` rounds took."""
        assert self._process.stdin
        print(count, file=self._process.stdin, flush=True)
        return float(self._read())

    def stop(self) -> None:
        """End the process."""
        self._process.communicate("0\n")


def commit(checkout: Path) -> str:
    """Return the commit of a checkout."""
    command = ["git", "-C", checkout, "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def compare(contestants: dict[str, Contestant], rounds: int, count: int) -> dict[str, list[float]]:
    """Let contestants take turns; return the milliseconds of each turn that counts."""
    times: dict[str, list[float]] = {name: [] for name in contestants}
    for turn in range(rounds):
        for name, contestant in contestants.items():
            taken = contestant.milliseconds(count)
            if turn >= min(2, rounds - 1):
                times[name].append(taken)
    for contestant in contestants.values():
        contestant.stop()
    return times


def ratio(times: dict[str, list[float]], over: str, under: str) -> dict[str, float]:
    """Return the spread of the ratios of two neighbours in time."""
    return common.spread([a / b for a, b in zip(times[over], times[under], strict=True)])


def main(settings: Settings) -> None:
    """Compare update and loop; print and write the ratios."""
    checkouts = {"before": settings.before.resolve(), "now": ROOT}
    results: dict[str, Any] = {}
    kind = {"fp32": "compile", "bf16": "bfloat16"}[settings.precision]
    pairs: list[tuple[str, str, str, list[Any]]] = []
    for name, case in CASES.items():
        pairs.append((name, f"update_{name}", UPDATE, [kind, *case]))
        pairs.append((f"act_{name}", f"act_{name}", ACT, [name, settings.precision]))
    for name, title, code, words in pairs:
        if name not in settings.only:
            continue
        pair = {when: Contestant(path, code, json.dumps(words)) for when, path in checkouts.items()}
        times = compare(pair, settings.rounds, settings.updates)
        results[title] = {
            **{f"{when}_milliseconds": common.spread(values) for when, values in times.items()},
            "now_over_before": ratio(times, "now", "before"),
        }
        print(f"{title}: now / before {results[title]['now_over_before']['median']:.3f}")
    if "loop" in settings.only:
        loops = {when: Contestant(path, LOOP, "ours") for when, path in checkouts.items()}
        loops["raw"] = Contestant(ROOT, LOOP, "raw")
        times = compare(loops, settings.rounds, settings.passes)
        results["loop"] = {
            "before_share_of_raw": ratio(times, "raw", "before"),
            "now_share_of_raw": ratio(times, "raw", "now"),
            "now_over_before": ratio(times, "now", "before"),
        }
        print(f"loop: now / before {results['loop']['now_over_before']['median']:.3f}")
    commits = {when: commit(path) for when, path in checkouts.items()}
    told = {**asdict(settings), "before": commits["before"], "now": commits["now"], "out": None}
    common.write("commits", told, results, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
