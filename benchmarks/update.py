"""How long is one update? Ours, eager and compiled, against a plain PyTorch step of the same arithmetic.

    python benchmarks/update.py --out benchmarks/results/update.json

The plain step is pinned here: an `nn.Sequential` of Nature's layers, frames divided by 255, the maximum of
the target network, `smooth_l1_loss`, `backward()` and `torch.optim.Adam` with its defaults. With
`--rules quick` both sides are dueling and double, as in the preset `quick`.

With `--bfloat16` there is one contestant more, compiled with `--pipeline.precision bf16`: what that is worth
depends on the CPU's instructions, which the file names. `--instructions all avx512 avx2` measures besides what
comes out where oneDNN and PyTorch may use no others, for a CPU that has no others:

    python benchmarks/update.py --bfloat16 --rules nature quick --batch-sizes 32 \
        --instructions all avx512 avx2 --out benchmarks/results/bfloat16.json

Every contestant is a process of its own, so that none profits from another's settings, and they take turns:
a ratio is that of two neighbours in time, the figure is the median of the ratios.
"""

from __future__ import annotations

import itertools
import multiprocessing
import os
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, Literal, cast
from unittest.mock import patch

import common
import torch
import tyro
from torch import nn
from torch.nn import functional

from fastdqn.algorithm.update import Transitions
from fastdqn.config import Config, LearnerConfig, NetworkConfig, OptimizerConfig, PipelineConfig
from fastdqn.engine.learner import LaunchInputs, Learner

Rules = Literal["nature", "quick"]
Instructions = Literal["all", "avx512", "avx2"]

ACTIONS = 6
CONTESTANTS = ("plain", "eager", "compile")


@dataclass(frozen=True)
class Settings:
    """Our update against a plain one."""

    rules: tuple[Rules, ...] = ("nature",)
    """nature: one stream, max; quick: dueling, double."""
    batch_sizes: tuple[int, ...] = (32, 64, 128, 256, 512)
    """Transitions per update."""
    widths: tuple[float, ...] = (1.0, 0.5)
    """Multiples of the paper's channels and hidden units."""
    rounds: int = 15
    """Turns of each contestant; the first two do not count."""
    samples_per_turn: int = 1024
    """Transitions per turn: a turn is this many over the batch size updates."""
    threads: int = 0
    """Threads of PyTorch; 0 leaves PyTorch's choice."""
    bfloat16: bool = False
    """Ours in bfloat16, too."""
    instructions: tuple[Instructions, ...] = ("all",)
    """The CPU's instructions that oneDNN and PyTorch may use."""
    small: bool = False
    """Seconds instead of minutes: one narrow batch, no compiler. The figures mean nothing."""
    out: Path | None = None
    """File for the figures; standard output without it."""


@dataclass(frozen=True)
class Case:
    """One line of the table."""

    rules: str
    batch_size: int
    width: float
    threads: int
    instructions: Instructions = "all"


_LIMITS: dict[Instructions, dict[str, str]] = {
    "all": {},
    "avx512": {"ONEDNN_MAX_CPU_ISA": "AVX512_CORE"},
    # The compiler's cache does not know by which vectors its code counts: this has one of its own.
    "avx2": {
        "ONEDNN_MAX_CPU_ISA": "AVX2",
        "ATEN_CPU_CAPABILITY": "avx2",
        "TORCHINDUCTOR_CACHE_DIR": str(Path(tempfile.gettempdir()) / "fastdqn-update-avx2"),
    },
}


class PlainNetwork(nn.Module):
    """Nature's network as one would write it down."""

    def __init__(self, width: float, dueling: bool) -> None:
        super().__init__()
        narrow, wide, hidden = (round(width * units) for units in (32, 64, 512))
        self.torso = nn.Sequential(
            nn.Conv2d(4, narrow, 8, 4),
            nn.ReLU(),
            nn.Conv2d(narrow, wide, 4, 2),
            nn.ReLU(),
            nn.Conv2d(wide, wide, 3),
            nn.ReLU(),
            nn.Flatten(),
        )
        flat = 7 * 7 * wide
        self.advantage = nn.Sequential(nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, ACTIONS))
        self.value: nn.Module | None = None
        if dueling:
            self.value = nn.Sequential(nn.Linear(flat, hidden), nn.ReLU(), nn.Linear(hidden, 1))

    def forward(self, obs: torch.Tensor) -> torch.Tensor:
        """Return action values [B, A]."""
        features = self.torso(obs / 255.0)
        advantage = self.advantage(features)
        if self.value is None:
            return cast(torch.Tensor, advantage)
        value = self.value(features)
        return cast(torch.Tensor, value + advantage - advantage.mean(dim=1, keepdim=True))


def plain_step(case: Case, batch: Transitions) -> Callable[[], object]:
    """Return the pinned plain update."""
    quick = case.rules == "quick"
    online, target = PlainNetwork(case.width, quick), PlainNetwork(case.width, quick)
    target.load_state_dict(online.state_dict())
    optimizer = torch.optim.Adam(online.parameters(), lr=1e-4)

    def step() -> None:
        with torch.no_grad():
            values = target(batch.next_obs)
            if quick:
                choice = online(batch.next_obs).argmax(dim=1, keepdim=True)
                next_value = values.gather(1, choice).squeeze(1)
            else:
                next_value = values.max(dim=1).values
            goal = batch.reward + batch.discount * next_value
        prediction = online(batch.obs).gather(1, batch.action.unsqueeze(1)).squeeze(1)
        loss = functional.smooth_l1_loss(prediction, goal)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()

    return step


