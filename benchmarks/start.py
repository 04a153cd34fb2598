"""How long a run takes to begin: seconds from the command to its first update.

    python benchmarks/start.py --out benchmarks/results/start.json

Each start is `fastdqn train` in an empty folder, read by its JSON lines, four a second, and stopped at the first
that has an update. So a figure is late by a quarter of a second at most, or, where the network chooses an action
before that line is written, by the seconds in which acting is compiled. The first start of each turn has an empty
cache of PyTorch's compiler, the others what that one left.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import asdict, dataclass
from pathlib import Path

import common
import tyro


@dataclass(frozen=True)
class Settings:
    """Starts of a preset."""

    preset: str = "quick"
    """Which."""
    game: str = "Pong-v5"
    """The game."""
    turns: int = 3
    """Each is a first start and two later ones."""
    flags: str = ""
    """More of the command's words."""
    out: Path | None = None
    """File for the figures; standard output without it."""


def seconds_to_first_update(settings: Settings, folder: Path, cache: Path) -> float:
    """Start a run in an empty folder, and stop it at its first update."""
    words = [
        "train",
        settings.game,
        "--preset",
        settings.preset,
        "--run-dir",
        str(folder),
        *settings.flags.split(),
    ]
    command = [str(Path(sys.executable).with_name("fastdqn")), *words, "--progress", "json"]
    began = time.perf_counter()
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "TORCHINDUCTOR_CACHE_DIR": str(cache)},
    ) as process:
        assert process.stderr
        said = []
        for line in process.stderr:
            said.append(line)
            if line.startswith("{") and json.loads(line).get("snapshot", {}).get("updates"):
                taken = time.perf_counter() - began
                process.send_signal(signal.SIGTERM)
                process.communicate()
                return taken
    raise SystemExit(f"{' '.join(command)} ended with {process.returncode}:\n{''.join(said)[-2000:]}")


def main(settings: Settings) -> None:
    """Time starts in turns; print and write them."""
    first, later = [], []
    for turn in range(settings.turns):
        with tempfile.TemporaryDirectory() as folder:
            cache = Path(folder, "cache")
            starts = [
                seconds_to_first_update(settings, Path(folder, f"run-{number}"), cache) for number in range(3)
            ]
        first.append(starts[0])
        later += starts[1:]
        print(f"turn {turn + 1}: first {starts[0]:.1f} s, later {starts[1]:.1f} and {starts[2]:.1f} s")
    results = {"first_seconds": common.spread(first), "later_seconds": common.spread(later)}
    common.write("start", {**asdict(settings), "out": None}, results, settings.out)


if __name__ == "__main__":
    main(tyro.cli(Settings, description=__doc__))
