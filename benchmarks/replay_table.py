"""Make the tables and the plots of docs/replay.md from the JSON files in results/.

python benchmarks/replay_table.py          # writes the tables between their marks, and two plots
python benchmarks/replay_table.py --check  # exit code 1 if the page says something else
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "replay.md"
PLOT = ROOT / "docs" / "peers.svg"
STORAGE_PLOT = ROOT / "docs" / "storage.svg"
SETTINGS = ("lives", "games", "truncation")


def results_of(name: str) -> dict[str, Any]:
    """Return the results of a committed JSON file."""
    data: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return data["results"]


def target_of(name: str) -> str:
    """What was aimed at; an empty text where nothing was."""
    if name.endswith("delta"):
        return ""
    if name.startswith("bytes"):
        return "at most 7,090"
    if name.startswith("add"):
        return "200,000 rows/s or 0.25"
    if name.startswith("sample + update 32"):
        return "0.75"
    return "" if "update" in name else "0.9"


def limits() -> Iterator[str]:
    """Rows of our buffer beside its floor."""
    yield "| | calls/s | share of the floor | target |"
    yield "|---|---|---|---|"
    for name, result in results_of("replay").items():
        if isinstance(result, float):
            yield f"| {name} | {result:,.0f} | | {target_of(name)} |"
        else:
            rate, share = result["calls_per_second"]["median"], result["share_of_floor"]
            yield f"| {name} | {rate:,.0f} | {share:.2f} | {target_of(name)} |"


def rate_cell(result: dict[str, Any] | None, rows_a_call: int = 1) -> str:
    """Calls or rows a second, and the share of the floor."""
    if result is None:
        return "-"
    return f"{rows_a_call * result['calls_per_second']['median']:,.0f} ({result['share_of_floor']:.2f})"


def costs() -> Iterator[str]:
    """Rows of what the libraries take: memory and time."""
    results = results_of("peers")
    memcpy = results.pop("memcpy")
    yield "| | bytes a transition | batches of 32/s | batches of 512/s | 32 with priorities/s | rows added/s |"
    yield "|---|---|---|---|---|---|"
    for result in results.values():
        cells = [f"{result['bytes_per_transition']:,.0f}"]
        cells += [rate_cell(result[key]) for key in ("sample_32", "sample_512", "sample_and_update_32")]
        yield f"| {result['title']} | " + " | ".join(cells) + f" | {rate_cell(result['add_8'], 8)} |"
    plain = {
        key: statistics.median(r[key]["floor_calls_per_second"]["median"] for r in results.values())
        for key in ("sample_32", "sample_512", "add_8")
    }
    sampling = f"{plain['sample_32']:,.0f} (1.00) | {plain['sample_512']:,.0f} (1.00)"
    yield f"| memcpy, two runs of four | | {sampling} | | {8 * plain['add_8']:,.0f} (1.00) |"
    five = " | ".join(rate_cell(memcpy[key]) for key in ("sample_32", "sample_512"))
    yield f"| {memcpy['title']} | | {five} | | |"


def percent(share: float) -> str:
    """A share for the table; a plain 0 only where there was not one."""
    return "0" if share == 0 else f"{100 * share:.2g} %"


def wrongs() -> Iterator[str]:
    """Rows of what the libraries give back wrong."""
    yield "| wrong rows: lives / games / step limit | observations | next observations | ends |"
    yield "|---|---|---|---|"
    for name, result in results_of("peers").items():
        if name == "memcpy":
            continue
        cells = [
            " / ".join(percent(result["wrong"][setting][what]) for setting in SETTINGS)
            for what in ("obs", "next_obs", "ended")
        ]
        yield f"| {result['title']} | " + " | ".join(cells) + " |"


def snapshot() -> Iterator[str]:
    """The sentences about a large file."""
    data = results_of("snapshot")

    def speed(key: str) -> str:
        return f"{data['file_bytes'] / data[key]['median'] / 1e6:,.0f} MB/s"

    def megabytes(key: str) -> str:
        return f"{data[key] / 1e6:.1f} MB"

    size = f"{data['file_bytes'] / 1e9:.2f} GB"
    yield f"| a buffer of {size} | speed | `dd` | time over `dd`'s | memory beyond the buffer |"
    yield "|---|---|---|---|---|"
    for name, plain in (("save", "dd_write_seconds"), ("load", "dd_read_seconds")):
        cells = [speed(f"{name}_seconds"), speed(plain), f"{data[f'{name}_over_dd']:.2f}"]
        yield f"| {name} | " + " | ".join(cells) + f" | {megabytes(f'{name}_extra_memory_bytes')} |"


def speeds_of(row: dict[str, Any]) -> list[str]:
    """Cells of how fast `delta` is."""
    return [
        f"{row[what]['over_raw']['median']:.2f} ({row[what]['over_floor']['median']:.2f})"
        for what in ("sample_32", "sample_512", "add")
    ]


def storage_rows() -> list[dict[str, Any]]:
    """Return random play from one run of benchmarks/storage.py and trained play from the other.

    The second run has random play, too; its raw store was slow while that was measured, which would flatter us.
    """
    runs = {"random": "storage", "policy": "storage-trained"}
    return [row for play, name in runs.items() for row in results_of(name) if row["play"] == play]


def storage() -> Iterator[str]:
    """Rows of what frames take that are kept as what changes, by game and play."""
    rows = storage_rows()
    yield "| | play | bytes a frame | a million frames | by themselves | sample 32 | sample 512 | add 8 |"
    yield "|---|---|---|---|---|---|---|---|"
    for row in sorted(rows, key=lambda row: (row["play"] == "policy", row["bytes_per_frame"])):
        size = row["bytes_per_frame"]
        cells = [row["game"].removesuffix("-v5"), row["play"], f"{size:,.0f}", f"{size / 1e3:.2f} GB"]
        yield f"| {' | '.join(cells)} | {percent(row['key_share'])} | " + " | ".join(speeds_of(row)) + " |"
    for play in ("random", "policy"):
        chosen = [row for row in rows if row["play"] == play]
        if not chosen:
            continue
        size = statistics.mean(row["bytes_per_frame"] for row in chosen)
        speeds = [
            f"{statistics.median(row[what]['over_raw']['median'] for row in chosen):.2f} "
            f"({statistics.median(row[what]['over_floor']['median'] for row in chosen):.2f})"
            for what in ("sample_32", "sample_512", "add")
        ]
        yield f"| **{len(chosen)} games** | {play} | mean {size:,.0f} | {size / 1e3:.2f} GB | | median " + (
            " | ".join(speeds) + " |"
        )


BLOCKS: dict[str, Callable[[], Iterator[str]]] = {
    "table": limits,
    "peers": costs,
    "wrong rows": wrongs,
    "snapshot": snapshot,
    "storage": storage,
}


def filled(page: str) -> str:
    """Return the page with every block between its marks made anew."""
    for name, lines in BLOCKS.items():
        start, end = f"<!-- {name}: made by benchmarks/replay_table.py -->\n", f"<!-- end of {name} -->"
        before, rest = page.split(start)
        page = before + start + "\n".join(lines()) + "\n" + end + rest.split(end, 1)[1]
    return page


def plot() -> None:
    """Draw what the two tables of libraries say, to docs/peers.svg."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    results = [result for name, result in results_of("peers").items() if name != "memcpy"][::-1]
    titles = [result["title"] for result in results]
    colors = ["tab:orange" if title.startswith("fastdqn") else "tab:gray" for title in titles]
    panels: list[tuple[str, str, Callable[[Any], float]]] = [
        ("batches of 32, share of memcpy", "{:.2f}", lambda r: r["sample_32"]["share_of_floor"]),
        ("rows added a second", "{:,.0f}", lambda r: r["add_8"]["rows_per_second"]),
        ("bytes a transition", "{:,.0f}", lambda r: r["bytes_per_transition"]),
        ("wrong observations, lives, %", "{:.1f}", lambda r: 100 * r["wrong"]["lives"]["obs"]),
    ]
    with pyplot.rc_context({"svg.hashsalt": "peers", "svg.fonttype": "none", "font.size": 8}):
        figure, axes = pyplot.subplots(2, 2, sharey=True, figsize=(10, 5), layout="constrained")
        for axis, (title, form, value) in zip(axes.flat, panels, strict=True):
            bars = axis.barh(titles, [value(result) for result in results], color=colors)
            axis.bar_label(bars, [form.format(value(result)) for result in results], padding=2)
            axis.set_title(title)
            axis.margins(x=0.15)
            axis.spines[["top", "right"]].set_visible(False)
        figure.savefig(PLOT, metadata={"Date": None})


