"""Make the tables and the plot of docs/replay.md from replay.json, peers.json and snapshot.json in results/.

python benchmarks/replay_table.py          # writes the tables between their marks, and docs/peers.svg
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
SETTINGS = ("lives", "games", "truncation")


def results_of(name: str) -> dict[str, Any]:
    """Return the results of a committed JSON file."""
    data: dict[str, Any] = json.loads((ROOT / "benchmarks" / "results" / f"{name}.json").read_text())
    return data["results"]


def target_of(name: str) -> str:
    """What was aimed at; an empty text where nothing was."""
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


BLOCKS: dict[str, Callable[[], Iterator[str]]] = {
    "table": limits,
    "peers": costs,
    "wrong rows": wrongs,
    "snapshot": snapshot,
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


def main() -> None:
    """Write the tables and the plot, or with --check compare the tables."""
    text = PAGE.read_text()
    new = filled(text)
    if "--check" in sys.argv[1:]:
        sys.exit(0 if new == text else "docs/replay.md does not have the figures of benchmarks/results")
    PAGE.write_text(new)
    plot()


if __name__ == "__main__":
    main()
