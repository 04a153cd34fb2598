"""Draw the dashboard as an SVG.

python docs/make_dashboard_picture.py RUN OUT.svg [FRAMES]   what a terminal would show of a finished run
python docs/make_dashboard_picture.py CAPTURE OUT.svg        what a terminal showed

A capture is the text and the colours of a real terminal:

tmux new-session -d -s pong -x 80 -y 24 'fastdqn train Pong-v5'
tmux capture-pane -e -p -t pong > CAPTURE
"""

from __future__ import annotations

import io
import json
import sys
from pathlib import Path

from rich.console import Console
from rich.text import Text

from fastdqn.config import Config
from fastdqn.views.dashboard import PAPER, History, snapshot_from_row, to_svg

WIDTH = 92  # columns


def main() -> None:
    """Draw a run or a capture, whichever the first argument is."""
    source, out = Path(sys.argv[1]), Path(sys.argv[2])
    if source.is_dir():
        draw_run(source, out, int(sys.argv[3]) if len(sys.argv) > 3 else sys.maxsize)
    else:
        draw_capture(source.read_text(), out)


def draw_run(run: Path, out: Path, until: int) -> None:
    """Replay the rows of metrics.jsonl up to frame `until`."""
    config = Config.from_json((run / "config.json").read_text())
    history = History(f"{config.game} {config.preset}, seed {config.seed}")
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    snapshots = [snapshot_from_row(row) for row in rows if row["frames"] <= until]
    for snapshot in snapshots:
        history.add(snapshot)
    to_svg(snapshots[-1], history, out, WIDTH)


def draw_capture(capture: str, out: Path) -> None:
    """Draw text with the escape sequences of a terminal; the first word of it is the game."""
    text = Text.from_ansi(capture.rstrip("\n"))
    width = max(line.cell_len for line in text.split("\n"))
    columns = next(usual for usual in (80, 120, width) if width <= usual)
    console = Console(
        file=io.StringIO(),
        record=True,
        width=columns,
        force_terminal=True,
        color_system="truecolor",
        no_color=False,
    )
    console.print(text)
    game = text.plain.split()[0]
    console.save_svg(str(out), title=f"fastdqn train {game}, {columns} columns", theme=PAPER)


if __name__ == "__main__":
    main()
