"""Make the table of docs/replay.md from benchmarks/results/replay.json.

python benchmarks/replay_table.py          # writes it between the two table marks
python benchmarks/replay_table.py --check  # exit code 1 if the file says something else
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "replay.md"
START, END = "<!-- table: made by benchmarks/replay_table.py -->\n", "<!-- end of table -->"


def target_of(name: str) -> str:
    """What was aimed at; an empty text where nothing was."""
    if name.startswith("bytes"):
        return "at most 7,090"
    if name.startswith("add"):
        return "200,000 rows/s or 0.25"
    if name.startswith("sample + update 32"):
        return "0.75"
    return "" if "update" in name else "0.9"


def table() -> str:
    """Return the rows in Markdown."""
    results = json.loads((ROOT / "benchmarks" / "results" / "replay.json").read_text())["results"]
    lines = ["| | calls/s | share of the floor | target |", "|---|---|---|---|"]
    for name, result in results.items():
        if isinstance(result, float):
            lines.append(f"| {name} | {result:,.0f} | | {target_of(name)} |")
            continue
        rate, share = result["calls_per_second"]["median"], result["share_of_floor"]
        lines.append(f"| {name} | {rate:,.0f} | {share:.2f} | {target_of(name)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write the table, or with --check compare it."""
    text = PAGE.read_text()
    before, rest = text.split(START)
    new = before + START + table() + END + rest.split(END)[1]
    if "--check" in sys.argv[1:]:
        sys.exit(0 if new == text else "docs/replay.md does not have the figures of replay.json")
    PAGE.write_text(new)


if __name__ == "__main__":
    main()
