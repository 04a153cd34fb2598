"""How fast is real training? Frames and updates per second, and where the time goes.

    python benchmarks/train.py --game Pong-v5 --preset quick --out benchmarks/results/train-quick.json
    python benchmarks/train.py --busy-cores 1 --out benchmarks/results/train-quick-busy.json

Warm-up is cut short and the window opens once learning runs, so the figures are those of the long run.
Batch and update ratio are printed beside them: frames per second mean nothing without them.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, Literal

import common
import torch
import tyro

from fastdqn.openmp import OtherPrograms
from fastdqn.presets import PRESETS
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.machine import with_precision, with_threads
from fastdqn.runs.metrics import PHASES, Snapshot
from fastdqn.runs.trainer import train


@dataclass(frozen=True)
class Settings:
    """Speed of real training."""

    game: str = "Pong-v5"
    """EnvPool's name of the game."""
    preset: str = "quick"
    """Preset to train with."""
    accelerate: Literal["eager", "compile"] = "compile"
    """How the learner runs."""
    window_seconds: float = 60.0
    """Length of the measured window, from `settle_seconds` after the first update on."""
    settle_seconds: float = 5.0
    """Time that the loop gets to settle."""
    busy_cores: int = 0
    """Other programs that compute without end meanwhile, each as much as one core does."""
    out: Path | None = None
    """File for the figures; standard output without it."""


class Window:
    """Remembers the state at the window's first report and at its last, and says when it is over."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._learning_since: float | None = None
        self.marks: list[tuple[float, Snapshot]] = []

    def report(self, snapshot: Snapshot) -> None:
        """Take the snapshots that the trainer gives a few times a second."""
        now = time.perf_counter()
        if snapshot.updates and self._learning_since is None:
            self._learning_since = now
        settled = (
            self._learning_since is not None and now - self._learning_since > self._settings.settle_seconds
        )
        if settled:
            self.marks.append((now, snapshot))

    def over(self) -> bool:
        """Whether the window is full."""
        return bool(self.marks) and self.marks[-1][0] - self.marks[0][0] >= self._settings.window_seconds


def figures(window: Window) -> dict[str, Any]:
    """Return what the window's ends say."""
    (start, first), (end, last) = window.marks[0], window.marks[-1]
    seconds = end - start
    middle = [snapshot for _, snapshot in window.marks]
    share = {
        phase: sum(snapshot.phase_share.get(phase, 0.0) for snapshot in middle) / len(middle)
        for phase in PHASES
    }
    return {
        "seconds": seconds,
        "frames_per_second": (last.frames - first.frames) / seconds,
        "updates_per_second": (last.updates - first.updates) / seconds,
        "phase_share": share,
    }


@contextmanager
def busy(cores: int) -> Iterator[None]:
    """Have as many other programs compute while the block runs."""
    programs = [subprocess.Popen([sys.executable, "-c", "while True: pass"]) for _ in range(cores)]
    try:
        yield
    finally:
        for program in programs:
            program.kill()
            program.wait()


def main(settings: Settings) -> None:
    """Train for a minute and write what was seen."""
    config = PRESETS[settings.preset].config
    config = replace(
        config,
        game=settings.game,
        total_frames=2**40,
        replay=replace(config.replay, warmup_steps=2_000),
        pipeline=replace(config.pipeline, accelerate=settings.accelerate),
        exploration=replace(config.exploration, decay_frames=8_000),  # acting costs what it does later on
    )
    window = Window(settings)
    with tempfile.TemporaryDirectory() as folder, busy(settings.busy_cores):
        config, told = with_threads(with_precision(config), OtherPrograms())
        if told:
            print(told)
        run = RunFolder.create(Path(folder) / "run", config)
        train(run, report=window.report, stop_requested=window.over)
    results = {
        **figures(window),
        "batch_size": config.learner.batch_size,
        "steps_per_update": config.learner.steps_per_update,
        "frames_per_update": config.learner.steps_per_update * config.env.frame_skip,
        "width": config.network.width,
        "num_envs": config.env.num_envs,
        "precision": config.pipeline.precision,
        "torch_threads": config.pipeline.threads or torch.get_num_threads(),
    }
    common.write("train", {**asdict(settings), "out": None}, results, settings.out)
    print(
        f"{settings.game}, {settings.preset}, {settings.accelerate}: "
        f"{results['frames_per_second']:.0f} frames/s, {results['updates_per_second']:.1f} updates/s "
        f"(batch {results['batch_size']}, one update per {results['frames_per_update']} frames)"
    )
    print("  " + "  ".join(f"{phase} {share:.0%}" for phase, share in results["phase_share"].items()))


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
