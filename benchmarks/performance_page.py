"""Make tables and pictures of docs/performance.md, docs/algorithms.md and results/README.md from the JSON files.

python benchmarks/performance_page.py          # writes the tables between their marks, and the pictures
python benchmarks/performance_page.py --check  # exit code 1 if a page says something else
"""

from __future__ import annotations

import csv
import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
RESULTS = ROOT / "benchmarks" / "results"
DOCS = ROOT / "docs"
RECORDED_GAME, RECORDED_PRESET, GOAL = "Pong-v5", "quick", 18.0
INSTRUCTIONS = {
    "all": "AVX-512 with bfloat16",
    "avx512": "AVX-512",
    "avx2": "AVX2",
}
PRECISIONS = {"float32": ("pong-quick", "pong-fp32"), "bfloat16": ("pong-bf16",)}
PEERS = {
    "fastdqn": "fastdqn",
    "fastdqn-bf16": "fastdqn, `--pipeline.precision bf16`",
    "sb3": "Stable-Baselines3, 8 games",
    "sb3-one-game": "Stable-Baselines3, 1 game",
    "cleanrl": "CleanRL `dqn_atari.py`, 1 game",
    "tianshou": "Tianshou with EnvPool, 8 games",
}


def results_of(name: str) -> Any:
    """Return the results of a committed JSON file."""
    return json.loads((RESULTS / f"{name}.json").read_text())["results"]


def peers() -> Iterator[str]:
    """Rows of training loops."""
    yield "| | steps/s | fastdqn's over it | first update after | first run on a machine |"
    yield "|---|---|---|---|---|"
    for name, row in results_of("training-peers").items():
        speed, ratio = row["steps_per_second"], row["fastdqn_over_this"]["median"]
        first = row.get("first_update_seconds_of_first_run")
        yield (
            f"| {PEERS[name]} | {speed['median']:.0f} ({speed['min']:.0f} to {speed['max']:.0f}) | {ratio:.2f} | "
            f"{row['first_update_seconds']:.1f} s | {'the same' if first is None else f'{first:.1f} s'} |"
        )


def scaling() -> Iterator[str]:
    """Rows of speeds by games and threads, a column for each capacity."""
    rows = results_of("scaling")
    capacities = sorted({row["capacity"] for row in rows})
    titles = " | ".join(f"{capacity:,} frames" for capacity in capacities)
    yield f"| | games | threads | {titles} | largest / smallest |"
    yield f"|---|---|---|{'---|' * (len(capacities) + 1)}"
    by_cell = {(row["games"], row["threads"], row["capacity"]): row for row in rows}
    for kind in ("training", "playing"):
        for games, threads in sorted({key[:2] for key in by_cell}):
            speeds = [
                by_cell[games, threads, capacity][f"{kind}_frames_per_second"]["median"]
                for capacity in capacities
            ]
            cells = " | ".join(f"{speed:,.0f}" for speed in speeds)
            yield f"| {kind} | {games} | {threads} | {cells} | {speeds[-1] / speeds[0]:.2f} |"


def bfloat16() -> Iterator[str]:
    """Rows of updates in either precision, by the instructions that the CPU has or may use."""
    yield "| instructions | rules | width | float32 | bfloat16 | bfloat16 over float32 |"
    yield "|---|---|---|---|---|---|"
    for row in results_of("bfloat16"):
        yield (
            f"| {INSTRUCTIONS[row['instructions']]} | `{row['rules']}` | {row['width']:g} | "
            f"{row['compiled_milliseconds']['median']:.1f} ms | {row['bfloat16_milliseconds']['median']:.1f} ms | "
            f"**{row['bfloat16_over_compiled']:.2f}** |"
        )


def precisions() -> Iterator[str]:
    """Rows of seeds that were trained in either precision."""
    yield "| seed | | frames to 18 | evaluation, epsilon 0.01 |"
    yield "|---|---|---|---|"
    medians = {}
    for name, files in PRECISIONS.items():
        frames = {seed: n for file in files for seed, n in at_goal(RESULTS / f"{file}.csv", "frames").items()}
        for result in (result for file in files for result in results_of(file)):
            reached, returns = frames[result["seed"]], result["evaluations"][0]["returns"]
            yield (
                f"| {result['seed']} | {name} | {'never' if reached is None else f'{reached / 1e6:.2f}M'} | "
                f"{statistics.mean(returns):.1f} "
                f"({min(returns):.0f} to {max(returns):.0f}, {len(returns)} games) |"
            )
        medians[name] = statistics.median(count or float("inf") for count in frames.values())
    told = ", ".join(f"{frames / 1e6:.2f}M in {name}" for name, frames in medians.items())
    yield from ("", f"Medians: 18 after {told}.", "", "![The curves](pong-bf16.svg)")


