"""Does it learn, and how long does it take? Train some seeds, evaluate each, draw the curves.

    python benchmarks/learn.py --seeds 1 2 --whole --out benchmarks/results/pong-quick
    python benchmarks/learn.py --seeds 51 52 53 54 55 --episodes 20 --out benchmarks/results/pong-record
    python benchmarks/performance_page.py    # the table of records in benchmarks/results/README.md

Every seed that is named is trained and reported, whatever comes out. Writes OUT.json (evaluations, times, and
the minutes to the return at which the game is taken as solved), OUT.csv (the curves) and OUT.png. Seeds run one
after another, so that each has the machine for itself. A run ends where its preset ends it: `quick` when Pong
is solved.
"""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import common
import matplotlib
import tyro

from fastdqn.config import SOLVED_RETURNS, Precision

matplotlib.use("Agg")
import matplotlib.pyplot as plt


@dataclass(frozen=True)
class Settings:
    """Learning curves of named seeds."""

    seeds: tuple[int, ...]
    """The seeds, named beforehand."""
    out: Path
    """Where the figures go, without an ending."""
    game: str = "Pong-v5"
    """EnvPool's name of the game."""
    preset: str = "quick"
    """Preset to train with."""
    episodes: int = 10
    """Games per evaluation."""
    epsilons: tuple[float, ...] = (0.01, 0.05)
    """One evaluation of the last checkpoint for each."""
    runs: Path = Path("runs")
    """Where the run folders go."""
    precision: Precision | None = None
    """In place of the preset's."""
    whole: bool = False
    """Train for the preset's whole length, also where a game is solved before."""
    reuse: bool = False
    """Take runs that are already there instead of training them (to draw again)."""


def fastdqn(*words: str) -> Any:
    """Run the command line and return the JSON that it prints."""
    command = [str(Path(sys.executable).with_name("fastdqn")), *words]
    done = subprocess.run(command, stdout=subprocess.PIPE, check=True, text=True)
    return json.loads(done.stdout)


def learn(settings: Settings, seed: int) -> dict[str, Any]:
    """Train one seed and evaluate its last checkpoint."""
    kind = settings.preset + (f"-{settings.precision}" if settings.precision else "")
    run = settings.runs / f"{settings.game}-{kind}-learn-seed{seed}"
    if not settings.reuse:
        words = ["--preset", settings.preset, "--seed", str(seed), "--run-dir", str(run)]
        words += ["--stop-at-return", "none"] if settings.whole else []
        words += ["--pipeline.precision", settings.precision] if settings.precision else []
        fastdqn("train", settings.game, *words, "--progress", "plain")
    evaluations = [
        fastdqn(
            "evaluate", str(run), "--episodes", str(settings.episodes), "--epsilon", str(epsilon), "--json"
        )
        for epsilon in settings.epsilons
    ]
    for evaluation in evaluations:
        del evaluation["weights"]  # a path of this machine
    summary = json.loads((run / "summary.json").read_text())
    pipeline = json.loads((run / "config.json").read_text())["pipeline"]
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    curve = [
        {
            "frames": row["frames"],
            "minutes": row["timing"]["seconds"] / 60,
            "updates": row["updates"],
            "return_mean_20": row["return_mean"],
            "loss": row["loss"],
            "q_mean": row["q_mean"],
            "epsilon": row["epsilon"],
        }
        for row in rows
    ]
    solved = first_with(SOLVED_RETURNS.get(settings.game), curve)
    return {
        "seed": seed,
        "git_commit": json.loads((run / "meta.json").read_text())["git_commit"],
        "threads": pipeline.get("threads", 0),
        "precision": pipeline.get("precision", "fp32"),
        "minutes": summary["seconds"] / 60,
        "minutes_to_solved": solved and solved["minutes"],
        "frames_to_solved": solved and solved["frames"],
        "frames": summary["frames"],
        "updates": summary["updates"],
        "mean_return_20_in_training": summary["mean_return_20"],
        "evaluations": evaluations,
        "curve": curve,
    }


def first_with(goal: float | None, curve: list[dict[str, Any]]) -> dict[str, Any] | None:
    """Return the first row whose mean return is the goal; `None` where there is no such row, or no goal."""
    means = ((row, row["return_mean_20"]) for row in curve)
    return next((row for row, mean in means if None not in (goal, mean) and mean >= goal), None)


def write_csv(results: list[dict[str, Any]], path: Path) -> None:
    """Write all curves as one table, a row per seed and log row."""
    rows = [{"seed": result["seed"], **row} for result in results for row in result["curve"]]
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, rows[0].keys(), lineterminator="\n")
        writer.writeheader()
        writer.writerows(rows)


def draw(settings: Settings, results: list[dict[str, Any]], path: Path) -> None:
    """Draw mean return of the last 20 games over time, and each seed's evaluation at its end."""
    figure, axes = plt.subplots(figsize=(8, 4.5), layout="constrained")
    for result in results:
        curve = [row for row in result["curve"] if row["return_mean_20"] is not None]
        minutes = [row["minutes"] for row in curve]
        (line,) = axes.plot(minutes, [row["return_mean_20"] for row in curve], label=f"seed {result['seed']}")
        evaluation = result["evaluations"][0]
        axes.plot(result["minutes"], evaluation["mean"], "o", color=line.get_color())
        axes.annotate(
            f"{evaluation['mean']:.1f}",
            (result["minutes"], evaluation["mean"]),
            textcoords="offset points",
            xytext=(6, -3),
            color=line.get_color(),
        )
    if settings.game in SOLVED_RETURNS:
        axes.axhline(SOLVED_RETURNS[settings.game], color="grey", linewidth=0.8, linestyle=":")
    axes.set_xlabel("minutes of training on this machine")
    axes.set_ylabel("return of a game, mean of the last 20")
    axes.set_title(
        f"{settings.game}, preset {settings.preset}; dots: evaluation, {settings.episodes} games, "
        f"epsilon {settings.epsilons[0]:g}",
        fontsize=10,
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    axes.spines[["top", "right"]].set_visible(False)
    figure.savefig(path, dpi=110)


def main(settings: Settings) -> None:
    """Train, evaluate, write and draw."""
    results = [learn(settings, seed) for seed in settings.seeds]
    settings.out.parent.mkdir(parents=True, exist_ok=True)
    short = [{name: value for name, value in result.items() if name != "curve"} for result in results]
    cores = len(os.sched_getaffinity(0))
    kept = {
        **asdict(settings),
        "out": settings.out.name,
        "runs": None,
        "cores_used": cores,
        "solved_return": SOLVED_RETURNS.get(settings.game),
    }
    # First of the three: the others would change the working tree whose commit it names.
    common.write("learn", kept, short, settings.out.with_suffix(".json"))
    write_csv(results, settings.out.with_suffix(".csv"))
    draw(settings, results, settings.out.with_suffix(".png"))
    for result in results:
        scores = ", ".join(f"{e['mean']:.1f} at epsilon {e['epsilon']:g}" for e in result["evaluations"])
        solved = result["minutes_to_solved"]
        print(
            f"seed {result['seed']}: {result['minutes']:.1f} minutes, {result['updates']} updates, solved "
            f"{'never' if solved is None else f'after {solved:.1f} minutes'}; {scores}"
        )


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
