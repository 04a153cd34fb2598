"""What does exact resume cost with a full replay of a million frames, and is it exact?

    python benchmarks/resume.py --folder runs --out benchmarks/results/resume.json

The preset `nature` plays at random until its replay is full and has begun to wrap, and then learns. In the middle
of that it saves a checkpoint, as every run does, and goes on; a copy of the folder as it was then is resumed in a
new process. Both must leave the same bits. Measured are the seconds of saving and loading the checkpoint, its
bytes, and the most memory of each process. It takes some twenty minutes and up to 4 GB of disk; the runs are
deleted in the end.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import multiprocessing
import resource
import shutil
import tempfile
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import common

from fastdqn.config import Config
from fastdqn.presets import PRESETS
from fastdqn.runs import checkpoint, resume
from fastdqn.runs.build import keeps_replay
from fastdqn.runs.folder import RunFolder
from fastdqn.runs.memory import storage
from fastdqn.runs.trainer import train


def configuration(game: str, frames: int, storage: Any) -> Config:
    """Return `nature`, which learns once `frames` steps were taken, and ends 2,000 steps later."""
    config = PRESETS["nature"].config
    return replace(
        config,
        game=game,
        total_frames=config.env.frame_skip * (frames + 2_000),
        replay=replace(config.replay, capacity=frames, warmup_steps=frames, storage=storage),
        checkpoint=replace(config.checkpoint, every_frames=config.env.frame_skip * (frames + 1_000)),
    )


def work(folder: Path, config: Config, copy: Path | None) -> dict[str, Any]:
    """Begin a run, or go on with the one that is there; return what it took.

    Args:
        folder: The run's.
        config: What a new one computes.
        copy: Where the folder is copied to once its first checkpoint is saved.
    """
    taken: dict[str, list[float]] = {"save": [], "load": []}
    save, load = resume.save, resume.load

    def timed(name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        def call(*args: Any, **options: Any) -> Any:
            begin = time.perf_counter()
            result = function(*args, **options)
            taken[name].append(time.perf_counter() - begin)
            if name == "save" and copy and not copy.exists():
                shutil.copytree(folder, copy)
            return result

        return call

    resume.save, resume.load = timed("save", save), timed("load", load)
    resuming = folder.exists()
    run = RunFolder.open(folder) if resuming else RunFolder.create(folder, config)
    begin = time.perf_counter()
    train(run, resume=resuming)
    return {
        "seconds": time.perf_counter() - begin,
        "save_seconds": taken["save"],
        "load_seconds": taken["load"],
        "peak_bytes": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024,
    }


def apart(*args: Any) -> dict[str, Any]:
    """Do it in a process that has nothing else."""
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        return pool.apply(work, args)


def left_by(run: RunFolder) -> dict[str, Any]:
    """Return what a run left but for times: its last checkpoint and its rows."""
    saved = checkpoint.load(checkpoint.newest(run.checkpoints))
    state = dict(saved.state)
    del state["marks"]["saved"], state["versions"]
    rows = [json.loads(line) for line in run.metrics.read_text().splitlines()]
    assert saved.replay
    with saved.replay.open("rb") as file:
        replay = hashlib.file_digest(file, "sha256").hexdigest()
    return {
        # Not of files: the order of what is said of tensors is by chance.
        "tensors": {name: tensor.numpy().tobytes() for name, tensor in saved.tensors.items()},
        "replay": replay,
        "state": state,
        "rows": [{name: value for name, value in row.items() if name != "timing"} for row in rows],
    }


def measure(folder: Path, game: str, frames: int, storage_wanted: str) -> dict[str, Any]:
    """Run both, compare them, and return the figures."""
    config = configuration(game, frames, storage_wanted)
    if not keeps_replay(config):
        raise SystemExit(f"resume.py: checkpoints of {frames:,} frames in that storage keep no replay")
    whole = apart(folder / "whole", config, folder / "copy")
    last = checkpoint.newest(folder / "copy" / "checkpoints")
    sizes = {path.name: path.stat().st_size for path in last.iterdir()}
    resumed = apart(folder / "copy", config, None)
    one, other = (left_by(RunFolder.open(folder / name)) for name in ("whole", "copy"))
    row = one["rows"][-1]
    return {
        "storage": storage(config),
        "files_bytes": sizes,
        "replay": {name: value for name, value in row.items() if name.startswith("replay_")},
        "updates": row["updates"],
        "whole": whole,
        "resumed": resumed,
        "equal": {name: one[name] == other[name] for name in one},
    }


def main() -> None:
    """Measure, print the figures, and write the JSON."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--game", default="Breakout-v5", help="EnvPool's name")
    parser.add_argument("--frames", type=int, default=1_000_000, help="capacity of the replay")
    parser.add_argument("--storage", default="auto", choices=("auto", "raw", "delta"), help="of the replay")
    parser.add_argument("--folder", type=Path, default=Path(), help="where the runs are made for a time")
    parser.add_argument("--out", type=Path, help="file for the figures; standard output without it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder:
        results = measure(Path(folder), arguments.game, arguments.frames, arguments.storage)
    settings = {"game": arguments.game, "frames": arguments.frames}
    common.write("resume", settings, results, arguments.out)


if __name__ == "__main__":
    main()