def records() -> Iterator[str]:
    """Rows of runs to the goal, by every seed that was named."""
    yield (
        "| file | date | commit | machine | precision | seeds | minutes to 18, by seed | median "
        "| minutes in all | evaluations |"
    )
    yield "|---|---|---|---|---|---|---|---|---|---|"
    for path in sorted(RESULTS.glob("*.json")):
        data = json.loads(path.read_text())
        settings = data.get("settings", {})
        if data.get("benchmark") != "learn" or settings["game"] != RECORDED_GAME:
            continue
        if settings["preset"] != RECORDED_PRESET:  # family.py's runs, which may have shared the machine
            continue
        if settings.get("precision"):  # one of two that are compared
            continue
        minutes = at_goal(path.with_suffix(".csv"), "minutes")
        seeds = [result["seed"] for result in data["results"]]
        reached = [minutes[seed] for seed in seeds if minutes[seed] is not None]
        # A run that never came there counts as longer than all that did.
        middle = statistics.median([minutes[seed] or float("inf") for seed in seeds])
        evaluations = ", ".join(f"{result['evaluations'][0]['mean']:.1f}" for result in data["results"])
        shown = ", ".join("never" if minutes[seed] is None else f"{minutes[seed]:.1f}" for seed in seeds)
        ends = ", ".join(f"{result['minutes']:.1f}" for result in data["results"])
        first = data["results"][0]["evaluations"][0]
        yield (
            f"| `{path.name}` | {data['started'][:10]} | {data['results'][0]['git_commit'][:7]} | "
            f"{data['machine']['cpu']}, {data['settings']['cores_used']} cores | "
            f"{data['results'][0].get('precision', 'fp32')} | "
            f"{', '.join(map(str, seeds))} | {shown} | {middle:.1f} ({len(reached)} of {len(seeds)}) | {ends} | "
            f"{evaluations} ({first['episodes']} games, epsilon {first['epsilon']:g}) |"
        )


def updates() -> Iterator[str]:
    """Rows of presets by the time that an update takes."""
    yield "| preset | batch | an update, in updates of `nature` (32) | a transition |"
    yield "|---|---|---|---|"
    for row in sorted(results_of("presets"), key=lambda row: row["over_nature"]["median"]):
        ratio, batch = row["over_nature"], row["batch_size"]
        yield (
            f"| `{row['preset']}` | {batch} | {ratio['median']:.2f} ({ratio['min']:.2f} to {ratio['max']:.2f}) | "
            f"{ratio['median'] * 32 / batch:.2f} |"
        )


def at_goal(curves: Path, column: str) -> dict[int, float | None]:
    """Return for each seed a column of the first row whose mean return is the goal's."""
    found: dict[int, float | None] = {}
    with curves.open() as file:
        for row in csv.DictReader(file):
            seed, mean = int(row["seed"]), row["return_mean_20"]
            found.setdefault(seed, None)
            if found[seed] is None and mean and float(mean) >= GOAL:
                found[seed] = float(row[column])
    return found


COMMANDS = {
    "training-peers": "training_peers.py --cleanrl CHECKOUT",
    "scaling": "scaling.py",
    "presets": "presets.py",
    "bfloat16": "update.py --bfloat16 --rules nature quick --batch-sizes 32 --instructions all avx512 avx2",
    "pong-bf16": "learn.py --seeds 31 32 33 34 35 --episodes 20 --epsilons 0.01 --precision bf16",
}
PICTURES = ("training-peers", "scaling")
"""Of docs/; that of the precisions lies beside its JSON files."""


def where_measured(name: str, rows: Callable[[], Iterator[str]]) -> Callable[[], Iterator[str]]:
    """Return a table with its picture, if there is one; without its JSON file, a line that says so."""

    def table() -> Iterator[str]:
        if (RESULTS / f"{name}.json").exists():
            yield from rows()
            if name in PICTURES:
                yield from ("", f"![The same as a picture]({name}.svg)")
        else:
            yield f"Not measured yet: `python benchmarks/{COMMANDS[name]} --out benchmarks/results/{name}.json`."

    return table


TABLES: dict[Path, dict[str, Callable[[], Iterator[str]]]] = {
    DOCS / "performance.md": {
        "peers": where_measured("training-peers", peers),
        "scaling": where_measured("scaling", scaling),
        "bfloat16": where_measured("bfloat16", bfloat16),
    },
    DOCS / "algorithms.md": {"presets": where_measured("presets", updates)},
    RESULTS / "README.md": {"records": records, "precisions": where_measured("pong-bf16", precisions)},
}


def filled(text: str, tables: dict[str, Callable[[], Iterator[str]]]) -> str:
    """Return a page with its tables as the JSON files have them."""
    for name, rows in tables.items():
        start, end = f"<!-- {name}: made by benchmarks/performance_page.py -->", f"<!-- end of {name} -->"
        before, mark, rest = text.partition(start)
        if not mark or end not in rest:
            raise SystemExit(f"the marks of the table {name} are not in the page")
        text = "\n".join([before + start, *rows(), end + rest.partition(end)[2]])
    return text