def plot_storage() -> None:
    """Draw bytes a frame and the speed of sampling by game and play, to docs/storage.svg."""
    import matplotlib

    matplotlib.use("svg")
    from matplotlib import pyplot

    rows = {(row["game"], row["play"]): row for row in storage_rows()}
    games = sorted({game for game, _ in rows}, key=lambda game: -rows[game, "random"]["bytes_per_frame"])
    panels: list[tuple[str, Callable[[Any], float]]] = [
        ("bytes a frame (raw: 7,056)", lambda row: row["bytes_per_frame"]),
        ("samples of 32, speed over raw", lambda row: row["sample_32"]["over_raw"]["median"]),
        ("adds, speed over raw", lambda row: row["add"]["over_raw"]["median"]),
    ]
    with pyplot.rc_context({"svg.hashsalt": "storage", "svg.fonttype": "none", "font.size": 8}):
        figure, axes = pyplot.subplots(1, 3, sharey=True, figsize=(10, 4), layout="constrained")
        for axis, (title, value) in zip(axes, panels, strict=True):
            for play, color, shift in (("random", "tab:gray", 0.2), ("policy", "tab:orange", -0.2)):
                here = [(place, rows[game, play]) for place, game in enumerate(games) if (game, play) in rows]
                places = [place + shift for place, _ in here]
                axis.barh(places, [value(row) for _, row in here], height=0.4, color=color, label=play)
            axis.set_yticks(range(len(games)), [game.removesuffix("-v5") for game in games])
            axis.set_title(title)
            axis.spines[["top", "right"]].set_visible(False)
        axes[0].legend(frameon=False)
        for axis in axes[1:]:
            axis.axvline(1, color="black", linewidth=0.8)
        figure.savefig(STORAGE_PLOT, metadata={"Date": None})


def main() -> None:
    """Write the tables and the plots, or with --check compare the tables."""
    text = PAGE.read_text()
    new = filled(text)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if new == text else "docs/replay.md does not have the figures of benchmarks/results")
    PAGE.write_text(new)
    plot()
    plot_storage()


if __name__ == "__main__":
    main()
