"""Draw the dashboard of a finished run: python docs/make_dashboard_picture.py RUN OUT.svg [FRAMES]."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from fastdqn.config import Config
from fastdqn.dashboard import History, snapshot_from_row, to_svg

WIDTH = 92  # columns


def main() -> None:
    """Replay the rows of metrics.jsonl up to FRAMES, or all, and draw what the terminal would show then."""
    run, out = Path(sys.argv[1]), Path(sys.argv[2])
    until = int(sys.argv[3]) if len(sys.argv) > 3 else sys.maxsize
    config = Config.from_json((run / "config.json").read_text())
    history = History(f"{config.game} {config.preset}, seed {config.seed}")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    snapshots = [snapshot_from_row(row) for row in rows if row["frames"] <= until]
    for snapshot in snapshots:
        history.add(snapshot)
    to_svg(snapshots[-1], history, out, WIDTH)


if __name__ == "__main__":
    main()