def draw_peers(pyplot: Any) -> None:
    """Draw steps per second and the time to the first update of each loop."""
    rows = results_of("training-peers")
    titles = [PEERS[name].replace("`", "") for name in reversed(rows)]
    colors = ["tab:orange" if name.startswith("fastdqn") else "tab:gray" for name in reversed(rows)]
    panels = (
        ("steps per second", "{:.0f}", lambda row: row["steps_per_second"]["median"]),
        ("seconds to the first update", "{:.1f}", lambda row: row["first_update_seconds"]),
    )
    figure, axes = pyplot.subplots(1, 2, sharey=True, figsize=(9, 2.6), layout="constrained")
    for axis, (title, form, value) in zip(axes, panels, strict=True):
        values = [value(row) for row in reversed(rows.values())]
        bars = axis.barh(titles, values, color=colors)
        axis.bar_label(bars, [form.format(number) for number in values], padding=2)
        axis.set_title(title)
        axis.margins(x=0.15)
        axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(DOCS / "training-peers.svg", metadata={"Date": None})


def draw_scaling(pyplot: Any) -> None:
    """Draw frames per second by games, a line for each capacity and number of threads."""
    rows = results_of("scaling")
    capacities = sorted({row["capacity"] for row in rows})
    colors = dict(zip(capacities, ("tab:blue", "tab:orange", "tab:green"), strict=False))
    figure, axes = pyplot.subplots(1, 2, figsize=(9, 3.4), layout="constrained")
    for axis, kind in zip(axes, ("training", "playing"), strict=True):
        for capacity in capacities:
            for threads, line in ((1, "--"), (2, "-")):
                points = sorted(
                    (row["games"], row[f"{kind}_frames_per_second"]["median"])
                    for row in rows
                    if (row["capacity"], row["threads"]) == (capacity, threads)
                )
                label = f"{capacity:,} frames, {threads} thread{'s' * (threads > 1)}"
                axis.plot(*zip(*points, strict=True), line, marker="o", color=colors[capacity], label=label)
        axis.set_xscale("log", base=2)
        axis.set_xticks(*2 * [sorted({row["games"] for row in rows})])
        axis.set_ylim(bottom=0)
        axis.set_xlabel("games side by side")
        axis.set_title(f"{kind}, frames per second")
        axis.spines[["top", "right"]].set_visible(False)
    axes[0].legend(frameon=False, fontsize=7)
    figure.savefig(DOCS / "scaling.svg", metadata={"Date": None})


def draw_precisions(pyplot: Any) -> None:
    """Draw the mean of the last 20 games over frames, a line for each seed."""
    figure, axis = pyplot.subplots(figsize=(8, 3.6), layout="constrained")
    for (name, files), color in zip(PRECISIONS.items(), ("tab:gray", "tab:orange"), strict=True):
        curves: dict[str, list[tuple[float, float]]] = {}
        for file in files:
            with (RESULTS / f"{file}.csv").open() as lines:
                for row in csv.DictReader(lines):
                    if row["return_mean_20"]:
                        point = (int(row["frames"]) / 1e6, float(row["return_mean_20"]))
                        curves.setdefault(row["seed"], []).append(point)
        for number, (seed, points) in enumerate(curves.items()):
            axis.plot(*zip(*points, strict=True), color=color, label=None if number else name)
            axis.annotate(seed, points[-1], xytext=(3, -2), textcoords="offset points", color=color)
    axis.axhline(GOAL, color="black", linewidth=0.6, linestyle=":")
    axis.set_xlabel("million frames")
    axis.set_title("Pong, quick: mean return of the last 20 games, by seed")
    axis.legend(frameon=False)
    axis.spines[["top", "right"]].set_visible(False)
    figure.savefig(RESULTS / "pong-bf16.svg", metadata={"Date": None})


def main() -> None:
    """Write tables and pictures, or with --check compare the tables."""
    for page, tables in TABLES.items():
        text = page.read_text()
        new = filled(text, tables)
        if "--check" in sys.argv[1:]:
            if new != text:
                sys.exit(f"{page.relative_to(ROOT)} does not have the figures of benchmarks/results")
        else:
            page.write_text(new)
    if "--check" not in sys.argv[1:]:
        import matplotlib

        matplotlib.use("svg")
        from matplotlib import pyplot

        with pyplot.rc_context({"svg.hashsalt": "performance", "svg.fonttype": "none", "font.size": 8}):
            for name, draw in zip(PICTURES, (draw_peers, draw_scaling), strict=True):
                if (RESULTS / f"{name}.json").exists():
                    draw(pyplot)
            if (RESULTS / "pong-bf16.json").exists():
                draw_precisions(pyplot)


if __name__ == "__main__":
    main()