def our_step(case: Case, batch: Transitions, name: str) -> Callable[[], object]:
    """Return the learner's update under the same rules."""
    quick = case.rules == "quick"
    learner = Learner(
        Config(
            network=NetworkConfig(width=case.width, dueling=quick),
            learner=LearnerConfig(rule="double" if quick else "max", loss="huber"),
            optimizer=OptimizerConfig(name="adam", learning_rate=1e-4, epsilon=1e-8),
            pipeline=PipelineConfig(precision="bf16" if name == "bfloat16" else "fp32"),
        ),
        ACTIONS,
        accelerate="eager" if name == "eager" else "compile",
    )
    # As in a run: all batches lie at one place, where the sampler writes them.
    learner.prepare(LaunchInputs([tuple(vars(batch).values())], Transitions))  # compiles
    counts = itertools.count()
    return lambda: learner.launch(next(counts))


def random_batch(size: int, seed: int) -> Transitions:
    """Return transitions of noise: what an update costs does not depend on what is in it."""
    generator = torch.Generator().manual_seed(seed)
    frames = torch.randint(0, 256, (2, size, 4, 84, 84), dtype=torch.uint8, generator=generator)
    return Transitions(
        obs=frames[0],
        action=torch.randint(0, ACTIONS, (size,), generator=generator),
        reward=torch.randn(size, generator=generator),
        discount=torch.full((size,), 0.99),
        next_obs=frames[1],
        weight=torch.ones(size),
    )


def contestant(name: str, case: Case, pipe: Connection) -> None:
    """Serve a process: receive a number of updates, send the milliseconds of one; end at 0."""
    if case.threads:
        torch.set_num_threads(case.threads)
    start = time.perf_counter()
    batch = random_batch(case.batch_size, seed=0)
    step = plain_step(case, batch) if name == "plain" else our_step(case, batch, name)
    pipe.send({"start_seconds": time.perf_counter() - start, "threads": torch.get_num_threads()})
    while count := pipe.recv():
        begin = time.perf_counter()
        for _ in range(count):
            step()
        pipe.send(1e3 * (time.perf_counter() - begin) / count)


def measure(case: Case, names: tuple[str, ...], rounds: int, updates: int) -> dict[str, Any]:
    """Let the contestants take turns and return a row of the table."""
    spawn = multiprocessing.get_context("spawn")
    pipes: dict[str, Any] = {}
    workers, started = [], {}
    for name in names:
        pipes[name], far = spawn.Pipe()
        worker = spawn.Process(target=contestant, args=(name, case, far), daemon=True)
        with patch.dict(os.environ, _LIMITS[case.instructions]):
            worker.start()
        workers.append(worker)
        started[name] = pipes[name].recv()
    times: dict[str, list[float]] = {name: [] for name in names}
    for turn in range(rounds):
        for name, pipe in pipes.items():
            pipe.send(updates)
            milliseconds = pipe.recv()
            if turn >= min(2, rounds - 1):
                times[name].append(milliseconds)
    for pipe in pipes.values():
        pipe.send(0)
    for worker in workers:
        worker.join()
    return row(case, times, started)


def row(case: Case, times: dict[str, list[float]], started: dict[str, Any]) -> dict[str, Any]:
    """Return medians and ratios of one case."""
    result: dict[str, Any] = {**asdict(case), "threads": started["plain"]["threads"]}
    titles = {"plain": "plain", "eager": "eager", "compile": "compiled", "bfloat16": "bfloat16"}
    for name, values in times.items():
        result[f"{titles[name]}_milliseconds"] = common.spread(values)
        if name != "plain":
            result[f"{titles[name]}_over_plain"] = ratio(values, times["plain"])
            result[f"{titles[name]}_start_seconds"] = started[name]["start_seconds"]
    if "bfloat16" in times:
        result["bfloat16_over_compiled"] = ratio(times["bfloat16"], times["compile"])
    return result


def ratio(mine: list[float], theirs: list[float]) -> float:
    """Return the median of the ratios of neighbours in time."""
    return common.spread([a / b for a, b in zip(mine, theirs, strict=True)])["median"]


def show(result: dict[str, Any]) -> None:
    """Print a row."""
    columns = [
        result["instructions"],
        result["rules"],
        f"batch {result['batch_size']:4d}",
        f"width {result['width']:4g}",
    ]
    for name in ("plain", "eager", "compiled", "bfloat16"):
        if f"{name}_milliseconds" in result:
            over = result.get(f"{name}_over_plain")
            columns.append(f"{name} {result[f'{name}_milliseconds']['median']:7.2f} ms")
            columns.append("" if over is None else f"({over:.2f})")
    print("  ".join(columns), flush=True)


def main(settings: Settings) -> None:
    """Measure every case and write the figures."""
    names: tuple[str, ...] = (*CONTESTANTS, "bfloat16") if settings.bfloat16 else CONTESTANTS
    rounds, samples = settings.rounds, settings.samples_per_turn
    batch_sizes, widths = settings.batch_sizes, settings.widths
    if settings.small:
        names, rounds, samples, batch_sizes, widths = ("plain", "eager"), 2, 8, (8,), (0.125,)
    results = []
    for instructions, rules, width, size in itertools.product(
        settings.instructions, settings.rules, widths, batch_sizes
    ):
        case = Case(rules, size, width, settings.threads, instructions)
        results.append(measure(case, names, rounds, max(1, samples // size)))
        show(results[-1])
    common.write("update", {**asdict(settings), "out": None}, results, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
