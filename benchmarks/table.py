"""Make the README's table from the JSON files in benchmarks/results.

python benchmarks/table.py          # writes it between the README's two table marks
python benchmarks/table.py --check  # exit code 1 if the README says something else
"""

from __future__ import annotations

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from performance_page import at_goal

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
START, END = "<!-- table: made by benchmarks/table.py -->", "<!-- end of table -->"


_RECORD = "pong-record-191"
"""The standing record, in benchmarks/results."""


def load(name: str) -> dict[str, Any]:
    """Read one result file."""
    data: dict[str, Any] = json.loads((RESULTS / f"{name}.json").read_text())
    return data


def pong() -> tuple[str, str, str]:
    """Return the row of the standing record: the runs of seeds that were named beforehand."""
    record, curves = load(_RECORD), RESULTS / f"{_RECORD}.csv"
    settings, results = record["settings"], record["results"]
    reached = at_goal(curves, "minutes")
    minutes = [reached[result["seed"]] for result in results]
    known = sorted(value for value in minutes if value is not None)
    middle = statistics.median(value or float("inf") for value in minutes)
    means = [result["evaluations"][0]["mean"] for result in results]
    there = "" if len(known) == len(minutes) else f", {len(known)} of {len(minutes)} seeds"
    seeds = " ".join(str(result["seed"]) for result in results)
    whole = " --whole" if settings["whole"] else ""
    ends = sorted(result["minutes"] for result in results)
    then = (
        f"after {results[0]['frames'] / 1e6:.1f}M frames"
        if whole
        else f"at the end ({ends[0]:.1f} to {ends[-1]:.1f})"
    )
    return (
        f"Pong from nothing, `quick`, seeds {seeds}: minutes until the last 20 games have a mean of 18",
        f"{middle:.1f} ({known[0]:.1f} to {known[-1]:.1f}{there}) on {settings['cores_used']} cores; {then} "
        f"{min(means):.1f} to {max(means):.1f} in {settings['episodes']} games, ε {settings['epsilons'][0]:g}",
        f"`python benchmarks/learn.py --seeds {seeds} --episodes {settings['episodes']} --epsilons "
        f"{settings['epsilons'][0]:g}{whole} --out benchmarks/results/{_RECORD}`",
    )


def rows() -> list[tuple[str, str, str]]:
    """Return what was measured, the figure, and the command."""
    table = [pong()]
    for preset in ("quick", "nature"):
        train = load(f"train-{preset}")["results"]
        table.append(
            (
                f"Training, `{preset}` (width {train['width']:g}, batch {train['batch_size']}, one update per "
                f"{train['frames_per_update']} frames)",
                f"{train['frames_per_second']:,.0f} frames/s, {train['updates_per_second']:.0f} updates/s",
                f"`python benchmarks/train.py --preset {preset}`",
            )
        )
    for row in load("update")["results"]:
        if row["batch_size"] == 32:
            table.append(
                (
                    f"Update of 32, width {row['width']:g}: time over a plain PyTorch step's",
                    f"{row['compiled_over_plain']:.2f} compiled, {row['eager_over_plain']:.2f} eager",
                    "`python benchmarks/update.py`",
                )
            )
    env = load("env")["results"]
    table.append(
        (
            "Loop with random actions, every frame stored: steps/s over raw EnvPool's",
            f"{env['ours_over_raw']['median']:.2f}",
            "`python benchmarks/env.py`",
        )
    )
    games = [row for row in load("storage")["results"] if row["play"] == "random"]
    sizes = sorted(row["bytes_per_frame"] / 1e3 for row in games)
    speed = statistics.median(row["sample_32"]["over_raw"]["median"] for row in games)
    table.append(
        (
            f"A million frames of replay, storage `delta`, {len(games)} games at random (raw: 7.1 GB)",
            f"{sizes[0]:.2f} to {sizes[-1]:.2f} GB, mean {statistics.mean(sizes):.2f}; "
            f"batches of 32 at {speed:.2f} of raw's speed",
            "`python benchmarks/storage.py`",
        )
    )
    return table


def text() -> str:
    """Return the table in Markdown."""
    machine = load("train-quick")["machine"]
    lines = ["| measured | figure | command |", "|---|---|---|"]
    lines += [f"| {' | '.join(row)} |" for row in rows()]
    machine_line = (
        f"Two cores of an {machine['cpu']} in a virtual machine, not the same one for all rows, no GPU."
    )
    how = "Pong is one run a seed (their median, the least, the most), training a window of a minute; the rest are"
    lines += ["", f"{machine_line} {how} medians, or means where it says so."]
    return "\n".join(lines)


def main() -> None:
    """Write the table into the README, or compare."""
    readme = ROOT / "README.md"
    old = readme.read_text()
    before, _, rest = old.partition(START)
    _, _, after = rest.partition(END)
    new = f"{before}{START}\n{text()}\n{END}{after}"
    if "--check" in sys.argv:
        sys.exit(
            0 if new == old else "README.md: the table is not what benchmarks/results says; run table.py"
        )
    readme.write_text(new)


if __name__ == "__main__":
    main()
