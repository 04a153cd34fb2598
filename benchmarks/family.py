r"""Learning curves of the value-based family, in one picture with `quick`'s as it was then.

    python benchmarks/family.py --seeds 1 --out benchmarks/results/pong-family \
        --quick benchmarks/results/pong-quick

Each is `quick` with another algorithm's core (`VARIANTS`): its head, its rule, and how it explores; all else is
`quick`'s as it was for the published curves, the priorities and n = 8 too: half of Nature's width, 100,000 frames
of replay, 5,000 steps of warm-up, 1.9M frames to play. So the curves compare cores, not the papers' agents. Seeds
are named beforehand, and every run is reported. A run ends where `quick` ends: when Pong is solved, or after its
frames. benchmarks/learn.py evaluates each and writes OUT-NAME.json, .csv and .png; this adds OUT.png.
"""

from __future__ import annotations

import csv
import json
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import matplotlib
import tyro

from fastdqn.config import SOLVED_RETURNS

matplotlib.use("Agg")
import matplotlib.pyplot as plt

# Of `quick` when the published curves were made; `quick-rainbow` has them still.
_AS_PUBLISHED = (
    *("--network.width", "0.5", "--replay.capacity", "100k", "--replay.warmup-steps", "5k"),
    *("--learner.average-updates", "none", "--optimizer.learning-rate-fraction", "1"),
    "--no-confirm-stop",
)
_IMPLICIT = ("--network.head", "implicit", "--network.quantiles", "8")  # 64 would take hours on two cores
VARIANTS: dict[str, tuple[str, ...]] = {
    "quick": (),
    "quick-c51": ("--network.head", "categorical", "--learner.rule", "max"),
    "quick-qrdqn": ("--network.head", "quantile", "--network.quantiles", "51", "--learner.rule", "max"),
    "quick-iqn": (*_IMPLICIT, "--learner.rule", "max"),
    # By the softmax policy, too, which the preset `m-iqn` leaves to whoever wants it.
    "quick-m-iqn": (*_IMPLICIT, "--learner.rule", "munchausen", "--exploration.policy", "softmax"),
    "quick-rainbow": (),
}
"""By name, the flags beside `--preset quick`; the last is a preset itself."""


@dataclass(frozen=True)
class Settings:
    """Learning curves of algorithms."""

    seeds: tuple[int, ...]
    """The seeds, named beforehand."""
    out: Path
    """Where the figures go, without an ending."""
    variants: tuple[str, ...] = tuple(VARIANTS)
    """Which."""
    quick: Path | None = None
    """Figures of `quick` that learn.py wrote, without an ending, instead of runs of it."""
    game: str = "Pong-v5"
    """EnvPool's name of the game."""
    runs: Path = Path("runs")
    """Where the run folders go."""
    total_frames: str = "1900k"
    """Frames of a run."""
    whole: bool = False
    """Train for all of them, also where the game is solved before."""
    reuse: bool = False
    """Take runs that are already there instead of training them (to draw again)."""


def train(settings: Settings, name: str, seed: int) -> None:
    """Train one run, in the folder where learn.py looks for it."""
    run = settings.runs / f"{settings.game}-{name}-learn-seed{seed}"
    preset = "quick-rainbow" if name == "quick-rainbow" else "quick"
    words = ["train", settings.game, "--preset", preset, *VARIANTS[name], "--seed", str(seed)]
    words += [] if preset == "quick-rainbow" else _AS_PUBLISHED
    words += ["--total-frames", settings.total_frames, "--run-dir", str(run), "--progress", "plain"]
    words += ["--stop-at-return", "none"] if settings.whole else []
    subprocess.run([str(Path(sys.executable).with_name("fastdqn")), *words], check=True)


def report(settings: Settings, name: str) -> None:
    """Have learn.py evaluate a variant's runs and write its figures."""
    script = Path(__file__).with_name("learn.py")
    words = ["--game", settings.game, "--preset", name, "--runs", str(settings.runs), "--reuse"]
    words += ["--out", str(of(settings, name)), "--seeds", *map(str, settings.seeds)]
    subprocess.run([sys.executable, str(script), *words], check=True)


def of(settings: Settings, name: str) -> Path:
    """Return where a variant's figures are, without an ending."""
    if name == "quick" and settings.quick:
        return settings.quick
    return settings.out.with_name(f"{settings.out.name}-{name}")


def curves(path: Path) -> Iterator[list[tuple[float, float]]]:
    """Return for each seed the million frames and the mean return of the last 20 games, from learn.py's table."""
    with path.open(newline="") as file:
        rows: list[dict[str, str]] = list(csv.DictReader(file))
    for seed in dict.fromkeys(row["seed"] for row in rows):
        own = [row for row in rows if row["seed"] == seed and row["return_mean_20"]]
        yield [(int(row["frames"]) / 1e6, float(row["return_mean_20"])) for row in own]


def draw(settings: Settings) -> None:
    """Draw all curves; a variant's seeds have one colour, and the legend has what each came to."""
    goal = SOLVED_RETURNS.get(settings.game)
    figure, axes = plt.subplots(figsize=(9, 5.6), layout="constrained")
    for number, name in enumerate(settings.variants):
        figures = json.loads(of(settings, name).with_suffix(".json").read_text())
        lines = list(curves(of(settings, name).with_suffix(".csv")))
        scores = "; ".join(told(goal, *one) for one in zip(figures["results"], lines, strict=True))
        for index, curve in enumerate(lines):
            label = f"{name}: {scores}" if index == 0 else None
            axes.plot(*zip(*curve, strict=True), color=f"C{number}", label=label)
    if goal is not None:
        axes.axhline(goal, color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("million frames")
    axes.set_ylabel("return of a game, mean of the last 20")
    evaluated = f"{figures['settings']['episodes']} games, epsilon {figures['settings']['epsilons'][0]:g}"
    axes.set_title(f"{settings.game}: cores of algorithms in quick; last number: {evaluated}", fontsize=10)
    axes.grid(alpha=0.3)
    figure.legend(frameon=False, fontsize=8, loc="outside lower center", ncols=2)  # curves are everywhere
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(settings.out.with_suffix(".png"), dpi=110)


def told(goal: float | None, result: dict[str, Any], curve: list[tuple[float, float]]) -> str:
    """Return how a run ended: when the game was solved, if it can be, and its last checkpoint's mean return."""
    if goal is None:
        return f"{result['evaluations'][0]['mean']:.1f}"
    solved = next((frames for frames, mean in curve if mean >= goal), None)
    when = "not solved" if solved is None else f"solved after {solved:.2f}M"
    return f"{when}, {result['evaluations'][0]['mean']:.1f}"


def main(settings: Settings) -> None:
    """Train, evaluate, write and draw."""
    for name in settings.variants:
        if name == "quick" and settings.quick:
            continue
        for seed in settings.seeds:
            if not settings.reuse:
                train(settings, name, seed)
        report(settings, name)
    draw(settings)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
